"""A file that is cut, emptied, flipped or of another kind is named in one line, and never gives other figures."""

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Image
from forking import run_forked
from recipe_commands import ENVIRONMENT, ROOT
from small_run import make_predictions, write_small_run
from tiny_model import tiny_pictures

from emor3_trl.checkpoints import check_checkpoint, check_model_path, find_base
from emor3_trl.checksums import CHECKSUMS, MODEL_FILES, find_changed, find_missing, write_checksums
from emor3_trl.damage import find_damage
from emor3_trl.data import load_split, write_split
from emor3_trl.evaluation.journal import append_to_journal, read_journal
from emor3_trl.evaluation.prediction import Prediction, load_predictions, save_predictions
from emor3_trl.files import read_mapping, write_json
from emor3_trl.report.evaluated import choose_in_domain, load_evaluations
from emor3_trl.report.terminal import check_summary, summarise_run
from emor3_trl.run.folder import RunFolder
from emor3_trl.run.memory import count_prompt_tokens

HARMS: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: b"\0" * len(content),
    "no UTF-8": lambda content: content[:-9] + b"\xff\xfe" + content[-7:],
    "a list": lambda content: b"[1, 2]\n",
    "a number": lambda content: b"7\n",
}
harms = pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())


def flip(content: bytes, place: int, bits: int) -> bytes:
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


def read_rows(dataset: Dataset) -> list[dict[str, Any]]:
    """Return rows with the bytes of their images."""
    return [
        {name: row[name] for name in ("id", "emotion", "label_space", "source", "image")}
        for row in dataset.cast_column("image", Image(decode=False))
    ]


def read_stored(journal: Path) -> list[Prediction]:
    return [Prediction(**row) for row in read_journal(journal, [f"test-{number}" for number in range(5)])]


def write_journal(journal: Path, rows: list[Prediction]) -> None:
    for start in range(0, len(rows), 2):
        append_to_journal(journal, rows[start : start + 2])


@pytest.mark.parametrize(
    ("write", "read"),
    [
        pytest.param(lambda path, rows: save_predictions(rows, path), load_predictions, id="predictions"),
        pytest.param(write_journal, read_stored, id="journal"),
    ],
)
def test_no_flipped_byte_gives_other_predictions(tmp_path: Path, write: Callable, read: Callable) -> None:
    """Every byte of a journal, every third of a Parquet file: named, or read as it was, or cut off and made anew."""
    rows, path = make_predictions("base", "test"), tmp_path / "file"
    write(path, rows)
    content = path.read_bytes()
    named = 0
    for place in range(0, len(content), 3 if write is not write_journal else 1):
        path.write_bytes(flip(content, place, 1 << place % 8))
        with suppress(ValueError):
            predictions = read(path)
            assert predictions == rows[: len(predictions)]
            assert len(predictions) == 5 or write is write_journal
            continue
        named += 1
        with pytest.raises(ValueError, match=f"(?s)'{path}' cannot be read .* Delete "):
            read(path)
    assert named > 100


@harms
@pytest.mark.parametrize("name", ["metrics.json", "environment.json", "config.yaml"])
def test_a_damaged_record_of_a_run_is_named(tmp_path: Path, name: str, harm: Callable[[bytes], bytes]) -> None:
    values, sources = {"learning_rate": 1.0}, {"training data": "abc"}
    folder = RunFolder(tmp_path, values, sources=sources)
    folder.begin()
    folder.write_metrics({"loss": 1.0})
    assert RunFolder(tmp_path, values, sources=sources).is_finished
    (tmp_path / name).write_bytes(harm((tmp_path / name).read_bytes()))
    with pytest.raises((ValueError, FileExistsError), match=name) as raised:
        RunFolder(tmp_path, values, sources=sources)
    assert "--overwrite" in str(raised.value)
    RunFolder(tmp_path, values, overwrite=True, sources=sources).begin()


@harms
def test_damaged_settings_of_an_adapter_or_of_data_are_named(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": "base"})
    write_json(tmp_path / "manifest.json", {"max_pixels": 784})
    values = {"data": tmp_path, "max_completion_length": 8}
    assert find_base(tmp_path) == "base"
    assert count_prompt_tokens(values) == 201
    for name in ("adapter_config.json", "manifest.json"):
        (tmp_path / name).write_bytes(harm((tmp_path / name).read_bytes()))
    with pytest.raises(ValueError, match=r"adapter_config\.json' is no JSON"):
        find_base(tmp_path)
    with pytest.raises(ValueError, match=r"manifest\.json' is no JSON .* Prepare the data again"):
        count_prompt_tokens(values)


def test_an_adapter_that_names_no_base_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", {})
    with pytest.raises(ValueError, match="names no base_model_name_or_path"):
        find_base(tmp_path)


def test_weights_that_are_cut_off_start_no_run(tmp_path: Path, tiny_model_dir: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    check_model_path(str(file.parent))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors' is not whole"):
        check_model_path(str(file.parent))


@pytest.mark.parametrize("check", [check_model_path, check_checkpoint])
def test_one_changed_bit_in_a_file_that_a_run_saved_starts_no_other_run(
    tmp_path: Path, tiny_model_dir: Path, check: Callable
) -> None:
    model = tmp_path / "run"
    shutil.copytree(tiny_model_dir, model)
    write_json(model / "trainer_state.json", {"log_history": []})
    write_checksums(model, MODEL_FILES)
    check(str(model))
    saved = sorted(path for path in model.iterdir() if path.name not in ("generation_config.json", CHECKSUMS))
    assert {"model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"} <= {
        path.name for path in saved
    }
    for file in saved:
        content = file.read_bytes()
        file.write_bytes(flip(content, len(content) // 2, 1))
        with pytest.raises(ValueError, match=file.name) as raised:
            check(str(model))
        assert str(raised.value).count("\n") == 0
        file.write_bytes(content)
    (model / "wandb_dashboard.json").write_text("{}")  # written later, as a model's card is
    (model / "README.md").write_text("A card")
    check(str(model))
    (model / "tokenizer.json").write_text((model / "tokenizer.json").read_text() + "\n")
    with pytest.raises(ValueError, match=rf"If you changed it on purpose, delete its {CHECKSUMS}\."):
        check(str(model))
    (model / CHECKSUMS).unlink()
    check(str(model))


def test_a_finished_run_has_checksums_of_its_models_alone(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = RunFolder(tmp_path / "run", {})
    folder.begin()
    shutil.copytree(tiny_model_dir, tmp_path / "run", dirs_exist_ok=True)
    shutil.copytree(tiny_model_dir, tmp_path / "run" / "merged")
    folder.write_metrics({"loss": 1.0})
    for model in (tmp_path / "run", tmp_path / "run" / "merged"):
        listed = set(read_mapping(model / CHECKSUMS, "")["files"])
        assert listed == {path.name for path in tiny_model_dir.iterdir()} - {"generation_config.json"}
    evaluation = RunFolder(tmp_path / "evaluation", {})
    evaluation.begin()
    evaluation.write_metrics({"accuracy": 1.0})
    assert not (tmp_path / "evaluation" / CHECKSUMS).exists()


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_a_damaged_list_of_checksums_is_named(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write_checksums(tmp_path)
    assert find_changed(tmp_path) is None
    (tmp_path / CHECKSUMS).write_bytes(harm((tmp_path / CHECKSUMS).read_bytes()))
    assert CHECKSUMS in (find_changed(tmp_path) or "")
    assert CHECKSUMS in (find_missing(tmp_path) or "")


def test_no_flipped_byte_gives_other_training_data(tmp_path: Path) -> None:
    """Every 31st byte of a split, and every third of its last 300: refused, or read as it was."""
    rows = [
        {"id": f"{place}", "image": picture, "emotion": ("awe", "fear")[place % 2], "label_space": ["awe", "fear"],
         "source": "made"}
        for place, picture in enumerate(tiny_pictures(2))
    ]  # fmt: skip
    file = write_split(tmp_path, "train", rows)
    content, expected = file.read_bytes(), read_rows(load_split(tmp_path, "train"))
    refused = 0
    for place in sorted({*range(0, len(content), 31), *range(len(content) - 300, len(content), 3)}):
        file.write_bytes(flip(content, place, 1 << place % 8))
        with suppress(ValueError):
            loaded = load_split(tmp_path, "train")
            assert read_rows(loaded) == expected
            continue
        refused += 1
        with pytest.raises(ValueError, match=str(file)):
            load_split(tmp_path, "train")
    assert refused > len(content) / 31 / 2


@pytest.mark.parametrize(
    "state",
    ["[1]", "7", "{}", '{"global_step": 3}', '{"global_step": 4, "log_history": 5}', '{"global_step": 4, "lot": 1}'],
)
def test_a_trainer_state_that_is_not_of_its_checkpoint_is_damage(tmp_path: Path, state: str) -> None:
    checkpoint = tmp_path / "checkpoint-4"
    write_json(checkpoint / "trainer_state.json", {"global_step": 4, "log_history": []})
    assert find_damage(checkpoint) is None
    (checkpoint / "trainer_state.json").write_text(state)
    assert "trainer_state.json" in str(find_damage(checkpoint))


def read_report(run: Path) -> Any:
    evaluations = load_evaluations([run])
    in_domain = choose_in_domain(evaluations, None)[0][0]
    summary = summarise_run(run / "evaluation", in_domain)
    check_summary(summary, evaluations, in_domain)
    return summary, evaluations


REPORTED = ["evaluation/base/metrics.json", "evaluation/base/predictions.parquet", "emo_r3/trainer_state.json"]
REPORTED += ["evaluation/base/config.yaml", "evaluation/base/environment.json"]


@pytest.mark.parametrize("name", REPORTED)
@harms
def test_a_damaged_file_of_a_report_is_named(tmp_path: Path, name: str, harm: Callable[[bytes], bytes]) -> None:
    run = write_small_run(tmp_path)
    file = run / name
    if not file.is_file():
        file.write_text('{"started": "2026-01-12"}')  # JSON is YAML
    read_report(run)
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(ValueError, match=file.name):
        read_report(run)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"eval/test/accuracy": 0.9}, id="another figure"),
        pytest.param({"eval/test/accuracy": "0.8"}, id="text"),
        pytest.param({"eval/test/format_rate": None}, id="none"),
        pytest.param({"eval/test/accuracy_low": float("nan")}, id="no number"),
    ],
)
def test_figures_that_the_predictions_do_not_give_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    file = write_small_run(tmp_path) / "evaluation" / "base" / "metrics.json"
    write_json(file, read_mapping(file, "") | change)
    with pytest.raises(ValueError, match=r"base/metrics\.json' (says|holds no number)"):
        read_report(tmp_path)


@pytest.mark.parametrize("log", [{"log_history": 5}, {"log_history": [1]}, {"log_history": [{"reward": "x"}]}, {}])
def test_a_log_of_another_kind_is_named(tmp_path: Path, log: Any) -> None:
    run = write_small_run(tmp_path)
    write_json(run / "emo_r3" / "trainer_state.json", log)
    with pytest.raises(ValueError, match=r"emo_r3/trainer_state\.json' cannot be read as a log of training"):
        read_report(run)


@pytest.mark.parametrize("name", REPORTED[:3])
def test_the_recipe_says_it_in_one_line(tmp_path: Path, name: str) -> None:
    file = write_small_run(tmp_path) / name
    file.write_bytes(file.read_bytes()[:-20])
    command = [sys.executable, str(ROOT / "recipes" / "report.py"), str(tmp_path)]
    done = run_forked(command, tmp_path, ENVIRONMENT, timeout=300)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert [name in line for line in done.stderr.splitlines() if "error:" in line] == [True]

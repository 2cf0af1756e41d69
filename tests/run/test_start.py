"""How both training recipes start: what is missing is named, and a finished run is left alone."""

from pathlib import Path

import pytest
from datasets import Dataset
from trl import ModelConfig

from emor3_trl.config import EmoR3Config
from emor3_trl.data import write_split
from emor3_trl.run.arguments import GRPOArguments, RunArguments
from emor3_trl.run.command_line import Parsed, parse_arguments
from emor3_trl.run.start import count_samples, load_validation, open_run


def parse_run(folder: Path, model: Path, *flags: str) -> Parsed:
    settings = {
        "data": folder / "data",
        "output_dir": folder / "run",
        "model_name_or_path": model,
        "bf16": "false",
        "use_cpu": "true",
        "use_vllm": "false",
        "report_to": "none",
    }
    argv = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return parse_arguments((RunArguments, ModelConfig, EmoR3Config), argv=[*argv, *flags])


@pytest.fixture
def place(tmp_path: Path, training_rows: Dataset) -> Path:
    write_split(tmp_path / "data", "train", training_rows)
    return tmp_path


def test_a_new_run_has_its_rows_its_processor_and_its_folder(place: Path, tiny_model_dir: Path) -> None:
    parsed = parse_run(place, tiny_model_dir, "--max_samples", "3", "--prompt_style", "set", "--dtype", "bfloat16")
    opened = open_run(parsed)
    assert opened is not None
    assert len(opened.train) == 3
    assert "<step1>" in opened.train[0]["prompt"][0]["content"]
    assert opened.processor.tokenizer.padding_side == "left"
    assert parsed.arguments[2].model_init_kwargs == {
        "dtype": "bfloat16", "revision": "main", "use_safetensors": True, "trust_remote_code": False,
    }  # fmt: skip
    assert not (place / "run").exists()  # nothing is written before all is checked


def test_a_finished_run_is_said_and_not_opened(
    place: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    first = open_run(parse_run(place, tiny_model_dir))
    assert first is not None
    first.folder.begin()
    first.folder.write_metrics({"reward": 1.0})
    assert open_run(parse_run(place, tiny_model_dir)) is None
    assert "already finished with this configuration, nothing to do" in capsys.readouterr().out
    assert open_run(parse_run(place, tiny_model_dir, "--overwrite")) is not None


def test_new_data_under_the_old_name_is_another_run(place: Path, tiny_model_dir: Path, training_rows: Dataset) -> None:
    first = open_run(parse_run(place, tiny_model_dir))
    assert first is not None
    first.folder.begin()
    (place / "run" / "checkpoint-1").mkdir()
    write_split(place / "data", "train", training_rows.select(range(4)))
    with pytest.raises(FileExistsError, match="the training data changed"):
        open_run(parse_run(place, tiny_model_dir))


def test_a_changed_reward_is_another_run(
    place: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(place)
    text = "def brief(completions, **columns):\n    return [float(len(text) < 9) for text in completions]\n"
    Path("own.py").write_text(text)
    flags = ["--rewards", "accuracy", "own.py:brief", "--reward_weights", "0.9", "0.1"]
    first = open_run(parse_run(place, tiny_model_dir, *flags))
    assert first is not None
    first.folder.begin()
    (place / "run" / "checkpoint-1").mkdir()
    assert open_run(parse_run(place, tiny_model_dir, *flags)) is not None
    Path("own.py").write_text(text.replace("9", "8"))
    with pytest.raises(FileExistsError, match=r"different: the reward file own\.py changed\. Choose another --output"):
        open_run(parse_run(place, tiny_model_dir, *flags))
    Path("own.py").write_text(text)
    with pytest.raises(FileExistsError, match=r"reward_weights was \[0\.9, 0\.1\], now \[0\.8, 0\.2\]"):
        open_run(parse_run(place, tiny_model_dir, *flags[:-2], "0.8", "0.2"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--model_name_or_path", "runs/nowhere"], "'runs/nowhere' does not exist", id="model"),
        pytest.param(["--data", "nowhere"], "no data folder nowhere", id="data"),
        pytest.param(["--train_split", "trian"], "no split 'trian'", id="split"),
    ],
)
def test_what_is_missing_is_named(place: Path, tiny_model_dir: Path, flags: list[str], message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        open_run(parse_run(place, tiny_model_dir, *flags))


def test_samples_are_counted_where_no_data_is_prepared_yet(tmp_path: Path) -> None:
    assert count_samples(RunArguments(data=str(tmp_path / "later"), max_samples=2000)) == 2000
    with pytest.raises(FileNotFoundError, match="no data folder"):
        count_samples(RunArguments(data=str(tmp_path / "later")))


def test_two_validation_splits_of_the_same_name_are_refused(tmp_path: Path, training_rows: Dataset) -> None:
    places = [tmp_path / folder / "data" for folder in ("one", "two")]
    for place in places:
        write_split(place, "test", training_rows)
    first, second = (str(place / "test") for place in places)
    args = EmoR3Config(str(tmp_path / "run"), bf16=False, use_cpu=True, report_to="none")
    one, both = (
        GRPOArguments(data=str(places[0]), validation_splits=splits) for splits in (["test", second], [first, second])
    )
    assert load_validation(one, args).keys() == {"test", "data_test"}
    with pytest.raises(ValueError, match="validation_splits names two data sets 'data_test'"):
        load_validation(both, args)
    args.metric_for_best_model = "reward"
    with pytest.raises(ValueError, match="Leave metric_for_best_model unset"):
        load_validation(one, args)
    assert load_validation(GRPOArguments(data=str(places[0])), args) == {}

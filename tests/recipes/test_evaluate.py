"""recipes/evaluate.py as a user starts it: adapters, other label spaces, a kill in the middle, mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forking import run_forked
from tiny_model import tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.checkpoints import check_checkpoint, check_fit, estimate_room, whole_checkpoint
from emor3_trl.context_length import longest_prompt, prompt_lengths
from emor3_trl.data import load_split, write_split
from emor3_trl.emotions import EMOSET_8, EMOTION6
from emor3_trl.evaluation.arguments import check_folders
from emor3_trl.evaluation.prediction import load_predictions
from emor3_trl.files import check_room

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
COMMAND = [sys.executable, str(ROOT / "recipes" / "evaluate.py")]


def evaluate(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [*COMMAND, *arguments]
    return run_forked(command, folder, ENVIRONMENT, timeout=600)


def write_data(folder: Path, labels: tuple[str, ...], count: int = 10) -> None:
    rows = [
        {"id": str(i), "image": picture, "emotion": labels[i % len(labels)], "label_space": labels, "source": "made"}
        for i, picture in enumerate(tiny_pictures(count))
    ]
    write_split(folder, "test", rows)


@pytest.fixture
def place(tmp_path, tiny_model_dir):
    """A folder with a model, a LoRA adapter on it, and two data sets with eight and six labels."""
    from peft import LoraConfig, get_peft_model

    shutil.copytree(tiny_model_dir, tmp_path / "model")
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")  # as PEFT saves it: no processor beside it
    write_data(tmp_path / "data" / "emoset", EMOSET_8.labels)
    write_data(tmp_path / "data" / "emotion6", EMOTION6.labels)
    return tmp_path


ARGUMENTS = ["--data", "data/emoset", "data/emotion6", "--engine", "transformers", "--max_tokens", "8"]


@pytest.mark.slow
def test_a_model_and_its_adapter_on_two_label_spaces_are_compared(place):
    result = evaluate(
        place, "--model", "base=model", "lora=adapter", *ARGUMENTS, "--sampled", "2", "--temperature", "0.7"
    )
    assert result.returncode == 0, result.stderr
    metrics = {
        name: json.loads((place / "runs/evaluation" / name / "metrics.json").read_text()) for name in ("base", "lora")
    }
    for values in metrics.values():
        assert values["eval/emoset/n"] == values["eval/emotion6/n"] == 10
        assert values["eval/mean/overall"] == (values["eval/emoset/accuracy"] + values["eval/emotion6/accuracy"]) / 2
        assert values["eval/mean/in_domain"] == values["eval/emoset/accuracy"]
        assert values["eval/emoset/sampled_n"] == 20
    comparisons = json.loads((place / "runs/evaluation/comparisons.json").read_text())
    assert [(row["a"], row["b"], row["dataset"], row["n"]) for row in comparisons] == [
        ("base", "lora", "emoset", 10),
        ("base", "lora", "emotion6", 10),
    ]
    rows = {name: load_predictions(place / "runs/evaluation" / name / "predictions.parquet") for name in metrics}
    assert {tuple(row.label_space) for row in rows["lora"]} == {EMOSET_8.labels, EMOTION6.labels}
    assert [row.completion for row in rows["base"]] != [row.completion for row in rows["lora"]]
    for name in ("confusion_emoset.png", "confusion_emotion6.png", "confusion.json", "sampled_predictions.parquet"):
        assert (place / "runs/evaluation/lora" / name).is_file()
    assert not (place / "runs/evaluation/lora/unfinished").exists()
    assert result.stdout.count("accuracy") == 4
    again = evaluate(
        place, "--model", "base=model", "lora=adapter", *ARGUMENTS, "--sampled", "2", "--temperature", "0.7"
    )
    assert again.stdout.count("already finished") == 2


@pytest.mark.parametrize(
    ("engine", "phase"),
    [
        pytest.param("transformers", "test.jsonl", marks=pytest.mark.long),
        pytest.param("vllm", "test.sampled.jsonl", marks=pytest.mark.slow),
    ],
)
def test_killed_and_restarted_it_equals_an_uninterrupted_one(place, engine, phase):
    arguments = ["--model", "model", "--data", "data/emoset", "--engine", engine, "--max_tokens", "8"]
    arguments += ["--batch_size", "2", "--sampled", "2"]
    folders = {name: place / name / "model" for name in ("whole", "killed")}
    whole = evaluate(place, *arguments, "--output_dir", "whole")
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--output_dir", "killed"], cwd=place, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    journal = folders["killed"] / "unfinished" / phase
    deadline = time.monotonic() + 120
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folders["killed"] / "metrics.json").exists()
    finished = journal.read_bytes()
    resumed = evaluate(place, *arguments, "--output_dir", "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert finished.count(b"\n") < 5
    for name in ("predictions.parquet", "sampled_predictions.parquet"):
        assert load_predictions(folders["killed"] / name) == load_predictions(folders["whole"] / name)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders.values()]
    assert metrics[0] | {"eval/seconds": 0} == metrics[1] | {"eval/seconds": 0}


def test_a_mistake_is_one_line_and_exit_code_2(place):
    result = evaluate(place, "--model", "model", "--data", "data/nothing")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("evaluate.py: error: There is no data folder data/nothing.")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        pytest.param({"model": "runs/model"}, "holds the model 'runs/model'", id="the model itself"),
        pytest.param({"a": "runs/a/merged"}, "holds the model 'runs/a/merged'", id="a model within"),
        pytest.param({"trained": "elsewhere"}, "holds a run that is no evaluation", id="another run"),
    ],
)
def test_an_evaluation_is_never_written_over_a_model(tmp_path, monkeypatch, models, message):
    monkeypatch.chdir(tmp_path)
    for folder, config in (("trained", "lr: 1"), ("evaluated", "model_fingerprint: abc")):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        (tmp_path / "runs" / folder / "config.yaml").write_text(config)
    check_folders("runs", {"evaluated": "elsewhere", "new": "models/new"})
    with pytest.raises(FileExistsError, match=message):
        check_folders("runs", models)


def test_a_prompt_that_leaves_no_room_is_found_before_a_model_loads(place):
    data = load_split(place / "data" / "emotion6", "test")
    processor, context = check_fit(place / "model")
    longest = longest_prompt({"emotion6": data}, processor, context, 8)
    assert longest == max(prompt_lengths(data, processor))
    with pytest.raises(ValueError, match=rf"of emotion6 has {longest} and max_tokens is 8\. Set --max_tokens 7,"):
        longest_prompt({"emotion6": data}, processor, longest + 7, 8)
    with pytest.raises(ValueError, match="Prepare the pictures with fewer pixels"):
        longest_prompt({"emotion6": data}, processor, longest, 8)


def test_weights_that_are_cut_off_are_named(place):
    file = place / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors' is not whole"):
        check_checkpoint(place / "model")


def test_a_model_that_the_hub_does_not_give_is_named():
    with pytest.raises(OSError, match=r"(?s)The model 'nobody/nothing' cannot be loaded .* download the model first"):
        check_fit("nobody/nothing")


def test_an_adapter_needs_its_base(place):
    check_checkpoint(place / "adapter")
    check_fit(place / "adapter")
    (place / "model").rename(place / "moved")
    with pytest.raises(FileNotFoundError, match=r"base of the adapter .* set --base_model"):
        check_checkpoint(place / "adapter")
    check_checkpoint(place / "adapter", str(place / "moved"))
    check_fit(place / "adapter", str(place / "moved"))


def test_a_merged_adapter_that_a_kill_left_behind_is_removed(place):
    scratch = place / "scratch"
    (scratch / "keep").mkdir(parents=True)
    with whole_checkpoint(place / "adapter", scratch=scratch) as folder:
        shutil.copytree(folder, f"{folder}-of-a-killed-one")
    with whole_checkpoint(place / "adapter", scratch=scratch) as folder:
        assert [path for path in scratch.iterdir() if path.name != "keep"] == [Path(folder)]
    assert [path.name for path in scratch.iterdir()] == ["keep"]


def _edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: _edit(folder / "config.json", image_token_id=3), "image token id 3 in the model and"),
        (lambda folder: _vision(folder, patch_size=16), "patch size 16 in the model and 14 in the processor"),
        (lambda folder: _text(folder, vocab_size=100), "tokens in the tokenizer, but 100 rows"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
    ],
    ids=["image token", "patches", "vocabulary", "template"],
)
def test_a_processor_that_does_not_fit_is_named(tmp_path, tiny_model_dir, spoil, message):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    check_fit(tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        check_fit(tmp_path / "model")


def _vision(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    _edit(folder / "config.json", vision_config=config["vision_config"] | changes)


def _text(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    _edit(folder / "config.json", text_config=config["text_config"] | changes)


def test_a_text_model_is_refused(tmp_path, tiny_model_dir):
    from transformers import LlamaConfig

    AutoProcessor.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot see: its configuration has no vision tower"):
        check_fit(tmp_path)


def test_a_disk_without_room_is_named(tmp_path, place):
    check_room(tmp_path / "not" / "there" / "yet", 1000, "the evaluation")
    with pytest.raises(OSError, match=r"GB free, but the evaluation can take 1,000,000\.0 GB"):
        check_room(tmp_path, 10**15, "the evaluation")
    weights = sum(file.stat().st_size for file in (place / "model").glob("*.safetensors"))
    adapter, model = str(place / "adapter"), str(place / "model")
    few, many = (estimate_room([adapter, adapter, model], None, count, 100) for count in (0, 1_000))
    assert few == weights  # one merged adapter at a time
    assert many > weights + 3 * 1_000 * 100 * 4 * 2  # text and steps of every completion


def test_labels_outside_the_space_are_counted(tmp_path):
    rows = [
        {"id": str(i), "image": picture, "emotion": emotion, "label_space": ["awe", "fear"], "source": "made"}
        for i, (picture, emotion) in enumerate(zip(tiny_pictures(4), ["awe", "joy", "joy", "Fear"], strict=True))
    ]
    with pytest.raises(ValueError, match=r"'joy' in row 1 .* are 3 of 4 rows: 'joy' 2, 'Fear' 1\."):
        write_split(tmp_path, "test", rows)


def test_overwriting_looks_at_no_journal_of_before(place):
    folder = place / "runs" / "model"
    (folder / "unfinished").mkdir(parents=True)
    (folder / "config.yaml").write_text("model_fingerprint: another")
    (folder / "unfinished" / "test.jsonl").write_text("of another run\n")
    result = evaluate(
        place,
        "--models",
        "model",
        *ARGUMENTS[:1],
        *ARGUMENTS[1:2],
        *ARGUMENTS[3:],
        "--output_dir",
        "runs",
        "--overwrite",
    )
    assert result.returncode == 0, result.stderr
    assert (folder / "metrics.json").is_file()

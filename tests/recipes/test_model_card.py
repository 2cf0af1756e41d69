"""The card of a run: its numbers stand in the run's files, its code runs, and it takes the place of TRL's."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from PIL import ExifTags, Image
from recipe_commands import command, finish
from tiny_model import tiny_pictures
from training import tiny_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl import EmoR3Config, EmoR3Trainer
from emor3_trl.checkpoints import fingerprint, whole_checkpoint
from emor3_trl.data import write_split
from emor3_trl.data.resizing import to_upright_rgb
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.model_card import card as card_module
from emor3_trl.model_card.card import MARK, format_model_card, format_snippet, write_model_card
from emor3_trl.model_card.facts import RunFacts, Weights
from emor3_trl.model_card.trainer import CardTrainer, renew_model_card
from emor3_trl.prompts import prompt_text

ROOT = Path(__file__).parents[2]
LABELS = ["awe", "fear"]
SHORT = ["--max_steps", "2", "--use_vllm", "false", "--save_steps", "1"]
LORA = ["--use_peft", "true", "--lora_dropout", "0", "--lora_target_modules", "all-linear"]
# What is the same on each card: laws, the paper's number, what an interval is, types, questions' tags
FIXED = ("arXiv 2602.23802", "intervals cover 95%", "accuracy [95%]", "macro F1", "temperature: 0", "uint8", "EMO-R3")
FIXED += (
    "emor3_trl",
    "emo-r3",
    "emo_r3",
    "AutoModelForImageTextToText",
    card_module.CPU_SETTINGS,
    card_module.CPU_FLAGS,
)


def read_leaves(value: Any) -> Iterator[Any]:
    """Give every value of a nested structure, keys included: a key may be a label."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from read_leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from read_leaves(item)
    else:
        yield value


def find_strange_numbers(card: str, files: list[Path], question: str) -> list[str]:
    """Return the numbers of a card that stand in none of the files."""
    known = [leaf for file in files for leaf in read_leaves(yaml.safe_load(file.read_text()))]
    numbers = [float(leaf) for leaf in known if isinstance(leaf, int | float) and not isinstance(leaf, bool)]
    texts = [str(leaf) for leaf in known if isinstance(leaf, str)]
    text = card.replace(card_module._LIMITS, "").replace(repr(question), "")
    text = re.sub(r"shape\[1\] :\]|\[0, inputs", "", text)
    for fixed in FIXED:
        text = text.replace(fixed, "")
    strange = []
    for token in re.findall(r"\d[\d.,]*(?:e-?\d+)?", text):
        number = token.replace(",", "").rstrip(".")
        digits = len(number.partition(".")[2].partition("e")[0])
        stands = any(number in leaf for leaf in texts) or any(
            float(number) in (round(value, digits), float(f"{value:.4g}")) for value in numbers
        )
        if not stands:
            strange.append(token)
    return strange


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A folder with a GRPO run, a LoRA run and a cold start of the tiny model, the first of them evaluated."""
    folder = tmp_path_factory.mktemp("cards")
    finish([*command(folder, "grpo", tiny_model_dir, "run"), *SHORT], folder)
    finish([*command(folder, "grpo", tiny_model_dir, "lora"), *SHORT, *LORA, "--freeze_vision_tower", "false"], folder)
    finish([*command(folder, "cold-start", tiny_model_dir, "cold"), "--max_steps", "2", "--save_steps", "1"], folder)
    (folder / "before").write_text((folder / "run" / "README.md").read_text())
    evaluate = [sys.executable, str(ROOT / "recipes" / "evaluate.py"), "--model", "run", "--data", "data"]
    finish([*evaluate, "--splits", "train", "--engine", "transformers", "--max_tokens", "8"], folder)
    return folder


def run_snippet(card: str, folder: Path, capsys: pytest.CaptureFixture) -> str:
    """Run the card's code in a folder that holds photo.jpg, and return what it prints."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    before = Path.cwd()
    os.chdir(folder)
    try:
        capsys.readouterr()
        exec(compile(code, "README.md", "exec"), {})
    finally:
        os.chdir(before)
    return capsys.readouterr().out.removesuffix("\n")


def ask_engine(folder: Path, text: str, photo: Path, tokens: int) -> str:
    with whole_checkpoint(folder) as whole:
        model = AutoModelForImageTextToText.from_pretrained(whole, dtype=torch.float32)
        engine = TransformersEngine(model, AutoProcessor.from_pretrained(whole, padding_side="left"))
    image = Image.open(photo).convert("RGB")
    ((completion,),) = engine.generate([text], [image], n=1, temperature=0, max_tokens=tokens, seed=0)
    return completion.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "style", "tokens"),
    [
        pytest.param("run", "set", 12, id="a run"),
        pytest.param("run/checkpoint-1", "set", 12, id="a checkpoint"),
        pytest.param("lora", "set", 12, id="an adapter"),
        pytest.param("lora/checkpoint-2", "set", 12, id="an adapter's checkpoint"),
        pytest.param("cold", "direct", 4, id="a cold start"),
    ],
)
def test_the_card_s_code_answers_as_the_engine(
    place: Path, capsys: pytest.CaptureFixture, folder: str, style: Any, tokens: int
) -> None:
    card = (place / folder / "README.md").read_text()
    assert "time machine" not in card
    assert "None" not in card
    tiny_pictures(1)[0].save(place / "photo.jpg", quality=95)
    printed = run_snippet(card, place, capsys)
    assert printed == ask_engine(place / folder, prompt_text(style, LABELS), place / "photo.jpg", tokens)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["run", "lora", "cold", "run/checkpoint-1"])
def test_each_number_of_a_card_stands_in_a_file_of_the_run(place: Path, run: str) -> None:
    folder = place / run
    top = place / run.split("/")[0]
    files = [top / name for name in ("config.yaml", "environment.json", "metrics.json")]
    files += [place / "runs" / "evaluation" / "run" / "metrics.json", place / "data" / "manifest.json"]
    files += [folder / "generation_config.json", top / "merged" / "generation_config.json", folder / "config.json"]
    files += [place / "tokens.json"]
    processor = AutoProcessor.from_pretrained(folder)
    (place / "tokens.json").write_text(json.dumps([processor.image_token_id, processor.video_token_id]))
    files = [file for file in files if file.is_file()]
    style = "direct" if run == "cold" else "set"
    # Of rows: a label space is as long as it is, a checkpoint is of its step
    counts = place / "counts.json"
    counts.write_text(json.dumps([len(LABELS), 1, 2]))
    card = (folder / "README.md").read_text()
    question = prompt_text(style, LABELS)
    assert find_strange_numbers(card, [*files, counts], question) == []
    assert find_strange_numbers(card + "accuracy 0.7391", [*files, counts], question) == ["0.7391"]


@pytest.mark.slow
def test_the_card_shows_the_end_of_the_training_and_then_the_evaluation(place: Path) -> None:
    before, after = (place / "before").read_text(), (place / "run" / "README.md").read_text()
    assert "This model was not evaluated" in before
    reward = json.loads((place / "run" / "metrics.json").read_text())["reward/last_quarter"]
    assert f"| reward/last_quarter | {reward:.4g} |" in before
    metrics = json.loads((place / "runs" / "evaluation" / "run" / "metrics.json").read_text())
    values = [metrics[f"eval/train/{key}"] for key in ("accuracy", "accuracy_low", "accuracy_high")]
    assert "{:.3f} [{:.3f}, {:.3f}]".format(*values) in after
    assert f"| reward/last_quarter | {reward:.4g} |" in after
    assert "with the `set` prompt" in after


@pytest.mark.slow
@pytest.mark.parametrize("run", ["lora", "cold"])
def test_the_card_is_there_before_the_metrics_by_which_a_run_is_finished(place: Path, run: str) -> None:
    card, metrics = (place / run / name for name in ("README.md", "metrics.json"))
    assert "at the end of the training" in card.read_text()
    assert card.stat().st_mtime_ns <= metrics.stat().st_mtime_ns


@pytest.mark.slow
def test_python_code_gets_the_card_of_its_arguments_once_more_if_killed(tiny_model_dir: Path, tmp_path: Path) -> None:
    args = EmoR3Config(
        str(tmp_path / "run"), per_device_train_batch_size=4, num_generations=4, max_completion_length=8, max_steps=1,
        use_vllm=False, save_strategy="steps", save_steps=1, report_to="none", bf16=False, use_cpu=True, seed=7,
        learning_rate=0.0125,
    )  # fmt: skip
    EmoR3Trainer(str(tiny_model_dir), args=args, train_dataset=tiny_dataset()).train()
    card = (tmp_path / "run" / "checkpoint-1" / "README.md").read_text()
    assert "- learning_rate: 0.0125" in card
    assert "- seed: 7" in card
    assert "amusement, anger, awe" in card
    assert "GRPO with structured emotional thinking" in card
    assert "training has not ended" in (tmp_path / "run" / "README.md").read_text()
    checksums = (tmp_path / "run" / "checkpoint-1" / "checksums.json").read_text()
    for name in ("README.md", "checksums.json"):
        (tmp_path / "run" / "checkpoint-1" / name).unlink()  # killed before it was written
    resumed = EmoR3Trainer(str(tiny_model_dir), args=args, train_dataset=tiny_dataset())
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert (tmp_path / "run" / "checkpoint-1" / "README.md").read_text() == card
    assert (tmp_path / "run" / "checkpoint-1" / "checksums.json").read_text() == checksums


@pytest.mark.slow
def test_a_card_that_cannot_be_written_costs_no_checkpoint(tiny_model_dir: Path, tmp_path: Path) -> None:
    args = EmoR3Config(
        str(tmp_path / "run"), per_device_train_batch_size=4, num_generations=4, max_completion_length=8, max_steps=1,
        use_vllm=False, save_strategy="steps", save_steps=1, report_to="none", bf16=False, use_cpu=True,
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "environment.json").write_text('{"versions"')  # TRL asks for the card before it saves
    trainer = EmoR3Trainer(str(tiny_model_dir), args=args, train_dataset=tiny_dataset())
    trainer.train()
    trainer.create_model_card("run")
    assert (tmp_path / "run" / "checkpoint-1" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "README.md").exists()


@pytest.mark.parametrize("missing", ["eval/test/macro_f1", "prompt_style", "counts"])
def test_an_evaluation_ends_whatever_the_card_lacks(
    tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    run, evaluation = tmp_path / "run", tmp_path / "evaluation"
    shutil.copytree(tiny_model_dir, run)
    evaluation.mkdir()
    write_split(tmp_path / "data", "train", [{"id": "0", "image": tiny_pictures(1)[0], "emotion": "awe",
                                              "label_space": LABELS, "source": "x"}])  # fmt: skip
    (tmp_path / "data" / "manifest.json").write_text('{"counts": null}' if missing == "counts" else "{}")
    keys = ("n", "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "format_rate")
    metrics = {name: 0.5 for name in (f"eval/test/{key}" for key in keys) if name != missing}
    config = {"model_fingerprint": fingerprint(run)} | ({"prompt_style": "set"} if missing != "prompt_style" else {})
    (run / "README.md").write_text(f"{MARK} as it was")
    for file, content in (
        (run / "config.yaml", {"data": str(tmp_path / "data")}), (run / "environment.json", {}),
        (run / "metrics.json", {}), (evaluation / "config.yaml", config), (evaluation / "metrics.json", metrics),
    ):  # fmt: skip
        file.write_text(json.dumps(content))
    renew_model_card(run, evaluation)
    assert (run / "README.md").read_text() == f"{MARK} as it was"
    assert "stays as it is" in caplog.text


HOSTILE = "<img src=x onerror=alert(1)> `b` | [c](http://d)\n# e\u202e"


def write_hostile_card(base: str) -> str:
    config = {"model_name_or_path": base, "data": f"data/{HOSTILE}", "rewards": [f"{HOSTILE}.py:brief"], "seed": 3}
    data = {"source": HOSTILE, "counts": {"train": {HOSTILE: 5}}, "licences": {"x": HOSTILE}, "max_pixels": 12544}
    metrics = {f"eval/{HOSTILE.replace('/', '')}/{key}": 0.5 for key in (
        "n", "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "format_rate")}  # fmt: skip
    evaluation = {"prompt_style": "set"}
    labels = ("awe", HOSTILE)
    facts = RunFacts(config, {}, labels, prompt_text("set", labels), data, {HOSTILE: 0.5}, metrics, evaluation)
    return format_model_card(facts, HOSTILE, Weights("my; rm -rf x"))


def test_what_labels_and_paths_hold_is_no_markup_of_the_card() -> None:
    card = write_hostile_card("Qwen/Qwen2.5-VL-3B-Instruct")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert "\u202e" not in card
    text = re.sub(r"```.*?```|`[^`\n]*(?<!\\)`", "", body.replace(MARK, ""), flags=re.S)
    assert "img src" in text
    assert not re.search(r"(?<!\\)[<>`]|(?<!\\)\[c", text)
    assert [line for line in text.splitlines() if line.startswith("# ")] == [text.strip().splitlines()[0]]
    rows = [line for line in text.splitlines() if line.startswith("|") and "img" in line]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3, 6]
    (code,) = re.findall(r"```python\n(.*?)```", body, re.S)
    compile(code, "README.md", "exec")
    assert "max_pixels=12544" in code
    served = re.findall(r"```shell\n(.*?)```", body, re.S)[0].splitlines()
    assert shlex.split(served[0]) == ["vllm", "serve", "my; rm -rf x"]
    assert "my; rm -rf x" in shlex.split(served[2])


@pytest.mark.parametrize("base", ["runs/demo/base", "/models/qwen", "runs/base"])
def test_a_folder_is_no_base_on_the_hub(base: str) -> None:
    assert "base_model" not in write_hostile_card(base).split("---\n", 2)[1]


def test_the_card_s_code_turns_a_picture_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.linear_gradient("L").resize((56, 28)).save(tmp_path / "photo.jpg", exif=exif)
    code = format_snippet(Weights("x"), "?").splitlines()
    names: dict[str, Any] = {}
    chosen = [line for line in code if line.startswith(("from PIL", "photo ="))]
    exec("\n".join(chosen).replace("photo.jpg", str(tmp_path / "photo.jpg")), names)
    with Image.open(tmp_path / "photo.jpg") as image:
        expected = to_upright_rgb(image)
    assert names["photo"].size == expected.size == (28, 56)
    assert names["photo"].tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("prompt", "space", "question"),
    [
        pytest.param("Which?", LABELS, "Which?", id="text"),
        pytest.param([{"role": "user", "content": "Which?"}], LABELS, "Which?", id="conversation"),
        pytest.param(
            [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Mine?"}]}],
            LABELS, "Mine?", id="parts",
        ),
        pytest.param([], LABELS, "", id="no turn"),
        pytest.param("Which?", None, "", id="no labels"),
    ],
)  # fmt: skip
def test_the_question_of_the_card_is_that_of_the_data(prompt: Any, space: Any, question: str) -> None:
    trainer = object.__new__(CardTrainer)
    trainer.learn_question(Dataset.from_list([{"prompt": prompt, "label_space": space}]))
    assert trainer.question == question
    assert trainer.labels == (tuple(LABELS) if question else None)


@pytest.mark.parametrize(
    ("standing", "stays"),
    [
        pytest.param(f"{MARK}\n# old", False, id="an earlier one"),
        pytest.param("tags:\n- generated_from_trainer\n", False, id="of TRL"),
        pytest.param("# My own words", True, id="of a person"),
        pytest.param(None, False, id="none"),
    ],
)
def test_a_person_s_own_card_stays(tmp_path: Path, standing: str | None, stays: bool) -> None:
    if standing is not None:
        (tmp_path / "README.md").write_text(standing)
    write_model_card("new", tmp_path)
    assert (tmp_path / "README.md").read_text() == (standing if stays else "new")

"""Each field that a YAML of recipes/grpo.py can set works, is refused with a reason, or cannot matter (`fields`)."""

import dataclasses
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from fields import CANNOT_MATTER, REFUSED, WORKS
from forking import run_forked
from tiny_model import tiny_pictures
from trl import ModelConfig

from emor3_trl.config import EmoR3Config
from emor3_trl.data import write_split
from emor3_trl.run import checks, reporting
from emor3_trl.run.arguments import RunArguments
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.recipe import UserError, user_errors
from emor3_trl.run.start import open_run

ROOT = Path(__file__).parents[2]
CLASSES = (RunArguments, ModelConfig, EmoR3Config)
# In more than one list: a field whose value of one kind works and of another is refused, or that every loss has
SHARED = {"loss_type", "eval_split", "reward_weights"}
FURTHER = {"optim_target_modules": {"optim": "galore_adamw"}, "vllm_tensor_parallel_size": {"use_vllm": True}}


@pytest.fixture
def place(tmp_path: Path, tiny_model_dir: Path) -> Path:
    labels = ["awe", "fear"]
    rows = [
        {"id": str(i), "image": image, "emotion": labels[i % 2], "label_space": labels, "source": "test"}
        for i, image in enumerate(tiny_pictures(8))
    ]
    write_split(tmp_path / "data", "train", rows)
    write_split(tmp_path / "data", "validation", rows[:4])
    return tmp_path


def write_config(place: Path, model: Path, settings: dict[str, Any]) -> str:
    paths = {"data": str(place / "data"), "model_name_or_path": str(model), "output_dir": str(place / "run")}
    (place / "config.yaml").write_text(yaml.safe_dump({**WORKS["base"], **settings, **paths}))
    return str(place / "config.yaml")


def test_every_field_stands_in_one_list() -> None:
    fields = {field.name for cls in CLASSES for field in dataclasses.fields(cls) if field.init}
    counts = Counter([*(name for settings in WORKS.values() for name in settings), *REFUSED, *CANNOT_MATTER])
    assert sorted(fields - set(counts)) == []
    assert sorted(set(counts) - fields) == []
    assert {name for name, count in counts.items() if count > 1} == SHARED


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_is_refused_before_a_model_loads(
    place: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(checks, "gpu_available", lambda: False)
    monkeypatch.setattr(reporting, "can_reach", lambda server: False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    value, reason = REFUSED[name]
    (place / "config.json").write_bytes((tiny_model_dir / "config.json").read_bytes())
    config = write_config(place, tiny_model_dir, {name: value, **FURTHER.get(name, {})})
    with pytest.raises(UserError) as error, user_errors():
        open_run(parse_arguments(CLASSES, argv=["--config", config]))
    assert reason in str(error.value)
    assert len(" ".join(str(error.value).split())) <= 600


@pytest.mark.slow
@pytest.mark.parametrize("batch", [name for name in WORKS if name != "base"])
def test_values_work_for_two_steps(place: Path, tiny_model_dir: Path, batch: str) -> None:
    command = [sys.executable, str(ROOT / "recipes" / "grpo.py")]
    command += ["--config", write_config(place, tiny_model_dir, WORKS[batch])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = run_forked(command, place, environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((place / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    assert [entry["loss"] for entry in state["log_history"] if "loss" in entry]

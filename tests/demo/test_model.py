"""The demo's base model: built the same again, and kept when it is finished. What it knows, test_learns.py asks."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.demo.model import build_demo_model
from emor3_trl.demo.pictures import write_demo_data
from emor3_trl.demo.teaching import BaseTraining

QUICK = BaseTraining(
    vision_steps=2,
    vision_batch=4,
    naming_steps=2,
    names_batch=4,
    description_steps=2,
    statement_batch=4,
    consistency_batch=4,
    question_steps=2,
    unasked_batch=2,
    thinking_batch=2,
    plain_thinking_batch=2,
    direct_batch=2,
    coherence_batch=2,
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo_data(folder, sizes={"train": 2, "validation": 1, "test": 1})
    return folder


def test_base_training_is_repeatable_and_a_finished_model_is_kept(data_dir, tmp_path, capsys):
    first, again = tmp_path / "first", tmp_path / "again"
    build_demo_model(data_dir, first, training=QUICK)
    build_demo_model(data_dir, again, training=QUICK)
    weights = [AutoModelForImageTextToText.from_pretrained(folder).state_dict() for folder in (first, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (first / "model.safetensors").exists()
    assert AutoProcessor.from_pretrained(first).tokenizer.padding_side == "left"

    written = (first / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    build_demo_model(data_dir, first, training=QUICK)
    assert "Reusing" in capsys.readouterr().out
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match="another model"):
        build_demo_model(data_dir, first, seed=1, training=QUICK)

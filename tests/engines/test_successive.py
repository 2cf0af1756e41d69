"""One engine for several models: each answers as on its own, and vLLM starts anew for other shapes only."""

from pathlib import Path

import pytest
import torch
from answering import AnswersEveryOther
from peft import LoraConfig, get_peft_model
from tiny_model import build_tiny_model
from training import tiny_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.engines.opening import open_engine
from emor3_trl.engines.successive import SuccessiveEngine
from emor3_trl.evaluation.prediction import Prediction, PredictionOptions, predict_emotions

pytestmark = pytest.mark.slow
LOAD = {"engine": "vllm", "dtype": "float32", "max_tokens": 8}


def ask(engine) -> list[Prediction]:
    """Return completions, reflections and label probabilities: all that an engine does."""
    options = PredictionOptions(max_tokens=8, score_labels=True)
    return predict_emotions(AnswersEveryOther(engine), tiny_dataset(), "test", options, progress=False)


def save_adapter(base: Path, folder: Path) -> None:
    """Save a LoRA adapter as PEFT does: no processor beside it."""
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(5)
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, adapter).save_pretrained(folder)


def save_other_tower(base: Path, folder: Path) -> None:
    """Save a model that differs in its vision tower alone: a picture that an engine remembers would be the old one."""
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16)  # and stored in another type
    with torch.no_grad():
        for weight in model.model.visual.parameters():
            weight.mul_(1.5)
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(base).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Models by name, those of equal shapes next to one another."""
    root = tmp_path_factory.mktemp("models")
    for name, tied, seed in (("first", True, 0), ("other", True, 1), ("untied", False, 0), ("untied_other", False, 1)):
        build_tiny_model(root / name, tied, seed)
    save_adapter(root / "first", root / "adapter")
    save_other_tower(root / "first", root / "tower")
    return {name: root / name for name in ("first", "tower", "other", "adapter", "untied", "untied_other")}


@pytest.fixture(scope="module")
def alone(models) -> dict[str, list[Prediction]]:
    """What each model answers on an engine of its own."""
    answers = {}
    for name, path in models.items():
        with open_engine(path, **LOAD) as engine:
            answers[name] = ask(engine)
    texts = [str(rows) for rows in answers.values()]
    assert len(set(texts)) == len(models), "the models answer alike, so that none could be taken for another"
    assert all(row.label_probabilities and row.consistency_answer for rows in answers.values() for row in rows[1::2])
    return answers


def test_each_model_answers_as_on_an_engine_of_its_own(models, alone):
    with SuccessiveEngine(**LOAD) as engines:
        starts = {}
        for name in models:
            with engines.serve(models[name]) as engine:
                assert ask(engine) == alone[name]  # bit by bit
            starts[name] = engines.starts
    assert list(starts.values()) == [1, 1, 1, 1, 2, 2]


def test_an_adapter_leaves_no_folder_and_an_error_no_engine(models, alone, tmp_path):
    with SuccessiveEngine(**LOAD) as engines:
        with engines.serve(models["adapter"], scratch=tmp_path) as engine:
            assert not list(tmp_path.iterdir())
            assert ask(engine) == alone["adapter"]
        with pytest.raises(KeyboardInterrupt), engines.serve(models["other"]):
            raise KeyboardInterrupt
        with engines.serve(models["first"]) as engine:
            assert ask(engine) == alone["first"]
        assert engines.starts == 2

"""A model's folder is data: none of its code runs, neither by transformers nor by vLLM, whatever the terminal says."""

import builtins
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hostile import TEMPLATE, add_code, copy_model, write_pickle
from recipe_commands import RecipeRunner, command
from tiny_model import tiny_pictures
from transformers import AutoConfig, AutoProcessor

from emor3_trl.checkpoints import check_checkpoint, check_fit, whole_checkpoint
from emor3_trl.engines.opening import open_engine
from emor3_trl.run.plan import read_shape

RECIPES = {
    "predict": ["photo.png", "--label_space", "joy,anger", "--engine", "transformers", "--max_tokens", "4"],
    "app": ["--label_space", "joy,anger", "--port", "0"],
    "export": [],
    "evaluate": ["--data", "data", "--splits", "train", "--engine", "transformers", "--max_tokens", "4"],
}
ADAPTER = ["--use_peft", "true", "--lora_target_modules", "all-linear", "--lora_dropout", "0"]
DRAW = {"n": 1, "max_tokens": 2, "temperature": 0.0, "seed": 0}


@pytest.fixture
def place(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the tiny model, data, and a person who says yes to whatever is asked."""
    copy_model(tiny_model_dir, tmp_path / "model")
    command(tmp_path, "grpo", tmp_path / "model", "out")  # writes the data
    tiny_pictures(1)[0].save(tmp_path / "photo.png")
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    return tmp_path


def test_the_code_runs_where_a_folder_is_trusted(place: Path) -> None:
    """Otherwise the tests here would prove nothing."""
    add_code(place / "model", place / "it_ran", unknown=True)
    with suppress(Exception):  # its class is no configuration
        AutoConfig.from_pretrained(place / "model")  # transformers asks, and the person says yes
    assert (place / "it_ran").exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_runs_code_of_a_model_of_an_unknown_kind(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, recipe: str
) -> None:
    add_code(place / "model", place / "it_ran", unknown=True)
    (place / "model" / "metrics.json").write_text("{}")  # of a finished run
    name = "--models" if recipe == "evaluate" else "--model"
    flags = [*RECIPES[recipe], name, "model", *([] if recipe == "app" else ["--output_dir", "out"])]
    refused = RecipeRunner(recipe, monkeypatch, capsys)(place, *flags)
    assert refused.returncode == 2
    assert "trust_remote_code" in refused.stderr
    assert not (place / "it_ran").exists()


@pytest.mark.parametrize("recipe", ["grpo", "cold-start"])
def test_no_training_runs_code_of_a_model(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, recipe: str
) -> None:
    add_code(place / "model", place / "it_ran", unknown=True)
    script, *flags = command(place, recipe, place / "model", "out")[1:]
    refused = RecipeRunner(Path(script).stem, monkeypatch, capsys)(place, *flags, *ADAPTER)
    assert refused.returncode == 2
    assert "trust_remote_code" in refused.stderr
    assert not (place / "it_ran").exists()


def test_code_beside_a_model_of_a_known_kind_is_passed_over(place: Path) -> None:
    add_code(place / "model", place / "it_ran")
    model = str(place / "model")
    check_fit(model)
    read_shape(model)
    with whole_checkpoint(model), open_engine(model, engine="transformers") as engine:
        engine.generate(["Look."], tiny_pictures(1), **DRAW)
    assert not (place / "it_ran").exists()


@pytest.mark.slow
def test_vllm_runs_no_code_of_a_model(place: Path) -> None:
    add_code(place / "model", place / "it_ran")
    with open_engine(place / "model", engine="vllm", max_prompt_tokens=256, max_tokens=8) as engine:
        engine.generate(["Look."], tiny_pictures(1), **DRAW)
    assert not (place / "it_ran").exists()


def test_a_chat_template_cannot_reach_python(place: Path) -> None:
    (place / "model" / "chat_template.jinja").write_text(TEMPLATE % str(place / "it_ran"))
    processor = AutoProcessor.from_pretrained(place / "model")
    with pytest.raises(Exception, match="unsafe"):  # jinja's SecurityError
        processor.apply_chat_template([{"role": "user", "content": "Look."}], tokenize=False)
    assert not (place / "it_ran").exists()


def test_weights_in_a_pickle_are_not_loaded(place: Path, tiny_model_dir: Path) -> None:
    (place / "model" / "model.safetensors").unlink()
    write_pickle(place / "model" / "pytorch_model.bin", place / "it_ran")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        check_checkpoint(place / "model")
    with pytest.raises(OSError, match="safetensors"), open_engine(place / "model", engine="transformers"):
        pass
    assert not (place / "it_ran").exists()


def test_an_adapter_in_a_pickle_is_not_loaded(place: Path) -> None:
    adapter = place / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    config |= {"base_model_name_or_path": str(place / "model")}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "decoy.safetensors").write_bytes((place / "model" / "model.safetensors").read_bytes())
    write_pickle(adapter / "adapter_model.bin", place / "it_ran")
    with pytest.raises(Exception, match=r"(?i)weights"), whole_checkpoint(adapter):
        pass
    assert not (place / "it_ran").exists()

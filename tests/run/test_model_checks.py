"""What the model itself must allow: asked of its configuration, before its weights are loaded."""

import json
import shutil
from pathlib import Path

import pytest
from trl import ModelConfig

from emor3_trl.config import EmoR3Config
from emor3_trl.run.model_checks import check_attention, check_model_settings

CPU = {"bf16": False, "use_cpu": True, "report_to": "none"}
LORA = {"use_peft": True, "lora_dropout": 0.0}


@pytest.fixture
def config_alone(tmp_path: Path, tiny_model_dir: Path) -> str:
    """A model's folder without weights: what is checked in it loads none."""
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("settings", "engine", "message"),
    [
        pytest.param({"attn_implementation": "spda"}, {}, "'spda'. Did you mean 'sdpa'\\?", id="attention"),
        pytest.param(
            {},
            {"model_init_kwargs": {"attn_implementation": "flash"}},
            "attn_implementation is .flash.",
            id="in kwargs",
        ),
        pytest.param({**LORA, "lora_target_modules": ["qproj"]}, {}, "does not fit .*qproj.*all-linear", id="targets"),
        pytest.param({**LORA, "lora_target_parameters": ["x.y"]}, {}, "LoRA does not fit the model", id="parameters"),
        pytest.param(
            {}, {"vllm_tensor_parallel_size": 3}, "3, which does not divide the model's 2 attention heads", id="heads"
        ),
    ],
)
def test_what_the_model_does_not_allow_is_refused(
    config_alone: str, monkeypatch: pytest.MonkeyPatch, settings: dict, engine: dict, message: str
) -> None:
    monkeypatch.setattr("emor3_trl.config.world_size", lambda: 3)
    args = EmoR3Config(output_dir="o", num_generations=4, per_device_train_batch_size=4, **CPU, **engine)
    with pytest.raises(ValueError, match=message):
        check_model_settings(ModelConfig(model_name_or_path=config_alone, **settings), args)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="all weights"),
        pytest.param({**LORA, "lora_target_modules": ["all-linear"]}, id="all layers"),
        pytest.param({**LORA, "lora_target_modules": [r".*language_model.*\.q_proj"]}, id="a pattern"),
        pytest.param({"attn_implementation": "eager"}, id="attention"),
    ],
)
def test_what_the_model_allows_is_taken(config_alone: str, settings: dict) -> None:
    check_model_settings(ModelConfig(model_name_or_path=config_alone, **settings), EmoR3Config(output_dir="o", **CPU))


def test_attentions_of_the_hub_are_not_looked_up() -> None:
    check_attention("kernels-community/flash-attn2")


def test_code_of_the_model_runs_only_where_it_is_trusted(config_alone: str) -> None:
    file = Path(config_alone) / "config.json"
    config = {**json.loads(file.read_text()), "model_type": "mine", "auto_map": {"AutoConfig": "mine.MineConfig"}}
    file.write_text(json.dumps(config))
    (Path(config_alone) / "mine.py").write_text(
        "from transformers import Qwen2_5_VLConfig\n\nclass MineConfig(Qwen2_5_VLConfig):\n    model_type = 'mine'\n"
    )
    model = ModelConfig(model_name_or_path=config_alone)
    check_model_settings(model, EmoR3Config(output_dir="o", trust_remote_code=True, **CPU))
    with pytest.raises(ValueError, match="trust_remote_code"):
        check_model_settings(model, EmoR3Config(output_dir="o", **CPU))

"""What the model itself must allow: asked of its configuration, before its weights are loaded."""

import json
import shutil
from pathlib import Path

import pytest
from peft import LoraConfig
from training import tiny_dataset
from trl import GRPOConfig, ModelConfig, get_peft_config

from emor3_trl import EmoR3Trainer, GroupTrainer
from emor3_trl.cold_start import ColdStartConfig, build_cold_start_trainer
from emor3_trl.config import EmoR3Config
from emor3_trl.groups.checks import check_attention, check_model_settings
from emor3_trl.run.command_line import build_model_options

CPU = {"bf16": False, "use_cpu": True, "report_to": "none"}
LORA = {"use_peft": True, "lora_dropout": 0.0}


@pytest.fixture
def config_alone(tmp_path: Path, tiny_model_dir: Path) -> str:
    """A model's folder without weights: what is checked in it loads none."""
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    return str(tmp_path)


def check(model: ModelConfig, args: EmoR3Config) -> None:
    """Check what a recipe's options ask of a model."""
    args.model_init_kwargs = build_model_options(model, args.model_init_kwargs)
    assert model.model_name_or_path
    check_model_settings(model.model_name_or_path, args, get_peft_config(model))


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
        check(ModelConfig(model_name_or_path=config_alone, **settings), args)


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
    check(ModelConfig(model_name_or_path=config_alone, **settings), EmoR3Config(output_dir="o", **CPU))


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
    check(model, EmoR3Config(output_dir="o", trust_remote_code=True, **CPU))
    with pytest.raises(ValueError, match="trust_remote_code"):
        check(model, EmoR3Config(output_dir="o", **CPU))


ATTENTION = {"model_init_kwargs": {"attn_implementation": "spda"}}
NO_TARGETS = {"peft_config": LoraConfig(target_modules=["qproj"], init_lora_weights="pissa")}
WHOLE_TOWER = {"peft_config": LoraConfig(target_modules=["q_proj"], modules_to_save=["merger"])}


def build(trainer: type, folder: str, settings: dict) -> None:
    """Build a trainer of a Python user on a model of which there is no weight."""
    options = {**CPU, "output_dir": str(folder), "max_steps": 1, **settings}
    adapter = options.pop("peft_config", None)
    if trainer is not ColdStartConfig:
        options |= {"use_vllm": False, "num_generations": 4, "per_device_train_batch_size": 4}
        options |= {"max_completion_length": 16}
    config = {GroupTrainer: GRPOConfig, EmoR3Trainer: EmoR3Config}.get(trainer, ColdStartConfig)
    if trainer is ColdStartConfig:
        build_cold_start_trainer(folder, ColdStartConfig(num_samples=6, **options), tiny_dataset(), peft_config=adapter)
        return
    trainer(folder, lambda completions, **columns: [0.0], config(**options), tiny_dataset(), peft_config=adapter)


ANY = (EmoR3Trainer, GroupTrainer, ColdStartConfig)
TOLD = [
    *(pytest.param(who, ATTENTION, "'spda'. Did you mean 'sdpa'\\?", id=f"attention {who.__name__}") for who in ANY),
    *(pytest.param(who, NO_TARGETS, "does not fit .*qproj", id=f"targets {who.__name__}") for who in ANY),
    *(
        pytest.param(who, {**WHOLE_TOWER, "freeze_vision_tower": True}, "names a part of the vision", id=who.__name__)
        for who in (EmoR3Trainer, ColdStartConfig)
    ),
    *(
        pytest.param(
            who, {"multi_objective_aggregation": "sum"}, "Expected one of sum_then", id=f"aggregation {who.__name__}"
        )
        for who in (EmoR3Trainer, GroupTrainer)
    ),
    pytest.param(GroupTrainer, {"loss_type": "cispo"}, "Set epsilon_high: 5.0", id="largest ratio of CISPO"),
    pytest.param(GroupTrainer, {"loss_type": "dapoo"}, "Expected one of grpo, dapo", id="loss"),
]


@pytest.mark.parametrize(("trainer", "settings", "message"), TOLD)
def test_a_python_user_is_told_before_a_model_loads(
    config_alone: str, trainer: type, settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(trainer, config_alone, settings)


def test_a_tower_that_can_be_frozen_is_taken(config_alone: str) -> None:
    with pytest.raises(OSError, match="no file named"):  # it is loaded: nothing was refused
        build(EmoR3Trainer, config_alone, {"freeze_vision_tower": True})


QUANTIZED = {"quant_method": "gptq", "bits": 4, "group_size": 128}


@pytest.mark.parametrize(
    ("options", "lora", "message"),
    [
        pytest.param({"use_vllm": True}, True, "is quantised \\(gptq\\) and use_vllm is true", id="vllm"),
        pytest.param({"use_vllm": False}, False, "is quantised \\(gptq\\), but weights of few bits", id="no adapter"),
        pytest.param({"use_vllm": False}, True, None, id="qlora on transformers"),
    ],
)
def test_a_quantised_checkpoint_trains_an_adapter_without_vllm(
    config_alone: str, options: dict, lora: bool, message: str | None
) -> None:
    file = Path(config_alone) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": QUANTIZED}))
    args = EmoR3Config(output_dir="o", num_generations=4, per_device_train_batch_size=4, **CPU, **options)
    adapter = LoraConfig(target_modules="all-linear", lora_dropout=0.0) if lora else None
    if message is None:
        check_model_settings(config_alone, args, adapter)
        return
    with pytest.raises(ValueError, match=message):
        check_model_settings(config_alone, args, adapter)


@pytest.mark.parametrize("use_vllm", [True, False])
def test_the_trainers_own_argument_is_refused_before_the_model_loads(config_alone: str, use_vllm: bool) -> None:
    """No weights are in the folder, so a trainer that loaded it would fail otherwise."""
    args = EmoR3Config(output_dir="o", num_generations=4, per_device_train_batch_size=4, use_vllm=use_vllm, **CPU)
    message = "quantization_config is given and use_vllm" if use_vllm else "quantization_config is given, but weights"
    with pytest.raises(ValueError, match=message):
        EmoR3Trainer(config_alone, args=args, train_dataset=tiny_dataset(), quantization_config={"load_in_4bit": True})

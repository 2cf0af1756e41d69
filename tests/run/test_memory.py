"""--plan's bytes beside those of the real tensors of a real step."""

from pathlib import Path

import pytest
import torch
from training import fixed_completions, tiny_trainer
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from emor3_trl import EmoR3Trainer
from emor3_trl.families import SHAPES
from emor3_trl.run.memory import GIB, estimate_memory, measure_shape, read_shape

LANGUAGE = ".*language_model.*\\.(q|k|v|o|gate|up|down)_proj"


def count_bytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def estimate_parts(model_dir: Path, **changes) -> dict[str, float]:
    values = {
        "data": "none", "max_completion_length": 16, "per_device_train_batch_size": 8, "num_generations": 4,
        "gradient_accumulation_steps": 1, "dtype": "float32", "bf16": False, "beta": 0.01, "lora_r": 4, **changes,
    }  # fmt: skip
    return {part.split(" (")[0]: whole * GIB for part, whole, *_ in estimate_memory(values, read_shape(model_dir), 1)}


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        pytest.param("float32", {}, id="full"),
        pytest.param("float32", {"freeze_vision_tower": True}, id="tower frozen"),
        pytest.param("float32", {"ref_model_dtype": "bfloat16"}, id="reference in bfloat16"),
        pytest.param("bfloat16", {}, id="pure bfloat16"),
        pytest.param("float32", {"optim": "sgd"}, id="sgd"),
        pytest.param("bfloat16", {"lora_target_modules": LANGUAGE, "freeze_vision_tower": True}, id="lora"),
        pytest.param("float32", {"lora_target_modules": "all-linear"}, id="lora everywhere"),
        pytest.param("float32", {"optim": "adamw_bnb_8bit"}, id="8 bits"),
        pytest.param("float32", {"optim": "lion_8bit"}, id="lion in 8 bits"),
    ],
)
def test_bytes_are_those_of_the_tensors_of_a_step(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, options: dict
) -> None:
    if "8bit" in options.get("optim", ""):
        pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)
    modules = options.get("lora_target_modules")
    lora = {"target_modules": modules, "init_lora_weights": True} if modules else False
    fields = {name: value for name, value in options.items() if name != "lora_target_modules"}
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, lora, dtype, use_vllm=False, beta=0.01, max_steps=1, lambda1=0.0, **fields
    )
    gradients = {}
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda weight, name=name: gradients.update({name: weight.grad}))
    trainer.train()
    expected = estimate_parts(
        str(tiny_model_dir), dtype=dtype, use_peft=bool(modules), **{"optim": "adamw_torch_fused", **options}
    )
    assert count_bytes(trainer.model.parameters()) == expected["weights"]
    assert count_bytes(gradients.values()) == expected["gradients"]
    states = getattr(trainer.optimizer, "optimizer", trainer.optimizer).state.values()
    tables = ("step", "qmap1", "qmap2")  # of a few hundred numbers
    measured = count_bytes(
        value for state in states for name, value in state.items() if torch.is_tensor(value) and name not in tables
    )
    # bitsandbytes keeps the states of less than 4,096 numbers in float32: a sixth of this model, nothing of a real one
    small = sum(weight.numel() for weight in trainer.model.parameters() if weight.numel() < 4096)
    excess = (measured - expected["optimizer"]) / small
    assert 0 < excess < 8 if "8bit" in options.get("optim", "") else excess == 0
    if trainer.ref_model is not None:
        assert count_bytes(trainer.ref_model.parameters()) == expected["reference model"]
    else:
        assert expected["reference model"] == 0


@pytest.mark.parametrize(
    ("name", "sizes", "tied"),
    [
        pytest.param("Qwen/Qwen2.5-VL-3B-Instruct", (2048, 36, 16, 2, 11008, 151936), True, id="3B"),
        pytest.param("Qwen/Qwen2.5-VL-7B-Instruct", (3584, 28, 28, 4, 18944, 152064), False, id="7B"),
    ],
)
def test_known_sizes_are_those_of_the_published_configurations(name: str, sizes: tuple, tied: bool) -> None:
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    text = dict(zip((*fields, "vocab_size"), sizes, strict=True))
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    config = Qwen2_5_VLConfig(
        text_config={**text, "tie_word_embeddings": tied},
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    assert measure_shape(SHAPES[name].name, model) == SHAPES[name]


@pytest.mark.parametrize(
    ("changes", "part", "billions"),
    [
        pytest.param({}, "reference model", 4 * 3.754622976, id="whole reference"),
        pytest.param({"ref_model_dtype": "bfloat16"}, "reference model", 2 * 3.754622976, id="half reference"),
        pytest.param({"optim": "adamw_torch_fused"}, "optimizer", 8 * 3.754622976, id="AdamW"),
        # 8 bits for all but the embedding of 151,936 x 2,048
        pytest.param(
            {"optim": "adamw_bnb_8bit"}, "optimizer", 8 * 0.311164928 + 2.03125 * 3.443458048, id="AdamW in 8 bits"
        ),
        pytest.param(
            {"load_in_4bit": True, "use_peft": True, "dtype": "bfloat16", "lora_r": 16},
            "weights",
            0.5625 * 3.441197056 + 2 * 0.31342592 + 2 * 0.029933568,
            id="QLoRA",
        ),
    ],
)
def test_bytes_of_the_3b_model_by_hand(changes: dict, part: str, billions: float) -> None:
    parts = estimate_parts("Qwen/Qwen2.5-VL-3B-Instruct", **changes)
    assert parts[part] == pytest.approx(billions * 1e9, rel=1e-6)


def test_weights_of_four_bits_are_those_of_bitsandbytes(tiny_model_dir: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    few = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype="bfloat16", quantization_config=few)
    scales = [weight.quant_state.absmax for weight in model.parameters() if hasattr(weight, "quant_state")]
    options = {"load_in_4bit": True, "use_peft": True, "lora_r": 0, "dtype": "bfloat16"}
    expected = estimate_parts(str(tiny_model_dir), **options)["weights"]
    assert count_bytes([*model.parameters(), *scales]) == pytest.approx(expected, rel=0.005)

"""The memory of a run by part, from a configuration and the sizes of a model. No model is loaded for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from emor3_trl.families import SHAPES, Shape, find_family
from emor3_trl.files import read_mapping
from emor3_trl.groups.batching import count_prompts_at_once, divide_rollout

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}
PROMPT_LIMIT = 2048  # tokens, as in the reference implementation
TEXT_TOKENS = 200  # the structured prompt and its chat template, rounded up

# Bytes of an optimizer's state for one weight in float32; all that is not here is counted as AdamW, which keeps two
# numbers of the weight's own type. Each block of 256 numbers in 8 bits has a scale in float32 (128 numbers in 4 bits).
STATE_BYTES = {
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), 2 * (1 + 4 / 256)),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), 1 + 4 / 256),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), 3 * (1 + 4 / 256)),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_32bit", "adagrad", "rmsprop"), 4),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit"), 12),
    "adamw_torch_4bit": 2 * (0.5 + 4 / 256),
    "sgd": 0,
}
# bitsandbytes' 4 bits: one scale for 64 weights, in float32 or itself in 8 bits; its 8 bits: one scale for a row
FOUR_BITS, FOUR_BITS_NESTED, EIGHT_BITS = 0.5 + 4 / 64, 0.5 + 1 / 64 + 4 / (64 * 256), 1.0


def read_shape(path: str) -> Shape:
    """Return the sizes of a model: of a local checkpoint from its config (weights stay on torch's meta device).

    Raises:
        ValueError: if `path` is neither a checkpoint folder nor one of the models whose sizes are known here.
    """
    if path in SHAPES:
        return SHAPES[path]
    if not (Path(path) / "config.json").is_file():
        raise ValueError(
            f"--plan knows the sizes of {', '.join(SHAPES)} and of local checkpoint folders; '{path}' is neither."
        )
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    return measure_shape(path, model)


def measure_shape(name: str, model: Any) -> Shape:
    """Return the sizes of a model that may lie on torch's meta device.

    Args:
        name: what to call it.
        model: a vision-language model.
    """
    text = model.config.get_text_config()
    head = model.get_output_embeddings()
    language = {id(weight) for part in (model.get_decoder(), head) for weight in part.parameters()}
    linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer is not head]
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        name=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        key_value_size=text.num_key_value_heads * head_size,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        vision=sum(weight.numel() for weight in model.parameters() if id(weight) not in language),
        linear=sum(layer.weight.numel() for layer in linear),
        vision_adapters=sum(
            layer.in_features + layer.out_features for layer in linear if id(layer.weight) not in language
        ),
        query_size=text.num_attention_heads * head_size,
        family=model.config.model_type,
    )


def estimate_memory(values: dict[str, Any], shape: Shape, processes: int) -> list[tuple[str, float, float, float]]:
    """Estimate the memory of one process by part.

    Returns:
        Rows of (part, GiB with DDP or one process, with ZeRO-2, with ZeRO-3 or FSDP). Activations are those of the
        language model for one micro-batch at the longest prompt and completion, a shared prompt once; fragmentation
        and the CUDA context are not counted. Where ZeRO-3 and FSDP differ, the larger is given.
    """
    activations = _activations(values, shape)
    rows = [
        *_estimate_states(values, shape, processes),
        ("activations, at most", activations, activations, activations),
    ]
    if values.get("use_vllm") and values.get("vllm_mode") != "server":  # a server has a GPU of its own
        engine: float = shape.parameters * (2 if values.get("bf16") is not False else _weight_bytes(values))
        cache = _estimate_cache(values, shape, processes)
        rows += [
            ("vLLM weights", engine, engine, engine),
            ("vLLM KV of one rollout", cache, cache, cache),
        ]
    return [(part, alone / GIB, zero2 / GIB, zero3 / GIB) for part, alone, zero2, zero3 in rows]


def sum_peaks(rows: list[tuple[str, float, float, float]], sleeps: bool) -> dict[str, tuple[float, float, float]]:
    """Return what is held at most while the model is trained, and while it generates.

    Args:
        rows: of `estimate_memory`.
        sleeps: whether vLLM leaves its memory while the model is trained.
    """
    training = [row for row in rows if not (sleeps and row[0].startswith("vLLM"))]
    generating = [row for row in rows if not row[0].startswith(("gradients", "activations", "copies"))]
    peaks = {"peak while training": training, "peak while generating": generating}
    return {
        title: (sum(row[1] for row in held), sum(row[2] for row in held), sum(row[3] for row in held))
        for title, held in peaks.items()
    }


def _estimate_states(values: dict[str, Any], shape: Shape, processes: int) -> Iterator[tuple[str, float, float, float]]:
    """Yield the bytes of weights, gradients, optimizer and reference model: (part, whole, ZeRO-2, ZeRO-3)."""
    lora, width, share = bool(values.get("use_peft")), _weight_bytes(values), 1 / processes
    autocast = values.get("bf16") is not False
    trained = _count_trained(values, shape)
    # Adapters train in float32; those on weights of few bits in bfloat16, as TRL sets them
    trained_width = width if not lora else 2 if _is_quantized(values) else 4
    frozen = _count_base_bytes(values, shape) if lora else (shape.parameters - trained) * width
    weights, gradients = frozen + trained * trained_width, trained * trained_width
    name, states = _count_states(values, shape, trained, trained_width)
    reference = 0.0
    if values.get("beta") and not lora:
        reference = shape.parameters * BYTES.get(str(values.get("ref_model_dtype")), width)
    # DeepSpeed in bf16 trains a bf16 copy and keeps float32 weights with the optimizer's state.
    mixed = autocast and width == 4 and not lora
    deepspeed: tuple[float, float, float] = (weights, gradients, states)
    if mixed:
        deepspeed = (weights / 2, gradients / 2, states + trained * 4)
    yield "weights", weights, deepspeed[0], deepspeed[0] * share
    if mixed:
        # Autocast keeps a copy of each matrix from its first use in a forward to the forward's end
        yield "copies in bf16 (autocast)", shape.linear * 2, 0.0, 0.0
    yield "gradients", gradients, deepspeed[1] * share, deepspeed[1] * share
    yield f"optimizer ({name})", states, deepspeed[2] * share, deepspeed[2] * share
    in_bf16 = min(reference, shape.parameters * 2) if autocast else reference
    yield "reference model (beta > 0)", reference, in_bf16, reference * share


def _weight_bytes(values: dict[str, Any]) -> int:
    return BYTES.get(str(values.get("dtype")), 4)


def _is_quantized(values: dict[str, Any]) -> bool:
    return bool(values.get("load_in_4bit") or values.get("load_in_8bit"))


def _count_base_bytes(values: dict[str, Any], shape: Shape) -> float:
    """Return the bytes of the weights under an adapter."""
    width = _weight_bytes(values)
    if not _is_quantized(values):
        return shape.parameters * width
    four = FOUR_BITS_NESTED if values.get("use_bnb_nested_quant") else FOUR_BITS
    few = four if values.get("load_in_4bit") else EIGHT_BITS
    return shape.linear * few + (shape.parameters - shape.linear) * width


def _count_trained(values: dict[str, Any], shape: Shape) -> int:
    frozen_tower = bool(values.get("freeze_vision_tower"))
    if not values.get("use_peft"):
        return shape.parameters - shape.vision * frozen_tower
    # attention (q, k, v, o) and the three feed-forward projections, each r x (in + out)
    queries = shape.query_size or shape.hidden
    attention = 2 * (shape.hidden + queries) + 2 * (shape.hidden + shape.key_value_size)
    ranks = shape.layers * (attention + 3 * (shape.hidden + shape.intermediate))
    modules = values.get("lora_target_modules")
    if "all-linear" in ([modules] if isinstance(modules, str) else modules or ()) and not frozen_tower:
        ranks += shape.vision_adapters
    return int(values["lora_r"] * ranks)


def _count_states(values: dict[str, Any], shape: Shape, trained: int, width: int) -> tuple[str, float]:
    """Return the optimizer's name and the bytes of its state."""
    name = str(getattr(values.get("optim"), "value", values.get("optim"))).split(".")[-1].lower()
    if name not in STATE_BYTES:
        known = name.startswith(("adamw", "none", "paged_adamw"))
        return "AdamW" if known else f"{name}, as AdamW", trained * width * 2
    in_few_bits, states = trained, 0.0
    if "8bit" in name and "torch" not in name and not values.get("use_peft"):
        # Transformers lets bitsandbytes keep the states of an embedding in float32
        embedding = shape.vocabulary * shape.hidden
        in_few_bits -= embedding
        states += embedding * 4 * round(STATE_BYTES[name])
    return name, states + in_few_bits * STATE_BYTES[name]


def count_prompt_tokens(values: dict[str, Any], family: str = "") -> int:
    """Return the longest prompt in tokens: what the engine's length leaves, or the largest prepared picture's.

    Args:
        values: the configuration.
        family: the model's `model_type`.
    """
    longest = [PROMPT_LIMIT]
    if values.get("vllm_max_model_length"):
        longest.append(values["vllm_max_model_length"] - values["max_completion_length"])
    manifest = Path(values["data"]) / "manifest.json"
    pixels = read_mapping(manifest, "Prepare the data again.").get("max_pixels") if manifest.is_file() else None
    if isinstance(pixels, int) and pixels > 0:
        longest.append(find_family(family).count_image_tokens(pixels) + TEXT_TOKENS)
    return min(longest)


def _activations(values: dict[str, Any], shape: Shape) -> float:
    rows = values["per_device_train_batch_size"]
    shared = values.get("shared_prefix", True) and values.get("attn_implementation") in (None, "sdpa")
    shared = shared and find_family(shape.family).unshared is None
    prompts = count_prompts_at_once(rows, values["num_generations"]) if shared else rows
    completions = rows * values["max_completion_length"]
    tokens = prompts * count_prompt_tokens(values, shape.family) + completions
    width = 2 if values.get("bf16") is not False else 4
    layer = tokens * (12 * shape.hidden + 3 * shape.intermediate) * width
    kept = layer * shape.layers
    if values.get("gradient_checkpointing"):
        kept = tokens * shape.hidden * width * shape.layers + layer
    # TRL's fused head never holds all logits: one tile of this size, which its gradient overwrites
    tile = 4 * min(completions, 4096) * min(shape.vocabulary, 32768)
    return float(kept + tile)


def _estimate_cache(values: dict[str, Any], shape: Shape, processes: int) -> float:
    sequences = divide_rollout(values, processes)[0] // processes
    group = min(values["num_generations"], sequences)
    width = 2 if values.get("bf16") is not False else 4
    # siblings share the blocks of their prompt
    prompts = sequences // group * count_prompt_tokens(values, shape.family)
    tokens = sequences * values["max_completion_length"] + prompts
    return float(2 * shape.layers * shape.key_value_size * width * tokens)

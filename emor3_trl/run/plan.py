"""What a configuration would run: batches, steps, tokens, memory by part, files. No model is loaded for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emor3_trl.files import read_mapping
from emor3_trl.groups.batching import count_batches, count_prompts_at_once, divide_rollout
from emor3_trl.named_rewards import NAMED_REWARDS, asks_reflection, describe_rewards, load_rewards
from emor3_trl.rewards import reward_functions

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}
PIXELS_PER_TOKEN = 28 * 28  # Qwen2.5-VL: 14-pixel patches, merged 2 x 2
PROMPT_LIMIT = 2048  # tokens, as in the reference implementation
_REWARDS = {"reward_variant": "paper", "lambda1": 0.1, "lambda2": 0.1}
TEXT_TOKENS = 200  # the structured prompt and its chat template, rounded up


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2.5-VL that memory depends on.

    Args:
        name: where they come from.
        parameters: all of them; a tied head counts once.
        hidden, layers, key_value_size, intermediate, vocabulary: of the language model; `key_value_size` is the width
            of one layer's keys, all heads.
    """

    name: str
    parameters: int
    hidden: int
    layers: int
    key_value_size: int
    intermediate: int
    vocabulary: int


KNOWN = {
    "Qwen/Qwen2.5-VL-3B-Instruct": Shape("Qwen2.5-VL-3B", 3_754_622_976, 2048, 36, 256, 11008, 151936),
    "Qwen/Qwen2.5-VL-7B-Instruct": Shape("Qwen2.5-VL-7B", 8_292_166_656, 3584, 28, 512, 18944, 152064),
}


def read_shape(path: str) -> Shape:
    """Return the sizes of a model: of a local checkpoint from its config (weights stay on torch's meta device).

    Raises:
        ValueError: if `path` is neither a checkpoint folder nor one of the models whose sizes are known here.
    """
    if path in KNOWN:
        return KNOWN[path]
    if not (Path(path) / "config.json").is_file():
        raise ValueError(
            f"--plan knows the sizes of {', '.join(KNOWN)} and of local checkpoint folders; '{path}' is neither."
        )
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    text = config.get_text_config()
    return Shape(
        name=path,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        key_value_size=text.num_key_value_heads * text.hidden_size // text.num_attention_heads,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
    )


def estimate_memory(values: dict[str, Any], shape: Shape, processes: int) -> list[tuple[str, float, float, float]]:
    """Estimate the memory of one process by part.

    Returns:
        Rows of (part, GiB with DDP or one process, with ZeRO-2, with ZeRO-3 or FSDP). Activations are those of the
        language model for one micro-batch at the longest prompt and completion, a shared prompt once; fragmentation
        and the CUDA context are not counted.
    """
    width = BYTES.get(str(values.get("dtype")), 4)
    lora = bool(values.get("use_peft"))
    trained = _count_lora_parameters(values, shape) if lora else shape.parameters
    base = shape.parameters * (0.55 if values.get("load_in_4bit") else width)
    width = 4 if lora else width  # adapters train in float32
    weights = base + (trained * 4 if lora else 0)
    gradients, optimizer = trained * width, trained * width * 2
    reference = shape.parameters * width if values.get("beta") and not lora else 0.0
    activations = _estimate_activations(values, shape)
    share = 1 / processes
    # DeepSpeed in bf16 trains a bf16 copy and keeps float32 weights with the optimizer's state.
    mixed = values.get("bf16") is not False and width == 4 and not lora
    zero = (weights / 2, gradients / 2, optimizer * 1.5) if mixed else (weights, gradients, optimizer)
    rows = [
        ("weights", weights, zero[0], zero[0] * share),
        ("gradients", gradients, zero[1] * share, zero[1] * share),
        ("optimizer (AdamW)", optimizer, zero[2] * share, zero[2] * share),
        ("reference model (beta > 0)", reference, reference, reference * share),
        ("activations, at most", activations, activations, activations),
    ]
    if values.get("use_vllm") and values.get("vllm_mode") != "server":  # a server has a GPU of its own
        engine = shape.parameters * (2 if values.get("bf16") is not False else width)
        cache = _estimate_cache(values, shape, processes)
        rows += [
            ("vLLM weights", engine, engine, engine),
            ("vLLM KV of one rollout", cache, cache, cache),
        ]
    return [(part, *(value / GIB for value in row)) for part, *row in rows]  # type: ignore[misc]


def describe_run(values: dict[str, Any], samples: int, processes: int) -> str:
    """Return what a configuration would run, as text for a terminal.

    Raises:
        ValueError: if the model's sizes are not known, or the samples do not fill one rollout.
    """
    return "\n".join(_describe_lines(values, samples, processes))


def _describe_lines(values: dict[str, Any], samples: int, processes: int) -> Iterator[str]:
    shape = read_shape(values["model_name_or_path"])
    count = count_batches(values, samples, processes)
    prompt, completion = count_prompt_tokens(values), values["max_completion_length"]
    yield f"model        {values['model_name_or_path']} ({shape.parameters / 1e6:,.1f} M parameters)"
    yield f"data         {values['data']}: {samples:,} samples of {values['train_split']}"
    yield f"processes    {processes}"
    yield (
        f"rollout      {count.prompts} prompts x {values['num_generations']} completions = {count.completions:,} "
        f"completions; {count.rollouts} rollouts"
    )
    if values.get("dynamic_sampling", "none") != "none":
        yield (
            f"sampling     a rollout is refilled by {values['dynamic_sampling']} in at most "
            f"{values['dynamic_sampling_tries']} tries, of at most as many completions each"
        )
    yield f"update       {count.prompts_per_update:g} prompts per optimiser step; {count.updates} steps"
    yield (
        f"tokens       prompt <= {prompt:,}, completion <= {completion:,}: <= "
        f"{count.completions * (prompt + completion):,} per rollout"
    )
    rewards, asks = _describe_rewards(values)
    yield f"rewards      {rewards}"
    questions = f"{2 * count.completions:,} questions per rollout, one engine call" if asks else "none"
    yield f"reflection   {questions}"
    yield ""
    yield "memory of one process, GiB          DDP / one GPU    ZeRO-2    ZeRO-3 / FSDP"
    rows = estimate_memory(values, shape, processes)
    yield from (_format_row(*row) for row in rows)
    training = [row for row in rows if not (values.get("vllm_enable_sleep_mode") and row[0].startswith("vLLM"))]
    generating = [row for row in rows if not row[0].startswith(("gradients", "activations"))]
    for title, counted in (("peak while training", training), ("peak while generating", generating)):
        yield _format_row(
            title, sum(row[1] for row in counted), sum(row[2] for row in counted), sum(row[3] for row in counted)
        )
    yield ""
    yield "files"
    yield from (f"  {name}" for name in list_files(values, count.updates))


def _describe_rewards(values: dict[str, Any]) -> tuple[str, bool]:
    """Return the weighted sum of the rewards in words, and whether one of them asks for the reflection."""
    if values.get("rewards") is not None:
        functions, weights = load_rewards(values["rewards"], values.get("reward_weights"))
        files = dict.fromkeys(name for name in values["rewards"] if name not in NAMED_REWARDS)
        return describe_rewards(functions, weights) + f" ({', '.join(files)})" * bool(files), asks_reflection(functions)
    variant, lambda1, lambda2 = (values.get(name, default) for name, default in _REWARDS.items())
    functions, weights = reward_functions(variant, lambda1, lambda2)
    buffer = values.get("overlong_buffer")
    punished = f" - up to 1 for the last {buffer} tokens" if buffer else ""
    return f"{describe_rewards(functions, weights)}{punished} ({variant})", lambda1 > 0 and variant != "plain"


def _format_row(part: str, alone: float, zero2: float, zero3: float) -> str:
    return f"  {part:<36}{alone:>11.2f}{zero2:>10.2f}{zero3:>17.2f}"


def count_prompt_tokens(values: dict[str, Any]) -> int:
    """Return the longest prompt in tokens: what the engine's length leaves, or the largest prepared picture's."""
    longest = [PROMPT_LIMIT]
    if values.get("vllm_max_model_length"):
        longest.append(values["vllm_max_model_length"] - values["max_completion_length"])
    manifest = Path(values["data"]) / "manifest.json"
    pixels = read_mapping(manifest, "Prepare the data again.").get("max_pixels") if manifest.is_file() else None
    if isinstance(pixels, int) and pixels > 0:
        longest.append(-(-pixels // PIXELS_PER_TOKEN) + TEXT_TOKENS)
    return min(longest)


def list_files(values: dict[str, Any], updates: int) -> list[str]:
    """Return the files that a run writes into its folder."""
    folder = Path(values["output_dir"])
    files = [str(folder / name) for name in ("config.yaml", "environment.json", "trainer_state.json", "metrics.json")]
    weights = "adapter_model.safetensors, merged/" if values.get("use_peft") else "model.safetensors"
    files.append(f"{folder / weights} and the processor")
    if str(values.get("save_strategy")).split(".")[-1].lower() == "steps" and values["save_steps"] >= 1:
        kept = values.get("save_total_limit")
        count = updates // int(values["save_steps"])
        files.append(f"{folder}/checkpoint-N every {values['save_steps']} steps ({min(count, kept or count)} kept)")
    return files


def _count_lora_parameters(values: dict[str, Any], shape: Shape) -> int:
    # attention (q, k, v, o) and the three feed-forward projections, each r x (in + out)
    attention = 2 * (2 * shape.hidden) + 2 * (shape.hidden + shape.key_value_size)
    return int(shape.layers * values["lora_r"] * (attention + 3 * (shape.hidden + shape.intermediate)))


def _estimate_activations(values: dict[str, Any], shape: Shape) -> float:
    rows = values["per_device_train_batch_size"]
    shared = values.get("shared_prefix", True) and values.get("attn_implementation") in (None, "sdpa")
    prompts = count_prompts_at_once(rows, values["num_generations"]) if shared else rows
    completions = rows * values["max_completion_length"]
    tokens = prompts * count_prompt_tokens(values) + completions
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
    tokens = sequences * values["max_completion_length"] + sequences // group * count_prompt_tokens(values)
    return float(2 * shape.layers * shape.key_value_size * width * tokens)

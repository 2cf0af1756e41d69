"""What a configuration would run: batches, steps, tokens, memory by part, files. No model is loaded for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emor3_trl.config_switches import check_contrast
from emor3_trl.groups.batching import count_batches
from emor3_trl.named_rewards import NAMED_REWARDS, asks_reflection, describe_rewards, describe_switches, load_rewards
from emor3_trl.rewards import reward_functions
from emor3_trl.run.memory import count_prompt_tokens, estimate_memory, read_shape, sum_peaks

_REWARDS = {"reward_variant": "paper", "lambda1": 0.1, "lambda2": 0.1}


def describe_run(values: dict[str, Any], samples: int, processes: int) -> str:
    """Return what a configuration would run, as text for a terminal.

    Raises:
        ValueError: if the model's sizes are not known, the samples do not fill one rollout, or the launch would refuse.
    """
    check_contrast(values, processes)
    return "\n".join(_describe_lines(values, samples, processes))


def _describe_lines(values: dict[str, Any], samples: int, processes: int) -> Iterator[str]:
    shape = read_shape(values["model_name_or_path"])
    count = count_batches(values, samples, processes)
    prompt, completion = count_prompt_tokens(values, shape.family), values["max_completion_length"]
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
    if switches := describe_switches(values):
        yield f"             measured with {switches}"
    per_completion = 3 if values.get("contrastive_consistency") else 2
    questions = f"{per_completion * count.completions:,} questions per rollout, one engine call" if asks else "none"
    yield f"reflection   {questions}"
    yield ""
    yield "memory of one process, GiB          DDP / one GPU    ZeRO-2    ZeRO-3 / FSDP"
    rows = estimate_memory(values, shape, processes)
    yield from (_format_row(*row) for row in rows)
    for title, peak in sum_peaks(rows, bool(values.get("vllm_enable_sleep_mode"))).items():
        yield _format_row(title, *peak)
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

"""Does this card carry the run, and how fast? Answered at real size, before anything is downloaded.

    python benchmarks/real_size.py --config recipes/configs/qwen2_5_vl_3b/emoset_emo_r3_lora_24gb.yaml --steps 3
    python benchmarks/real_size.py --config FILE --engine transformers --hidden 128 --layers 2      # a look, on a CPU
    python benchmarks/real_size.py --config FILE --ref_model_dtype bfloat16     # further options are the recipe's

What is real: the architecture, its sizes and its vocabulary; the configuration's precision, adapter, batch, lengths,
engine and sleep mode; `EmoR3Trainer`, whose own code loads, generates, reflects, scores, trains and synchronises;
square pictures at the pixel budget. What is made: weights are random (drawn
on the device, saved in bfloat16, loaded from there as a download is), so the pictures are noise and the rollout is a
text without sense, of exactly `max_completion_length` tokens (it goes on after an end of turn, whose probability is one
in 150,000). These tokens are trained on. Such a text has no steps, so nothing would be asked about it: reflection and
rewards are given well-formed texts of about 200 tokens instead, each another one. What differs: the tokenizer is the
demo's, filled up to Qwen's size, and its chat template has no system prompt (about 20 tokens); `--groups` groups make a
step, not as many as the configuration takes, and one process runs.

It writes runs/benchmarks/real_size_<card>_<config>.json and prints one row of Markdown. Seconds are medians of the
steps after the first one. MFU counts the multiplications of matrices that the training parts need (recomputing, and
attention itself, are left out) against the card's peak. If the run does not fit, it says which part, and exits with 1.
"""

import argparse
import gc
import json
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from real_size_machine import describe_machine, find_peak, held_memory, name_card
from real_size_meter import TRAINING, PartMeter
from real_size_setting import make_completions, make_rows, write_model_folder, write_weights
from transformers import AutoProcessor, TrainerCallback
from trl import ModelConfig, get_peft_config

from emor3_trl.config import EmoR3Config
from emor3_trl.data.pictures import Budget
from emor3_trl.families import Shape
from emor3_trl.run.arguments import GRPOArguments
from emor3_trl.run.command_line import build_model_options, parse_arguments
from emor3_trl.run.memory import GIB, estimate_memory, read_shape, sum_peaks
from emor3_trl.run.recipe import run_recipe

HEADER = (
    "| card | configuration | model | computes in | s/step | rollout | reflection | images | old | reference "
    "| policy | optimizer | sync | peak GiB | planned | parity | tokens/s | MFU |"
)


def main() -> None:
    """Build the run, take its steps, write what they cost."""
    options, further = read_options()
    card = name_card()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        values, run, model, args = read_configuration(options, further, Path(folder))
        shape = read_shape(model.model_name_or_path)
        rows = estimate_memory(values, shape, 1)
        peaks = sum_peaks(rows, bool(args.vllm_enable_sleep_mode))
        plan = {part: whole for part, whole, *_ in rows} | {title: peak[0] for title, peak in peaks.items()}
        record: dict[str, Any] = {
            "configuration": str(options.config), "changed": further, "machine": describe_machine(),
            "parameters": shape.parameters, "computes_in": "bfloat16" if args.bf16 else model.dtype,
            "engine": "vllm" if args.use_vllm else "transformers", "groups": options.groups,
            "planned_gib": plan,
        }  # fmt: skip
        meter = PartMeter()
        try:
            record |= measure_run(options, run, model, args, meter)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError, ValueError) as error:
            if not is_out_of_memory(error):
                raise
            record |= {"does_not_fit": meter.part, "error": " ".join(str(error).split())[:300]}
        finally:
            meter.detach()
    if "does_not_fit" not in record:
        record |= summarise(meter, values, shape, options.peak_tflops)
    name = "_".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in (card, options.config.stem))
    out = options.out or Path("runs/benchmarks") / f"real_size_{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(format_row(card, options.config.stem, record))
    if "does_not_fit" in record:
        raise SystemExit(1)


def read_options() -> tuple[argparse.Namespace, list[str]]:
    """Return this script's options, and those of the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, required=True, help="configuration of recipes/grpo.py")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps; the first one warms up")
    parser.add_argument("--groups", type=int, default=2, help="groups of a step")
    parser.add_argument("--engine", choices=("vllm", "transformers"), help="default: the configuration's")
    parser.add_argument("--pixels", type=int, default=Budget.max_pixels, help="pixels of a picture")
    parser.add_argument("--peak_tflops", type=float, help="peak of the card, where the table does not know it")
    parser.add_argument("--hidden", type=int, help="width of a smaller model")
    parser.add_argument("--layers", type=int, help="layers of a smaller model")
    parser.add_argument("--vocabulary", type=int, help="rows of a smaller embedding")
    parser.add_argument("--scratch", type=Path, help="folder with room for the weights, 2 bytes each")
    parser.add_argument("--out", type=Path, help="file to write")
    return parser.parse_known_args()


def read_configuration(
    options: argparse.Namespace, further: list[str], folder: Path
) -> tuple[dict[str, Any], GRPOArguments, ModelConfig, EmoR3Config]:
    """Return the configuration as the recipe reads it, for one process and a few groups; write the model's folder."""
    argv = ["--config", str(options.config), "--plan", "true", "--processes", "1", *further]
    classes = (GRPOArguments, ModelConfig, EmoR3Config)
    asked = parse_arguments(classes, argv=argv).values
    rows = asked["per_device_train_batch_size"]
    accumulation = max(options.groups * asked["num_generations"] // rows, 1)
    argv += ["--gradient_accumulation_steps", str(accumulation), "--steps_per_generation", str(accumulation)]
    argv += ["--max_steps", str(options.steps), "--report_to", "none", "--save_strategy", "no", "--eval_strategy", "no"]
    argv += ["--log_completions", "false", "--probe_steps", "0", "--disable_tqdm", "true"]
    argv += ["--output_dir", str(folder / "run"), "--data", str(folder / "data")]
    if options.engine:
        argv += ["--use_vllm", str(options.engine == "vllm").lower()]
    if not torch.cuda.is_available():
        argv += ["--use_cpu", "true", "--vllm_enable_sleep_mode", "false"]
        argv += [] if "--bf16" in further else ["--bf16", "false"]
    write_model_folder(
        folder / "model", asked["model_name_or_path"], options.hidden, options.layers, options.vocabulary
    )
    make_rows(folder / "data", 1, options.pixels, asked["prompt_style"])
    parsed = parse_arguments(classes, argv=[*argv, "--model_name_or_path", str(folder / "model")])
    run, model, args = parsed.arguments
    args.model_init_kwargs = build_model_options(model, args.model_init_kwargs)
    return parsed.values, run, model, args


def measure_run(
    options: argparse.Namespace, run: GRPOArguments, model: ModelConfig, args: EmoR3Config, meter: PartMeter
) -> dict[str, Any]:
    """Train for a few steps, and return what the log and the memory say."""
    from emor3_trl import EmoR3Trainer

    class SizedTrainer(EmoR3Trainer):
        """Judges made texts in place of what random weights write."""

        def made(self, count: int) -> list[str]:
            return make_completions(count, self.max_completion_length, self._tokenizer)

        def _reflect(self, texts: list[str]) -> list:
            return super()._reflect(self.made(len(texts)))

        def _calculate_rewards(self, inputs: list, prompts: list, completions: list, completion_ids: list) -> Any:
            texts = [[{"role": "assistant", "content": text}] for text in self.made(len(completions))]
            return super()._calculate_rewards(inputs, prompts, texts, completion_ids)

    class Steps(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            gc.collect()
            meter.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.end()

    processor = AutoProcessor.from_pretrained(model.model_name_or_path, padding_side="left")
    if args.use_vllm:
        args.generation_kwargs = {"ignore_eos": True, **(args.generation_kwargs or {})}
    rows = make_rows(Path(run.data), options.groups * options.steps, options.pixels, run.prompt_style)
    write_weights(Path(str(model.model_name_or_path)), "cuda" if torch.cuda.is_available() else "cpu")
    gc.collect()
    torch.cuda.empty_cache()
    meter.before = before = held_memory()
    meter.switch("building")
    trainer = SizedTrainer(
        model=model.model_name_or_path, args=args, train_dataset=rows, processing_class=processor,
        peft_config=get_peft_config(model),
    )  # fmt: skip
    if not args.use_vllm:
        trainer.generation_config.min_new_tokens = args.max_completion_length
    held = meter.read_held(trainer, before)
    meter.attach(trainer)
    trainer.add_callback(Steps())
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "step_time" in entry]
    gaps = [entry[name] for entry in log for name in entry if name.endswith("logp_difference/mean")]
    return {
        "prompt_tokens": round(
            (log[-1]["num_tokens"] - len(log) * options.groups * args.num_generations * args.max_completion_length)
            / (len(log) * options.groups * args.num_generations)
        ),
        "completion_tokens": args.max_completion_length,
        "shares_prefix": trainer.shares_prefix,
        "reflection_requests": log[-1].get("reflection/requests", 0),
        "parity": statistics.median(gaps) if gaps else None,
        "before_gib": before / GIB,
        "held_gib": {name: size / GIB for name, size in held.items()},
    }


def summarise(meter: PartMeter, values: dict[str, Any], shape: Shape, peak_tflops: float | None) -> dict[str, Any]:
    """Return the medians of the steps: seconds by part, tokens a second, and the share of the card's peak."""
    steps = meter.steps[1:] or meter.steps
    parts = sorted({part for step in steps for part in step["seconds"]})
    seconds = {part: statistics.median(step["seconds"].get(part, 0.0) for step in steps) for part in parts}
    step_seconds = statistics.median(step["step"] for step in steps)
    peak = peak_tflops * 1e12 if peak_tflops else find_peak(name_card())
    training = sum(seconds.get(part, 0.0) for part in TRAINING)
    needed = count_operations(steps[-1], values, shape)
    completions = values["gradient_accumulation_steps"] * values["per_device_train_batch_size"]
    return {
        "step_seconds": step_seconds,
        "seconds": seconds,
        "peak_gib": {part: size / GIB for part, size in meter.memory.items()},
        "highest_gib": meter.find_highest() / GIB,
        "tokens_per_second": completions * values["max_completion_length"] / step_seconds,
        "teraflop_of_training": needed / 1e12,
        "mfu": needed / training / peak if peak else None,
    }


def count_operations(step: dict[str, Any], values: dict[str, Any], shape: Shape) -> float:
    """Return the multiplications and additions that matrices need in the training parts of a step."""
    language, head = shape.linear - shape.vision, shape.vocabulary * shape.hidden
    completions = values["gradient_accumulation_steps"] * values["per_device_train_batch_size"]
    scored = completions * values["max_completion_length"]
    backward = 2 if values.get("use_peft") else 4  # for the input and, where all is trained, for the weight
    total = 0.0
    for part in (part for part in TRAINING if step["tokens"].get(part)):
        factor = 2 + backward * (part == "policy")
        tower_factor = 2 if values.get("freeze_vision_tower") else factor
        total += factor * (language * step["tokens"][part] + head * scored)
        total += tower_factor * shape.vision * step["patches"].get(part, 0)
    return float(total)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, in the words of torch or of vLLM."""
    words = (
        "out of memory",
        "can't allocate memory",
        "No available memory",
        "Free memory on device",
        "KV cache is needed",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in words)


def format_row(card: str, configuration: str, record: dict[str, Any]) -> str:
    """Return the run as a row of Markdown, with its header."""
    size = f"{record['parameters'] / 1e6:,.0f} M"
    first = [card, configuration, size, record["computes_in"]]
    planned = max(value for part, value in record["planned_gib"].items() if part.startswith("peak"))
    if "does_not_fit" in record:
        memory = record["machine"]["memory"]
        card_has = f", the card has {memory / GIB:.0f}" if memory else ""
        return f"| {' | '.join(first)} | does not fit: {record['does_not_fit']}; needs {planned:.1f} GiB{card_has} |"
    seconds = record["seconds"]
    names = ("rollout", "reflection", "images", "old", "reference", "policy", "optimizer", "weight sync")
    cells = [f"{record['step_seconds']:.2f}", *(f"{seconds.get(name, 0.0):.2f}" for name in names)]
    cells += [f"{record['highest_gib']:.2f}", f"{planned:.2f}"]
    parity, mfu = record["parity"], record["mfu"]
    cells += ["–" if parity is None else f"{parity:.1e}", f"{record['tokens_per_second']:.0f}"]
    cells.append("–" if mfu is None else f"{mfu:.1%}")
    columns = HEADER.count("|") - 1
    return f"{HEADER}\n{'|---' * columns}|\n| {' | '.join([*first, *cells])} |"


if __name__ == "__main__":
    run_recipe(main)

"""What W&B and trackio cost, with pictures: seconds of logging, and processor time of a step, as shares of a step.

    python benchmarks/tracking_cost.py --rounds 5

Three trainings of the demo's model do the same work in turn: without tracking, with W&B (offline) and with trackio.
Each logs its metrics at every step, and a table of completions with images every --every steps. The processor time
holds all threads and W&B's own process; unlike the clock, it does not depend on what else the machine does. Needs the
demo (`python recipes/prepare_data.py`).
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil

ARMS = ("none", "wandb", "trackio")
KINDS = ("step", "logging", "processor")


def main() -> None:
    """Build the three trainers, let them train in turn, and print medians over rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/base")
    parser.add_argument("--data", default="runs/demo/data/sketches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a round; the first is not counted")
    parser.add_argument("--every", type=int, default=1, help="steps between two tables (log_completions_steps)")
    parser.add_argument("--output", help="JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Read when wandb and trackio are imported
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": folder, "WANDB_SILENT": "true", "TRACKIO_DIR": folder}
        trainers = {arm: build_trainer(arm, Path(folder), options) for arm in ARMS}
        seconds: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for number in range(options.rounds + 1):
            for place in range(len(ARMS)):  # another arm begins each round
                arm = ARMS[(number + place) % len(ARMS)]
                measured = measure_round(trainers[arm])
                if number:  # the first round warms up
                    seconds[arm].append(measured)
        import wandb

        wandb.finish()
    result = summarise(seconds)
    for arm, row in result.items():
        print(
            f"{arm:<8} step {row['step']:.2f} s; logging {row['logging']:.3f} s, {row['logging_share']:+.2%} of it; "
            f"processor {row['processor']:.2f} s, {row['processor_ratio']:.3f} of none "
            f"({row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f})"
        )
    if options.output:
        Path(options.output).write_text(json.dumps({**vars(options), "arms": result}, indent=1) + "\n")


def build_trainer(arm: str, folder: Path, options: argparse.Namespace) -> Any:
    """Return the trainer of an arm."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from emor3_trl import EmoR3Config, EmoR3Trainer
    from emor3_trl.data import load_split

    args = EmoR3Config(
        str(folder / arm), use_vllm=False, use_cpu=True, bf16=False, num_generations=8, per_device_train_batch_size=32,
        max_completion_length=96, max_steps=options.steps, learning_rate=1e-6, logging_steps=1, save_strategy="no",
        disable_tqdm=True, gradient_checkpointing=False, log_completions=True, num_completions_to_print=0,
        log_completions_steps=options.every, report_to=[] if arm == "none" else [arm], run_name=arm, project="cost",
    )  # fmt: skip
    return EmoR3Trainer(
        model=AutoModelForImageTextToText.from_pretrained(options.model),
        args=args,
        train_dataset=load_split(options.data, "train"),
        processing_class=AutoProcessor.from_pretrained(options.model, padding_side="left"),
    )


def measure_round(trainer: Any) -> dict[str, float]:
    """Train, and return the medians over steps, without the first, of the seconds of each thing in `KINDS`."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    steps: list[dict[str, float]] = []
    log = type(trainer).log
    started, processor = perf_counter(), read_processor_time()

    def timed(logs: dict[str, float], start_time: float | None = None) -> None:
        nonlocal started, processor
        begun = perf_counter()
        log(trainer, logs, start_time)
        ended, used = perf_counter(), read_processor_time()
        if "reward" in logs:
            steps.append({"step": ended - started, "logging": ended - begun, "processor": used - processor})
        started, processor = ended, used

    trainer.log, trainer._last_table = timed, None
    trainer.train()
    return {kind: median(step[kind] for step in steps[1:]) for kind in KINDS}


def read_processor_time() -> float:
    """Return the processor seconds that this process and those that it started have used."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def summarise(rounds: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return medians over rounds; what is compared is of one round, because the machine changes between them."""
    result: dict[str, dict[str, float]] = {}
    for arm, measured in rounds.items():
        pairs = list(zip(measured, rounds["none"], strict=True))
        ratios = [row["processor"] / base["processor"] for row, base in pairs]
        result[arm] = {
            **{kind: median(row[kind] for row in measured) for kind in KINDS},
            "logging_share": median((row["logging"] - base["logging"]) / base["step"] for row, base in pairs),
            "processor_ratio": median(ratios),
            "lowest_ratio": min(ratios),
            "highest_ratio": max(ratios),
        }
    return result


if __name__ == "__main__":
    main()

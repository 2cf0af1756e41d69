"""Does a long run stay as it is? Five hundred steps of the demo, and what the process holds along them.

    python recipes/prepare_data.py                 # the demo's model and data, once
    python benchmarks/soak.py

The demo's GRPO run, at half its batch, with all that a run has: reflection, a synchronisation of weights to vLLM at
each step, validation every 25 steps, checkpoints every 50, and W&B offline. Every few steps it measures memory,
tensors, Python objects, file handles, threads, shared memory, vLLM's caches and tables, and TRL's buffers
(`soak_meter.py`). What grows more than it may after the first two fifths of the steps ends the command with exit
code 1.

Figures: runs/benchmarks/soak.json and docs/soak.png.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("WANDB_SILENT", "true")

from soak_meter import HELD, WARM_UP, WRITTEN, describe_machine, find_growth, fit_trends, measure

CONFIG = Path(__file__).parents[1] / "recipes" / "configs" / "demo" / "emo_r3.yaml"


def build_trainer(folder: Path, options: Sequence[str] = ()) -> Any:
    """Return the trainer of the demo's run, as `recipes/grpo.py` builds it.

    Args:
        folder: where the run is kept.
        options: flags that override the demo's configuration.
    """
    from trl import ModelConfig

    from emor3_trl import EmoR3Config, EmoR3Trainer
    from emor3_trl.evaluation.validation import Validation
    from emor3_trl.run.arguments import GRPOArguments
    from emor3_trl.run.command_line import parse_arguments
    from emor3_trl.run.start import load_validation, open_run
    from emor3_trl.run.tracking import start_tracking

    flags = ["--output_dir", str(folder), "--disable_tqdm", "true", "--validation_splits", "validation"]
    parsed = parse_arguments((GRPOArguments, ModelConfig, EmoR3Config), CONFIG, [*flags, *options])
    run, model, args = parsed.arguments
    opened = open_run(parsed)
    assert opened is not None
    opened.folder.begin()
    start_tracking(opened.folder, args)
    trainer = EmoR3Trainer(
        model=model.model_name_or_path, args=args, train_dataset=opened.train, processing_class=opened.processor
    )
    trainer.add_callback(Validation(trainer, load_validation(run, args.seed), run.validation_steps))
    return trainer


def watch(trainer: Any, folder: Path, every: int) -> list[dict[str, float]]:
    """Return a list that gets what the process holds, every few steps of the training."""
    from transformers import TrainerCallback

    curve: list[dict[str, float]] = []
    start = perf_counter()

    class Watch(TrainerCallback):
        # A step begins after the log, the validation and the checkpoint of the one before
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step % every == 0:
                curve.append(measure(trainer, folder) | {"seconds": round(perf_counter() - start, 1)})
                if state.global_step % (20 * every) == 0:
                    print(" ".join(f"{name} {value:g}" for name, value in curve[-1].items()), flush=True)

        def on_train_end(self, args, state, control, **kwargs):
            curve.append(measure(trainer, folder) | {"seconds": round(perf_counter() - start, 1)})

    trainer.add_callback(Watch())
    return curve


def plot(curve: Sequence[dict[str, float]], path: Path) -> None:
    """Draw a panel for each thing; what is not judged is shaded."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {name: held.title for name, held in HELD.items()} | WRITTEN
    panels = list(figure.subplots(4, 5).flat)
    for axis, (name, title) in zip(panels, titles.items(), strict=False):
        axis.plot([point["step"] for point in curve], [point[name] for point in curve], linewidth=1)
        axis.axvspan(0, WARM_UP * curve[-1]["step"], color="0.92", linewidth=0)
        axis.set_title(title, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_ylim(0, max(1, 1.15 * max(point[name] for point in curve)))
        axis.grid(alpha=0.3)
    for axis in panels[len(titles) :]:
        axis.axis("off")
    figure.savefig(path, dpi=80)


def main() -> None:
    """Train, watch, judge, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--completions", type=int, default=32, help="completions of a step, in groups of 8")
    parser.add_argument("--every", type=int, default=5, help="steps between two measurements")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--plot", type=Path, default=Path("docs/soak.png"))
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / "run"
        flags = ["--max_steps", str(args.steps), "--per_device_train_batch_size", str(args.completions)]
        flags += ["--validation_steps", "25", "--validation_samples", "32", "--save_steps", "50"]
        trainer = build_trainer(folder, flags)
        curve = watch(trainer, folder, args.every)
        trainer.train()
    growth, trends = find_growth(curve), fit_trends(curve)
    result = {
        "machine": describe_machine(),
        "steps": args.steps,
        "completions": args.completions,
        "reward": [entry["reward"] for entry in trainer.state.log_history if "reward" in entry],
        "growth_in_100_steps": trends,
        "allowed_in_100_steps": {name: held.allowed for name, held in HELD.items()},
        "grows": growth,
        "curve": [{name: round(value, 2) for name, value in point.items()} for point in curve],
    }
    (args.output_dir / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(curve, args.plot)
    for name, held in HELD.items():
        mark = "GROWS" if name in growth else ""
        print(f"{held.title:<42} {trends[name]:>10.2f} in 100 steps, {held.allowed:g} are allowed {mark}")
    sys.exit(1 if growth else 0)


if __name__ == "__main__":
    main()

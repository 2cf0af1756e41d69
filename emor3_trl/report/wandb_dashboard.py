"""The W&B dashboard as code: which metrics stand together, built from what a run logged, written and read as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emor3_trl.files import read_mapping, write_text
from emor3_trl.report.evaluated import load_log_history
from emor3_trl.report.metrics_page import find_metric, list_metrics

X_AXIS = "train/global_step"
DIAGNOSTIC = ("diagnostics/", "alarms/")
# What Transformers' callback keeps as a number of the run, without a curve
SINGLE_VALUES = frozenset({
    "train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos",
})  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """One panel.

    Args:
        title: its title.
        names: documented metrics (see docs/METRICS.md); all keys of a run that they match are drawn.
        stacked: whether the curves are parts of a whole.
    """

    title: str
    names: tuple[str, ...]
    stacked: bool = False


SECTIONS: dict[str, tuple[Plot, ...]] = {
    "Training health": (
        Plot("Loss", ("loss", "policy_loss")),
        Plot("Gradient norm", ("grad_norm",)),
        Plot("KL to the reference model", ("kl",)),
        Plot("Entropy of the next token", ("entropy",)),
        Plot("Gap between engine and trainer (on-policy?)", ("sampling/sampling_logp_difference/mean",)),
        Plot("Clipped tokens", ("clip_ratio/low_mean", "clip_ratio/high_mean", "cispo_clip_ratio")),
        Plot("Length of completions", ("completions/mean_length", "completions/max_length")),
        Plot("Completions that were cut off", ("completions/clipped_ratio",)),
        Plot("Learning rate", ("learning_rate",)),
        Plot("Cold start: right answer tokens", ("mean_token_accuracy",)),
    ),
    "Rewards": (
        Plot("Overall reward", ("reward",)),
        Plot("Each reward, before its weight", ("rewards/<reward>/mean",)),
        Plot("Spread of each reward", ("rewards/<reward>/std",)),
        Plot("Groups that teach nothing", ("frac_reward_zero_std",)),
    ),
    "Reflection": (
        Plot("Questions", ("reflection/requests",)),
        Plot("Tokens of the questions, and of them cached", ("reflection/prompt_tokens", "reflection/cached_tokens")),
        Plot("Tokens of the answers", ("reflection/generated_tokens",)),
    ),
    "Cost": (
        Plot("Seconds of a step by part", ("time/rollout", "time/reflection", "time/rewards", "time/training"), True),
        Plot("Seconds of a step", ("step_time",)),
        Plot("Generated tokens per second", ("rollout/tokens_per_second",)),
        Plot("Seconds of a validation", ("time/validation",)),
        Plot("Tokens of a packed forward, as a share", ("shared_prefix/token_share",)),
        Plot("Dynamic sampling: dropped and starved", ("rollout/dropped_share", "rollout/starved_share")),
        Plot("Dynamic sampling: rollouts of a step", ("rollout/tries",)),
    ),
}  # fmt: skip


def collect_keys(run: Path, evaluation: Path | None = None) -> tuple[list[str], list[str]]:
    """Return the keys that a run logged, and those of an evaluation.

    Args:
        run: the folder of a training run.
        evaluation: the folder of an evaluated model; None for none.

    Raises:
        FileNotFoundError: if a folder holds no log, or no metrics.
    """
    logged = dict.fromkeys(key for entry in load_log_history(run) for key in entry if key != "step")
    if not logged:
        raise FileNotFoundError(f"'{run}' holds no log of a training run. Name the folder of one (--run runs/mine).")
    if evaluation is None:
        return list(logged), []
    metrics = evaluation / "metrics.json"
    if not metrics.is_file():
        raise FileNotFoundError(f"'{metrics}' is not there. Name the folder of an evaluated model (--evaluation …).")
    return list(logged), list(read_mapping(metrics, "Evaluate the model again."))


def name_in_wandb(key: str) -> str:
    """Return what Transformers' callback calls a key of the log in W&B and in trackio.

    >>> name_in_wandb("reward"), name_in_wandb("eval_loss"), name_in_wandb("eval/toons/accuracy")
    ('train/reward', 'eval/loss', 'train/eval/toons/accuracy')
    """
    if key in SINGLE_VALUES:
        return key
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def plan_sections(logged: Iterable[str], evaluated: Iterable[str] = ()) -> dict[str, list[tuple[Plot, list[str]]]]:
    """Return each section's panels with the keys of a run that they draw, as W&B names them; empty ones are left out.

    Args:
        logged: keys of a training run.
        evaluated: keys of an evaluation.
    """
    logged, evaluated = list(logged), list(evaluated)
    plots = {**SECTIONS, "Diagnostics and alarms": _plot_diagnostics(logged)}
    sections = {
        title: [(plot, [name_in_wandb(key) for key in _match_keys(plot, logged)]) for plot in members]
        for title, members in plots.items()
    }
    for dataset in _list_datasets([*logged, *evaluated]):
        sections[f"Evaluation: {dataset}"] = [
            (
                Plot(f"{measure} while training", (f"eval/<dataset>/{measure}",)),
                [name_in_wandb(key) for key in logged if key == f"eval/{dataset}/{measure}"],
            )
            for measure in ("accuracy", "format_rate")
        ] + [
            (
                Plot(f"{measure}, evaluated", (f"eval/<dataset>/{measure}",)),
                [key for key in evaluated if key == f"eval/{dataset}/{measure}"],
            )
            for measure in ("accuracy", "macro_f1", "format_rate", "agreement")
        ]
    kept = {title: [(plot, keys) for plot, keys in members if keys] for title, members in sections.items()}
    return {title: members for title, members in kept.items() if members}


def build_dashboard(
    sections: Mapping[str, Sequence[tuple[Plot, Sequence[str]]]], project: str, entity: str = ""
) -> Any:
    """Return the dashboard as a `Workspace` of wandb-workspaces.

    Args:
        sections: what `plan_sections` returns.
        project: the project of W&B.
        entity: the user or team of W&B.
    """
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2

    built = []
    for title, members in sections.items():
        panels: list[Any] = [v2.MarkdownPanel(markdown=_explain(members))]
        for plot, keys in members:
            if plot.title.endswith(", evaluated"):
                panels.append(v2.BarPlot(title=plot.title, metrics=list(keys)))
            else:
                style: Literal["stacked-area", "line"] = "stacked-area" if plot.stacked else "line"
                panels.append(v2.LinePlot(title=plot.title, x=X_AXIS, y=list(keys), plot_type=style))
        if title == "Rewards":
            panels.append(v2.WeavePanelSummaryTable(table_name="completions"))
        built.append(workspaces.Section(name=title, panels=panels, is_open=True))
    settings = workspaces.WorkspaceSettings(x_axis=X_AXIS)
    return workspaces.Workspace(entity=entity, project=project, name="EMO-R3", sections=built, settings=settings)


def write_dashboard(dashboard: Any, path: Path) -> None:
    """Write a dashboard as the JSON that W&B stores."""
    text = dashboard._to_model().model_dump_json(by_alias=True, exclude_none=True)
    write_text(path, json.dumps(json.loads(text), indent=1) + "\n")


def read_dashboard(path: Path) -> Any:
    """Read a dashboard that `write_dashboard` wrote, with the library's own classes."""
    from wandb_workspaces.workspaces import Workspace, internal

    return Workspace._from_model(internal.View.model_validate_json(path.read_text(encoding="utf-8")))


def _match_keys(plot: Plot, keys: Sequence[str]) -> list[str]:
    metrics = [metric for metric in list_metrics() if metric.name in plot.names]
    found = [key for metric in metrics for key in keys if metric.matches(key)]
    return found or [key for key in keys if key in plot.names]


def _plot_diagnostics(keys: Sequence[str]) -> tuple[Plot, ...]:
    """Return a panel for each diagnostic; those of one family, such as `answer_entropy/<emotion>`, share one."""
    families: dict[str, list[str]] = {}
    for key in keys:
        if key.startswith(DIAGNOSTIC):
            families.setdefault("/".join(key.split("/")[:2]), []).append(key)
    return tuple(Plot(family.partition("/")[2].replace("_", " "), tuple(names)) for family, names in families.items())


def _list_datasets(keys: Iterable[str]) -> list[str]:
    """Return the data sets that were validated or evaluated."""
    parts = [key.split("/") for key in keys if key.startswith("eval/") and key.endswith("/accuracy")]
    return list(dict.fromkeys(part[1] for part in parts if len(part) == 3))


def _explain(members: Sequence[tuple[Plot, Sequence[str]]]) -> str:
    """Return the text at the head of a section: what each panel shows, and when to worry."""
    lines = []
    for plot, keys in members:
        metric = next((metric for metric in list_metrics() if metric.name in plot.names), None) or find_metric(keys[0])
        if metric:
            lines.append(
                f"- **{plot.title}**: {metric.meaning.rstrip('.')}. Healthy: {metric.healthy}. {metric.action}"
            )
    return "\n".join(lines) or "docs/METRICS.md explains each."

"""docs/METRICS.md: a table for each group of metrics, made from their records."""

from collections.abc import Iterator

from emor3_trl import logged_metrics
from emor3_trl.diagnostics import DIAGNOSTICS
from emor3_trl.evaluation.logged_metrics import BOUNDS, EVALUATION
from emor3_trl.logged_metrics import LoggedMetric

# Title, what the group tells, and its records
GROUPS: dict[str, tuple[str, tuple[LoggedMetric, ...]]] = {
    "Rewards": ("What the completions earn.", logged_metrics.REWARDS),
    "Reflection": ("What the policy's second look at its own steps costs.", logged_metrics.REFLECTION),
    "Rollout": ("What is generated, and whether it is on-policy.", logged_metrics.ROLLOUT),
    "Optimisation": ("What the optimizer does.", logged_metrics.OPTIMISATION),
    "Time": ("Where the seconds go. The four parts of a step add up to `step_time`.", logged_metrics.TIME),
    "Diagnostics": (
        "What a reward curve hides, what the probes find, and the alarms. [DIAGNOSTICS.md](DIAGNOSTICS.md) has the "
        "formulas and the limits.",
        DIAGNOSTICS,
    ),
    "Validation": (
        "What the policy answers to pictures that it is not trained on, while it trains. With `eval_split`, TRL logs "
        "all metrics of the other groups over that split too, with `eval_` before their names.",
        logged_metrics.VALIDATION,
    ),
    "Evaluation": (
        "What `recipes/evaluate.py` measures. Beside every rate and mean stand the ends of its 95% interval, under the "
        "same name with `_low` and `_high`.",
        EVALUATION,
    ),
}

_HEAD = """# Metrics

Every number that a run logs: its unit, what it means, which values a healthy run shows, and what to do about others.
`trainer_state.json` in the run's folder holds the metrics of training under these names, and `metrics.json` those of an
evaluation. W&B and trackio show a metric of training as `train/<name>`, and one whose name begins with `eval_` as
`eval/…`. A part in angle brackets varies: `rewards/<reward>/mean` stands for `rewards/accuracy_reward/mean` and others.

A healthy range is what this project saw on its own runs and what TRL's documentation says; a model of another size may
differ. This page is generated from the records of the metrics. How to see them: [TRACKING.md](TRACKING.md).
"""


def list_metrics() -> Iterator[LoggedMetric]:
    """Yield the records of all groups."""
    for _, metrics in GROUPS.values():
        yield from metrics


def find_metric(key: str) -> LoggedMetric | None:
    """Return the record of a logged key, or None if there is none.

    Args:
        key: as trainer_state.json or metrics.json has it.

    >>> find_metric("rewards/accuracy_reward/mean").unit
    'points'
    >>> find_metric("eval/sketches/accuracy_low").name
    'eval/<dataset>/accuracy'
    """
    for name in (key, key.removeprefix("eval_")):
        metric = next((metric for metric in list_metrics() if metric.matches(name)), None)
        if metric:
            return metric
    bound = next((bound for bound in BOUNDS if key.endswith(bound)), None)
    return next((metric for metric in EVALUATION if bound and metric.matches(key.removesuffix(bound))), None)


def describe_metrics() -> str:
    """Return docs/METRICS.md."""
    parts = [_HEAD]
    for title, (about, metrics) in GROUPS.items():
        rows = [
            f"| `{metric.name}` | {metric.unit} | {metric.meaning} | {metric.healthy} | {metric.action} |"
            for metric in metrics
        ]
        head = "| name | unit | meaning | healthy | what to do |\n|---|---|---|---|---|"
        parts.append("\n".join([f"\n## {title}\n\n{about}\n", head, *rows, ""]))
    return "".join(parts)

"""What the page shows, as JSON values: results, comparisons, calibration, curves, confusion, cases and training."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from emor3_trl.evaluation.calibration import bin_reliability, collect_confidences, trace_selective_accuracy
from emor3_trl.evaluation.comparison import compare_predictions
from emor3_trl.evaluation.metrics import (
    average_accuracies,
    collect_labels,
    confusion_matrix,
    score_classes,
    summarise_predictions,
)
from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.report.evaluated import Evaluation, choose_in_domain, choose_model
from emor3_trl.report.page.cases import choose_rewards, make_cases
from emor3_trl.report.page.thumbnails import make_thumbnails
from emor3_trl.report.page.training import gather_training, number_runs, title_runs
from emor3_trl.report.rollouts import TrainingRun

# Panels of the training curves: title, keys of the log (the first that is there counts), unit
PANELS = (
    ("Overall reward", ("reward",), "mean reward"),
    ("KL", ("kl",), "KL per token"),
    ("Completion length", ("completions/mean_length",), "tokens"),
    ("Accuracy", ("rewards/accuracy_reward/mean",), "mean reward"),
    ("Consistency", ("rewards/consistency_reward/mean",), "mean reward"),
    ("Coherence", ("rewards/coherence_reward/mean",), "mean reward"),
    ("Format", ("rewards/format_reward/mean", "rewards/think_format_reward/mean"), "mean reward"),
)

# Of a page without evaluations
NOTHING: dict[str, Any] = {
    **dict.fromkeys(("baseline", "trained", "casesTotal"), 0),
    **{
        name: []
        for name in ("models", "datasets", "metrics", "means", "comparisons", "calibration", "confusion", "cases")
    },
    **{name: [] for name in ("pictures", "picturesMissing")},
}


def gather_content(
    evaluations: Sequence[Evaluation],
    *,
    title: str,
    training: Sequence[TrainingRun] = (),
    in_domain: Sequence[str] | None = None,
    baseline: str | None = None,
    trained: str | None = None,
    data: Sequence[str] | None = None,
    max_cases: int = 5_000,
) -> dict[str, Any]:
    """Gather what the page shows.

    Args:
        evaluations: the models, see `load_evaluations`.
        title: heading of the page.
        training: what runs logged while they trained, see `load_training_runs`.
        in_domain: the data sets that count as in-domain (default: what each evaluation was told). The page marks a data
            set that is in-domain for some models only at each of them.
        baseline: the model that the others are compared with when the page opens (default: base, else the first).
        trained: the model that stands beside it in the cases (default: emo_r3, else the last).
        data: folders of prepared data with the images (default: where each evaluation found them).
        max_cases: cases on the page, at most; of more, so many are drawn at random.

    Returns:
        JSON values; lists are in the order of `models` and `datasets`, None where a model was not shown a data set.
        Without an evaluation these lists are empty, and the page is about training alone.

    Raises:
        ValueError: if a named model or data set is not there, or one name stands for different data of two models.
    """
    page = _gather_evaluated(evaluations, in_domain, baseline, trained, data, max_cases) if evaluations else NOTHING
    thumbnails = list(page["pictures"])
    return {
        **page,
        "title": title,
        "titles": title_runs(training, evaluations),
        "curves": gather_curves(_collect_logs(evaluations, training)),
        "training": gather_training(training, evaluations, thumbnails, data),
        "pictures": thumbnails,
    }


def _collect_logs(evaluations: Sequence[Evaluation], training: Sequence[TrainingRun]) -> list[list[dict[str, Any]]]:
    """Return the log of each model and of each run without an evaluation, in the order of their titles."""
    logs = dict(enumerate(row.log for row in evaluations))
    for run, number in zip(training, number_runs(training, evaluations), strict=True):
        logs[number] = run.log if len(run.log) >= len(logs.get(number, ())) else logs[number]
    return list(logs.values())


def _gather_evaluated(
    evaluations: Sequence[Evaluation],
    in_domain: Sequence[str] | None,
    baseline: str | None,
    trained: str | None,
    data: Sequence[str] | None,
    max_cases: int,
) -> dict[str, Any]:
    """Return what the page shows about evaluated models; see `gather_content`."""
    before, after = choose_model(evaluations, baseline, "base", 0), choose_model(evaluations, trained, "emo_r3", -1)
    in_domain_sets = choose_in_domain(evaluations, in_domain)
    names = _order_datasets(evaluations, in_domain_sets)
    shown = [[evaluation.predictions.get(name) for evaluation in evaluations] for name in names]  # [data set][model]
    labels = [collect_labels([row for rows in models if rows for row in rows]) for models in shown]
    comparisons = [_compare_models(models, evaluations) for models in shown]
    cases, total = make_cases(evaluations, names, max_cases)
    thumbnails, missing = make_thumbnails(evaluations, names, cases, data)
    return {
        "models": [_describe_model(evaluation) for evaluation in evaluations],
        "baseline": before,
        "trained": after,
        "datasets": [
            _describe_dataset(name, models, dataset_labels, [name in inside for inside in in_domain_sets])
            for name, models, dataset_labels in zip(names, shown, labels, strict=True)
        ],
        "metrics": [[None if rows is None else _measure(rows) for rows in models] for models in shown],
        "means": [
            _average(row.predictions, names, inside) for row, inside in zip(evaluations, in_domain_sets, strict=True)
        ],
        "comparisons": comparisons,
        "calibration": [[None if rows is None else _calibrate(rows) for rows in models] for models in shown],
        "confusion": [
            [None if rows is None else _count_confusions(rows, dataset_labels) for rows in models]
            for models, dataset_labels in zip(shown, labels, strict=True)
        ],
        "cases": cases,
        "casesTotal": total,
        "pictures": thumbnails,
        "picturesMissing": missing,
    }


def _order_datasets(evaluations: Sequence[Evaluation], in_domain_sets: Sequence[Sequence[str]]) -> list[str]:
    """Return the names of all data sets; those that are in-domain for more models come first."""
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.predictions)
    return sorted(names, key=lambda name: -sum(name in inside for inside in in_domain_sets))


def _describe_dataset(
    name: str, models: Sequence[Sequence[Prediction] | None], labels: list[str], in_domain: Sequence[bool]
) -> dict[str, Any]:
    return {
        "name": name,
        "inDomain": all(in_domain),
        "inDomainOf": [index for index, inside in enumerate(in_domain) if inside],
        "labels": labels,
        "n": sorted({len(rows) for rows in models if rows is not None}),
    }


def _describe_model(evaluation: Evaluation) -> dict[str, Any]:
    configured = ("model", "prompt_style", "engine", "dtype", "max_tokens", "seed")
    about = {key: evaluation.config.get(key) for key in configured}
    about |= {key: evaluation.environment.get(key) for key in ("started", "commit")}
    rewards = choose_rewards(evaluation)
    return {
        "name": evaluation.name,
        "title": evaluation.title,
        "run": str(evaluation.run),
        "rewards": rewards.parts,
        "about": {key: value for key, value in about.items() if value is not None} | {"rewards": rewards.origin},
    }


def _measure(rows: Sequence[Prediction]) -> dict[str, float]:
    """Return the metrics of one data set; `_count_confusions` has those of each emotion."""
    values = {key.removeprefix(f"eval/{rows[0].dataset}/"): value for key, value in summarise_predictions(rows).items()}
    return {key: value for key, value in values.items() if not key.startswith("class/")}


def _calibrate(rows: Sequence[Prediction]) -> dict[str, Any] | None:
    """Return the reliability diagram and the selective accuracy; None without label probabilities."""
    known = collect_confidences(rows)
    if not len(known.confidence):
        return None
    bins = [{key: round(value, 4) for key, value in entry.items()} for entry in bin_reliability(known)]
    curve = [{key: round(value, 4) for key, value in point.items()} for point in trace_selective_accuracy(known)]
    return {"n": len(known.confidence), "of": len(rows), "bins": bins, "curve": curve}


def _average(
    predictions: Mapping[str, Sequence[Prediction]], names: Sequence[str], in_domain: Sequence[str]
) -> list[dict[str, float] | None]:
    """Return the paper's A^I, A^O and A of one model, each with its interval; None over a data set that it lacks."""
    right = {name: (sum(row.correct for row in rows), len(rows)) for name, rows in predictions.items()}
    means = average_accuracies(right, in_domain)
    absent = [name for name in names if name not in predictions]
    incomplete = {
        "in_domain": any(name in in_domain for name in absent),
        "out_of_domain": any(name not in in_domain for name in absent),
        "overall": bool(absent),
    }
    ends = {"value": "", "low": "_low", "high": "_high"}
    return [
        None
        if missing or f"eval/mean/{group}" not in means
        else {name: means[f"eval/mean/{group}{end}"] for name, end in ends.items()}
        for group, missing in incomplete.items()
    ]


def _compare_models(
    models: Sequence[Sequence[Prediction] | None], evaluations: Sequence[Evaluation]
) -> list[list[dict[str, float] | None]]:
    """Return how model b differs from model a at [a][b]; each pair is computed once and mirrored."""
    table: list[list[dict[str, float] | None]] = [[None] * len(models) for _ in models]
    for a, first in enumerate(models):
        for b, second in enumerate(models[:a]):
            if first is None or second is None:
                continue
            try:
                comparison = compare_predictions(second, first)
            except ValueError as error:
                raise ValueError(f"{evaluations[b].title} and {evaluations[a].title}: {error}") from error
            common = {"n": comparison.n, "p": comparison.p_value}
            table[b][a] = common | {
                "difference": comparison.difference, "low": comparison.low, "high": comparison.high,
                "fixed": comparison.only_b, "broken": comparison.only_a,
            }  # fmt: skip
            table[a][b] = common | {
                "difference": -comparison.difference, "low": -comparison.high, "high": -comparison.low,
                "fixed": comparison.only_a, "broken": comparison.only_b,
            }  # fmt: skip
    return table


def _count_confusions(rows: Sequence[Prediction], labels: Sequence[str]) -> dict[str, Any]:
    """Return the counts (L, L + 1), and recall and F1 of each emotion (value, low, high; None: nothing to count)."""
    matrix = confusion_matrix([row.emotion for row in rows], [row.answer for row in rows], labels)
    classes = score_classes(matrix, labels)
    shown = {label: scores for label, scores in classes.items() if scores["support"]}
    return {
        "counts": matrix.tolist(),
        "recall": [_with_interval(shown.get(label), "recall") for label in labels],
        "f1": [_with_interval(classes.get(label), "f1") for label in labels],
    }


def _with_interval(values: Mapping[str, float] | None, name: str) -> list[float] | None:
    return None if values is None else [values[f"{name}{end}"] for end in ("", "_low", "_high")]


def gather_curves(logs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the panels of the training curves with a line for each log that has the value.

    Rewards of the user's follow the paper's.

    Args:
        logs: of the trainings of the models, in their order; empty of a model that no known run trained.
    """
    panels = []
    known = {key for _, keys, _ in PANELS for key in keys}
    logged = dict.fromkeys(key for log in logs for entry in log for key in entry)
    own = [re.fullmatch("rewards/(.+)/mean", key) for key in logged if key not in known]
    further = [(f"Reward {match[1].removesuffix('_reward')}", (match[0],), "mean reward") for match in own if match]
    for title, keys, unit in (*PANELS, *further):
        lines = []
        for index, log in enumerate(logs):
            points = [
                (entry["step"], round(float(entry[key]), 6))
                for entry in log
                for key in [next((key for key in keys if key in entry), "")]
                if key and "step" in entry and "reward" in entry and math.isfinite(float(entry[key]))
            ]
            if points:
                steps, values = zip(*points, strict=True)
                lines.append({"model": index, "steps": steps, "values": values})
        if lines:
            panels.append({"title": title, "unit": unit, "lines": lines})
    return panels

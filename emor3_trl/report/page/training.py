"""The training half of the page: groups of completions step by step, and the pictures that they are about."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from emor3_trl.checkpoints import fingerprint
from emor3_trl.emotions import canonical
from emor3_trl.report.evaluated import Evaluation
from emor3_trl.report.page.cases import cut_text
from emor3_trl.report.page.thumbnails import make_thumbnail
from emor3_trl.report.pictures import read_images
from emor3_trl.report.rollouts import Group, TrainingRun, measure_disagreement, name_reward, sum_rewards
from emor3_trl.thinking import boxed_answer

MAX_COMPLETIONS = 4_000  # on a page

Image = tuple[str, str]  # fingerprint of the data, or the name of their folder where it is not known; id


def gather_training(
    runs: Sequence[TrainingRun],
    evaluations: Sequence[Evaluation],
    thumbnails: list[str],
    data: Sequence[str] | None = None,
    max_completions: int = MAX_COMPLETIONS,
) -> dict[str, Any]:
    """Return the runs, their groups and the pictures of these as JSON values.

    Args:
        runs: see `load_training_runs`.
        evaluations: the models of the page, whose colours their runs share.
        thumbnails: of the page; those of the training pictures are added.
        data: folders of prepared data to look in, instead of where each run found it.
        max_completions: on the page, see `choose_groups`.

    Returns:
        `runs`, `groups` (run by run, step by step) and `images`.
    """
    chosen = choose_groups(runs, max_completions)
    emotions = {
        identify_image(run, group): group.emotion
        for run, groups in zip(runs, chosen, strict=True)
        for group in groups
        if group.image is not None
    }
    numbers = {image: number for number, image in enumerate(emotions)}
    pictures: dict[Image, int] = {}
    for run in runs:
        _add_thumbnails(run, [image for image in numbers if image not in pictures], pictures, thumbnails, data)
    return {
        "runs": [
            _describe_run(run, number, len(groups))
            for run, number, groups in zip(runs, number_runs(runs, evaluations), chosen, strict=True)
        ],
        "groups": [
            {"run": index, "image": numbers.get(identify_image(run, group))} | _describe_group(group, run)
            for index, (run, groups) in enumerate(zip(runs, chosen, strict=True))
            for group in groups
        ],
        "images": [
            {"id": image[1], "emotion": emotion, "picture": pictures.get(image)} for image, emotion in emotions.items()
        ],
    }


def identify_image(run: TrainingRun, group: Group) -> Image:
    """Return what tells images apart on the page: ids are unique in one data set only."""
    return (_identify_data(run), str(group.image))


def _identify_data(run: TrainingRun) -> str:
    return run.data or Path(str(run.config.get("data", ""))).name


def number_runs(runs: Sequence[TrainingRun], evaluations: Sequence[Evaluation]) -> list[int]:
    """Return the number of each run on the page: that of its evaluated model, else one after all models."""
    places = {(row.run, row.name): index for index, row in enumerate(evaluations)}
    numbers = []
    for run in runs:
        places.setdefault((run.parent, run.folder.name), len(places))
        numbers.append(places[run.parent, run.folder.name])
    return numbers


def title_runs(runs: Sequence[TrainingRun], evaluations: Sequence[Evaluation]) -> list[str]:
    """Return what the models and then the runs without an evaluation are called, in the order of their numbers."""
    titles = dict(enumerate(row.title for row in evaluations))
    for run, number in zip(runs, number_runs(runs, evaluations), strict=True):
        twice = run.title in titles.values() or sum(other.title == run.title for other in runs) > 1
        titles.setdefault(number, f"{run.title} ({run.parent})" if twice else run.title)
    return list(titles.values())


def choose_groups(runs: Sequence[TrainingRun], max_completions: int) -> list[list[Group]]:
    """Return the groups of each run that the page shows.

    They are all, if these are at most `max_completions` completions. Else a quarter goes to the groups in which the
    rewards disagree most, the same number of each run; the rest to pictures with all their groups, those first that
    most runs saw, and saw most often.
    """
    everything = [(index, group) for index, run in enumerate(runs) for group in run.groups]
    if sum(len(group.rows) for _, group in everything) <= max_completions:
        return [run.groups for run in runs]
    ranks = {
        id(group): rank
        for run in runs
        for rank, group in enumerate(sorted(run.groups, key=lambda group: -(_disagreement(group, run) or 0.0)))
    }
    kept = _take_groups(sorted(everything, key=lambda pair: ranks[id(pair[1])]), max_completions // 4, {})
    stories: dict[Image, list[tuple[int, Group]]] = {}
    for index, group in everything:
        stories.setdefault(identify_image(runs[index], group), []).append((index, group))
    order = sorted(stories.values(), key=lambda story: (-len({index for index, _ in story}), -len(story)))
    kept = _take_groups([pair for story in order for pair in story], max_completions, kept)
    return [[group for group in run.groups if id(group) in kept] for run in runs]


def _take_groups(groups: Iterable[tuple[int, Group]], limit: int, kept: dict[int, int]) -> dict[int, int]:
    """Return the completions of each group that is kept, by the group's identity, with as many more as fit."""
    kept, total = dict(kept), sum(kept.values())
    for _, group in groups:
        if id(group) not in kept and total + len(group.rows) <= limit:
            kept[id(group)] = len(group.rows)
            total += len(group.rows)
    return kept


def _disagreement(group: Group, run: TrainingRun) -> float | None:
    weights = run.weighing.weights
    return None if weights is None else measure_disagreement(group.rewards, weights)


def _describe_run(run: TrainingRun, number: int, shown: int) -> dict[str, Any]:
    steps = [group.step for group in run.groups]
    logged = [entry["step"] for entry in run.log if "step" in entry]
    unknown: list[float | None] = [None] * len(run.weighing.columns)
    return {
        "model": number,
        "folder": str(run.folder),
        "rewards": [
            {"name": name_reward(column), "weight": None if weight is None else round(weight, 4)}
            for column, weight in zip(run.weighing.columns, run.weighing.weights or unknown, strict=True)
        ],
        "weighing": run.weighing.origin,
        "steps": [min(steps), max(steps)] if steps else None,
        "lastStep": max([*steps, *logged], default=None),
        "shown": shown,
        "groups": len(run.groups),
        "completions": sum(len(group.rows) for group in run.groups),
        "unread": run.unread,
    }


def _describe_group(group: Group, run: TrainingRun) -> dict[str, Any]:
    weights = run.weighing.weights
    overall = None if weights is None else sum_rewards(group.rewards, weights)
    disagreement = _disagreement(group, run)
    names = run.weighing.columns
    return {
        "step": group.step,
        "emotion": group.emotion,
        "reward": None if overall is None else round(float(overall.mean()), 4),
        "spread": None if overall is None else round(float(overall.std()), 4),
        "disagreement": None if disagreement is None else round(disagreement, 4),
        "rows": [
            _describe_row(row, names, values.tolist(), None if overall is None else float(overall[place]))
            for place, (row, values) in enumerate(zip(group.rows, group.rewards, strict=True))
        ],
    }


def _describe_row(
    row: dict[str, Any], names: Sequence[str], values: Sequence[float], overall: float | None
) -> dict[str, Any]:
    advantage = row.get("advantage")
    right = dict(zip(names, values, strict=True)).get("accuracy_reward", math.nan)
    answer = row.get("answer") or boxed_answer(row["completion"])
    if 0 < right < 1:  # in part, as by votes
        right = float(canonical(str(answer)) == canonical(str(row.get("emotion"))))
    entry = {
        "answer": None if answer is None else cut_text(str(answer)),
        "correct": None if math.isnan(right) else right > 0,
        "wellFormed": row.get("trigger") is not None,
        "consistency": row.get("consistency_answer"),
        "coherence": row.get("coherence_answer"),
        "rewards": [None if math.isnan(value) else round(value, 4) for value in values],
        "overall": None if overall is None else round(overall, 4),
        "advantage": round(advantage, 4) if isinstance(advantage, float) and math.isfinite(advantage) else None,
    }
    if row.get("trigger") is None:
        return entry | {"text": cut_text(row["completion"])}
    return entry | {"steps": [cut_text(str(row.get(name) or "")) for name in ("trigger", "feeling", "conclusion")]}


def _add_thumbnails(
    run: TrainingRun,
    images: Sequence[Image],
    pictures: dict[Image, int],
    thumbnails: list[str],
    data: Sequence[str] | None,
) -> None:
    """Read the images that a run's data holds; `pictures` gets the number of each one's thumbnail."""
    split, place = f"{run.config.get('train_split', 'train')}.parquet", str(run.config.get("data", ""))
    folders = [*(data or ()), *([place] if place else ())]
    wanted = {image[1]: image for image in images if image[0] == _identify_data(run)}
    files = [Path(folder) / split for folder in folders if wanted and (Path(folder) / split).is_file()]
    # Other data can have images of the same ids
    file = next((file for file in files if run.data in (None, fingerprint(file))), None)
    if file is None:
        return
    for image_id, content in read_images(file, wanted):
        uri = make_thumbnail(content)
        if uri is not None:
            pictures[wanted[image_id]] = len(thumbnails)
            thumbnails.append(uri)

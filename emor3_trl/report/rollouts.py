"""What a run wrote while it trained: its groups of completions, weighed as its own configuration weighs them.

`log_completions: true` keeps the completions of each step in `<run>/completions/completions_<step>.parquet`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pyarrow import ArrowException

from emor3_trl.files import read_mapping
from emor3_trl.named_rewards import NAMED_REWARDS, describe_switches
from emor3_trl.report.evaluated import MODELS, load_log_history
from emor3_trl.rewards import reward_functions
from emor3_trl.thinking import parse

CURE = "Copy it again from the run, or remove it: the page then leaves that step out."
OVERLONG = "soft_overlong_punishment_reward"  # TRL's, which `overlong_buffer` adds with weight 1


@dataclass(frozen=True)
class Weighing:
    """How a run weighs its rewards.

    Args:
        columns: of the completions' files, one per reward.
        weights: of these, None if the run's configuration does not tell.
        origin: where they come from, in words.
    """

    columns: list[str]
    weights: list[float] | None
    origin: str


@dataclass(frozen=True)
class Group:
    """The completions of one prompt in one step.

    Args:
        step: as the trainer counts: the update that they led to.
        image: id of the image in the training data; None of a run that did not log it.
        emotion: its label, likewise.
        rows: the file's rows, one per completion.
        rewards: shape (completions, rewards); nan where a reward gave nothing.
    """

    step: int
    image: str | None
    emotion: str | None
    rows: list[dict[str, Any]]
    rewards: np.ndarray


@dataclass(frozen=True)
class TrainingRun:
    """A run that trained with rewards.

    Args:
        folder: its files.
        parent: the folder of runs that it was found in, or itself.
        config: its configuration; empty if the file is not there.
        data: fingerprint of the file that it trained on (environment.json); None if it did not note one.
        weighing: of its rewards.
        groups: in the order of the steps.
        log: what its trainer logged; of later steps, what follows from the completions.
        unread: files of completions that cannot be read.
    """

    folder: Path
    parent: Path
    config: dict[str, Any]
    data: str | None
    weighing: Weighing
    groups: list[Group]
    log: list[dict[str, Any]]
    unread: list[str]

    @property
    def title(self) -> str:
        """What the run is called on the page."""
        return MODELS.get(self.folder.name, self.folder.name)


def load_training_runs(runs: Sequence[str | Path], *, growing: bool = False) -> list[TrainingRun]:
    """Read what the runs in the folders logged while they trained with rewards.

    Args:
        runs: each the folder of a run, or one that holds such folders.
        growing: the files may be half written: one that cannot be read is named in `unread`.

    Raises:
        ValueError: if a file cannot be read.
    """
    places = [(folder, Path(run)) for run in runs for folder in _list_folders(Path(run))]
    loaded = [_load_run(folder, parent, growing) for folder, parent in places]
    return [run for run in loaded if run.groups or run.unread or any("reward" in entry for entry in run.log)]


def check_logged(run: str | Path) -> None:
    """Say why there is nothing to report on in a folder without an evaluation and without a step of training.

    Raises:
        FileNotFoundError: always.
    """
    if any((folder / "config.yaml").is_file() for folder in _list_folders(Path(run))):
        raise FileNotFoundError(
            f"'{run}' has no evaluation, and no run in it has logged a step with rewards yet. Wait for its first step "
            "(log_completions: true keeps what it writes), watch it with --serve, or run recipes/evaluate.py."
        )
    raise FileNotFoundError(
        f"There is no evaluation in '{run}', and no run that trained with rewards. Run recipes/evaluate.py first, or "
        "name another folder."
    )


def list_watched_files(runs: Sequence[str | Path]) -> Iterator[Path]:
    """Yield the files that a report on the folders reads, but the pictures."""
    for run in map(Path, runs):
        yield from sorted((run / "evaluation").glob("*/*.*"))
        for folder in _list_folders(run):
            yield folder / "config.yaml"
            yield from sorted(folder.glob("completions/completions_*.parquet"))
            yield from sorted([*folder.glob("*.json"), *folder.glob("checkpoint-*/trainer_state.json")])


def weigh_rewards(config: Mapping[str, Any], columns: Sequence[str]) -> Weighing:
    """Return how a configuration weighs rewards.

    Args:
        config: the run's `config.yaml`.
        columns: of the completions' files. Of a run whose configuration is not there, the rewards are those columns
            that are called `…_reward`.
    """
    names, weights = config.get("rewards"), config.get("reward_weights")
    if names:
        titles = [getattr(NAMED_REWARDS.get(name), "__name__", name.rpartition(":")[2]) for name in names]
        weights = weights or [1.0] * len(names)
    elif "reward_variant" in config:
        functions, weights = reward_functions(
            config["reward_variant"], config.get("lambda1", 0.1), config.get("lambda2", 0.1)
        )
        titles = [function.__name__ for function in functions]
        if config.get("overlong_buffer"):
            titles, weights = [*titles, OVERLONG], [*weights, 1.0]
    else:
        titles = [name for name in columns if name.endswith("_reward")]
        return Weighing(titles, None, "unknown: the run has no config.yaml that names its rewards")
    total = " + ".join(f"{weight:g} {name_reward(title)}" for title, weight in zip(titles, weights, strict=True))
    if config.get("multi_objective_aggregation") == "normalize_then_sum":
        total += ", each normalised in its group before training added them"
    switches = describe_switches(config)
    total += f"; measured with {switches}" if switches else ""
    return Weighing(titles, list(weights), total)


def name_reward(column: str) -> str:
    """Return what a reward is called on the page."""
    return column.removesuffix("_reward").removeprefix("think_")


def sum_rewards(rewards: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the overall reward of each completion, as TRL sums it: a reward that gave nothing adds nothing."""
    return np.nansum(rewards * np.asarray(weights), axis=1)


def measure_disagreement(rewards: np.ndarray, weights: Sequence[float]) -> float | None:
    """Return the share of the rewards' pulls that cancels inside a group.

    The pull of reward k on completion i is its weighted reward above the group's mean, p_ik = w_k (r_ik − mean_i r_ik).
    The disagreement is 1 − Σ_i |Σ_k p_ik| / Σ_i Σ_k |p_ik|: 0 where all rewards pull each completion the same way, 1
    where they cancel.

    Args:
        rewards: shape (completions, rewards); nan pulls nowhere.
        weights: of the rewards.

    Returns:
        None where no reward tells the completions apart.

    >>> measure_disagreement(np.array([[1.0, 0.0], [0.0, 1.0]]), [0.5, 0.5])
    1.0
    >>> measure_disagreement(np.array([[1.0, 1.0], [0.0, 0.0]]), [0.9, 0.1])
    0.0
    """
    known = ~np.isnan(rewards)
    means = np.where(known, rewards, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    pulls = np.where(known, rewards - means, 0) * np.asarray(weights)
    total = np.abs(pulls).sum()
    return None if total < 1e-9 else max(0.0, float(1 - np.abs(pulls.sum(axis=1)).sum() / total))


def _list_folders(run: Path) -> list[Path]:
    """Return where runs may be: the folder, and those in it, known models first."""
    inside = [path for path in sorted(run.iterdir()) if path.is_dir()] if run.is_dir() else []
    ranks = {name: rank for rank, name in enumerate(MODELS)}
    inside.sort(key=lambda path: ranks.get(path.name, len(ranks)))
    skipped = ("evaluation", "data", "completions")
    return [run, *(path for path in inside if path.name not in skipped and not path.name.startswith("checkpoint-"))]


def _load_run(folder: Path, parent: Path, growing: bool) -> TrainingRun:
    config = read_mapping(folder / "config.yaml", CURE) if (folder / "config.yaml").is_file() else {}
    tables, unread = [], []
    for path in sorted((folder / "completions").glob("completions_*.parquet")):
        try:
            status = path.stat()
            tables.append(_read_completions(path, status.st_mtime_ns, status.st_size))
        except (ArrowException, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if not growing:
                reason = " ".join(str(error).split())[:120]
                raise ValueError(f"'{path}' cannot be read as completions ({reason}). {CURE}") from error
            unread.append(path.name)
    try:
        weighing = weigh_rewards(config, list(tables[0][0]) if tables else [])
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"'{folder / 'config.yaml'}' cannot be read as a run's rewards ({error}). {CURE}") from error
    groups = [group for rows in _drop_repeated(tables) for group in _split_groups(rows, config, weighing.columns)]
    log = _read_log(folder, growing)
    log += _derive_log(groups, weighing, log)
    return TrainingRun(folder, parent, config, _read_fingerprint(folder), weighing, groups, log, unread)


def _read_fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of a run's training data."""
    path = folder / "environment.json"
    environment = read_mapping(path, "Copy it again from the run, or remove it.") if path.is_file() else {}
    sources = environment.get("sources")
    return sources.get("training data") if isinstance(sources, dict) else None


@lru_cache(maxsize=4_096)
def _read_completions(path: Path, _modified: int, _size: int) -> list[dict[str, Any]]:
    """Return the rows of a file, read again once it has changed.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: if it holds something else.
    """
    rows = pq.read_table(path).to_pylist()
    if not rows:
        raise ValueError("it holds no row")
    for row in rows:
        row["step"] = int(row["step"])
        written = row["completion"]
        row["completion"] = written if isinstance(written, str) else "".join(turn["content"] or "" for turn in written)
        if "trigger" not in row:  # of a trainer of TRL, which does not parse
            thought = parse(row["completion"])
            row.update({name: getattr(thought, name, None) for name in ("trigger", "feeling", "conclusion")})
    return rows


def _drop_repeated(tables: Sequence[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each file but where they are those of the file before: one rollout can serve many updates."""
    last = None
    for rows in tables:
        written = [(row["completion"], row.get("advantage")) for row in rows]
        if written != last:
            yield rows
        last = written


def _split_groups(rows: list[dict[str, Any]], config: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Group]:
    size = config.get("num_generations")
    size = size if isinstance(size, int) and size > 0 else len(rows)
    start = 0
    for end in range(1, len(rows) + 1):
        image = rows[start].get("id")
        if end == len(rows) or end - start == size or rows[end].get("id") != image:
            members = rows[start:end]
            values = [[_to_number(row.get(name)) for name in columns] for row in members]
            rewards = np.array(values, dtype=float).reshape(len(members), len(columns))
            yield Group(members[0]["step"], image, members[0].get("emotion"), members, rewards)
            start = end


def _to_number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan  # JSON has no inf


def _read_log(folder: Path, growing: bool) -> list[dict[str, Any]]:
    try:
        return load_log_history(folder)
    except FileNotFoundError:
        return []
    except ValueError:
        if growing:
            return []
        raise


def _derive_log(groups: Sequence[Group], weighing: Weighing, log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean rewards of the steps after the log's last: a trainer saves its log with its checkpoints only."""
    last = max((int(entry["step"]) for entry in log if "step" in entry), default=0)
    entries = []
    for step in dict.fromkeys(group.step for group in groups if group.step > last):
        rewards = np.concatenate([group.rewards for group in groups if group.step == step])
        entry: dict[str, Any] = {"step": step}
        if weighing.weights is not None:
            entry["reward"] = float(sum_rewards(rewards, weighing.weights).mean())
        for name, column in zip(weighing.columns, rewards.T, strict=True):
            if not np.isnan(column).all():
                entry[f"rewards/{name}/mean"] = float(np.nanmean(column))
        entries.append(entry)
    return entries

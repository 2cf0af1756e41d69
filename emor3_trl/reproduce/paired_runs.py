"""Two systems in the same runs, on the same pictures: does one exceed the other, and by more than chance?

All runs of a system are asked about the same pictures, and a picture that is hard for one seed is hard for the next.
So the unit of the test is the picture, with the mean over its runs, and not the answer: three seeds are not three times
the evidence. What another seed would change is shown by the differences of the seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emor3_trl.evaluation.comparison import pair_predictions
from emor3_trl.evaluation.prediction import Prediction, split_by_dataset

FLIPS, RESAMPLES = 100_000, 10_000


@dataclass(frozen=True)
class RunPair:
    """What two systems answered after the same training with the same seed.

    Args:
        train: the data set of the training.
        seed: the seed.
        worse, better: predictions of the two systems, one per picture, of one test set or several.
    """

    train: str
    seed: int
    worse: Sequence[Prediction]
    better: Sequence[Prediction]


@dataclass(frozen=True)
class PairedRuns:
    """The better system's accuracy minus the worse one's.

    Args:
        difference: as in the tables the mean over columns, (training, test set), each of which counts the same; of a
            column the mean over seeds and pictures.
        low, high: its 95% percentile interval over resampled pictures.
        p_value: of the two-sided sign-flip test over pictures.
        by_seed: the difference of each seed.
        pictures: how many pictures there are.
        trainings: the data sets of the trainings.
    """

    difference: float
    low: float
    high: float
    p_value: float
    by_seed: tuple[float, ...]
    pictures: int
    trainings: tuple[str, ...]

    @property
    def is_in_every_seed(self) -> bool:
        """Whether the difference has the same direction in every seed."""
        return all(value * self.difference > 0 for value in self.by_seed)


def compare_runs(pairs: Sequence[RunPair]) -> PairedRuns:
    """Compare two systems over runs; only the seeds that every training has count, so that the mean is balanced.

    Args:
        pairs: the runs that both systems have, one or more.

    Raises:
        ValueError: if the predictions of a run are not of the same pictures with the same emotions.
    """
    trainings = tuple(dict.fromkeys(pair.train for pair in pairs))
    seeds = set.intersection(*({pair.seed for pair in pairs if pair.train == train} for train in trainings))
    changes: dict[tuple[str, str], dict[str, dict[int, int]]] = {}  # by column, picture and seed: -1, 0 or 1
    for pair in (pair for pair in pairs if pair.seed in seeds):
        worse, better = split_by_dataset(pair.worse), split_by_dataset(pair.better)
        for test in worse:
            column = changes.setdefault((pair.train, test), {})
            for old, new in pair_predictions(worse[test], better.get(test, [])):
                column.setdefault(old.id, {})[pair.seed] = int(new.correct) - int(old.correct)
    shares = _share_difference(changes)
    flat = np.concatenate(list(shares.values()))
    low, high = _resample_pictures(shares)
    by_seed = [
        float(np.mean([np.mean([change[seed] for change in column.values()]) for column in changes.values()]))
        for seed in sorted(seeds)
    ]
    return PairedRuns(float(flat.sum()), low, high, flip_signs(flat), tuple(by_seed), len(flat), trainings)


def flip_signs(shares: np.ndarray) -> float:
    """Return the two-sided p-value of "each picture's difference could as well be the reverse".

    All answers about a picture are exchanged together, which allows for their likeness. With one run it is McNemar's
    test, up to the `FLIPS` random flips.

    Args:
        shares: the difference of each picture, shape (pictures,).
    """
    sizes, counts = np.unique(np.abs(shares[shares != 0]).round(12), return_counts=True)
    draw = np.random.default_rng(0)
    # Of m pictures with differences of one size, a flip leaves a binomial number positive
    sums = sum((size * (2 * draw.binomial(m, 0.5, FLIPS) - m) for size, m in zip(sizes, counts, strict=True)), 0.0)
    return float((1 + np.sum(np.abs(sums) >= abs(shares.sum()) - 1e-9)) / (1 + FLIPS)) if len(sizes) else 1.0


def _share_difference(changes: dict[tuple[str, str], dict[str, dict[int, int]]]) -> dict[str, np.ndarray]:
    """Return what each picture adds to the difference, by test set; a picture stands in the column of each training."""
    shares: dict[str, dict[str, float]] = {}
    for (_, test), column in changes.items():
        for picture, by_seed in column.items():
            share = float(np.mean(list(by_seed.values()))) / (len(changes) * len(column))
            pictures = shares.setdefault(test, {})
            pictures[picture] = pictures.get(picture, 0.0) + share
    return {test: np.array(list(pictures.values())) for test, pictures in shares.items()}


def _resample_pictures(shares: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return the percentile interval of the difference, each test set resampled by itself."""
    draw, sums = np.random.default_rng(0), np.zeros(RESAMPLES)
    for values in shares.values():
        kinds, counts = np.unique(values.round(12), return_counts=True)
        sums += draw.multinomial(len(values), counts / len(values), RESAMPLES) @ kinds
    low, high = np.percentile(sums, [2.5, 97.5])
    return float(low), float(high)

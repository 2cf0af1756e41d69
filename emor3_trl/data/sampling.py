"""Which candidates are drawn: a seeded order, equally many of each emotion or as they occur."""

import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emor3_trl.data.sources.candidates import Candidate, Source


@dataclass(frozen=True)
class Sampling:
    """How much is drawn, and how.

    Args:
        train, test: pictures; None takes the source's own numbers (the paper's), 0 draws none.
        method: "stratified" (equally many of each emotion, as far as there are) or "natural" (as often as they occur).
        seed: of the draw.
    """

    train: int | None = None
    test: int | None = None
    method: str = "stratified"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ("stratified", "natural"):
            raise ValueError(f"sampling is '{self.method}'. Expected 'stratified' or 'natural'.")
        for name in ("train", "test"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}. Expected 0 or more pictures.")


class Draw:
    """A seeded draw that goes on until enough candidates are accepted or none is left.

    Args:
        candidates: the pool.
        size: how many shall be accepted.
        sampling: method and seed.
    """

    def __init__(self, candidates: Sequence[Candidate], size: int, sampling: Sampling) -> None:
        self._random = random.Random(sampling.seed)
        shuffled = sorted(candidates, key=lambda one: one.id)
        self._random.shuffle(shuffled)
        self._queues: dict[str, deque[Candidate]] = defaultdict(deque)
        for one in shuffled:
            self._queues[one.emotion if sampling.method == "stratified" else ""].append(one)
        self._accepted = Counter[str]()
        self._stratified = sampling.method == "stratified"
        self.size = size

    def accept(self, candidate: Candidate) -> None:
        """Count a candidate; the others that were handed out give their place to the next of their label."""
        self._accepted[candidate.emotion if self._stratified else ""] += 1

    def waves(self) -> Iterator[list[Candidate]]:
        """Yield candidates to try; what was accepted of a wave decides the next."""
        while self._accepted.total() < self.size:
            wave = []
            for key, missing in self._missing().items():
                wave += [self._queues[key].popleft() for _ in range(missing)]
            if not wave:
                return
            self._random.shuffle(wave)
            yield wave

    def _missing(self) -> dict[str, int]:
        """Return how many to try of each label: those with the fewest first, as many as there are."""
        planned = {key: self._accepted[key] for key in sorted(self._queues)}
        left = {key: len(queue) for key, queue in self._queues.items()}
        missing = dict.fromkeys(planned, 0)
        for _ in range(self.size - self._accepted.total()):
            open_ = [key for key in planned if missing[key] < left[key]]
            if not open_:
                break
            key = min(open_, key=lambda name: planned[name] + missing[name])
            missing[key] += 1
        return missing


def split_sizes(source: Source, sampling: Sampling) -> dict[str, int]:
    """Return how many pictures each split gets.

    Raises:
        ValueError: if a split that is asked for has no candidates, or none is asked for.
    """
    shared = len(source.pools.get("all", ()))

    def size(name: str, asked: int | None, otherwise: int) -> int:
        asked = source.sizes.get(name) if asked is None else asked
        if asked is None:
            return len(source.pools[name]) if name in source.pools else otherwise
        return asked

    test = size("test", sampling.test, shared // 5)
    sizes = {"test": test, "train": size("train", sampling.train, max(shared - test, 0))}
    for name, wanted in sizes.items():
        if wanted and not source.pools.get(name, source.pools.get("all")):
            offered = ", ".join(split for split, pool in source.pools.items() if pool) or "none"
            reasons = Counter(item.reason for item in source.dropped).most_common(2)
            dropped = "; ".join(f"{count:,} x {reason}" for reason, count in reasons)
            raise ValueError(
                f"{source.name} offers no picture for the split '{name}' (it has {offered}). "
                + (f"Left out are: {dropped}. " if dropped else "")
                + f"Set --{name} 0 to do without it."
            )
    if not any(sizes.values()):
        raise ValueError("Nothing to draw: train and test are 0. Set --train or --test.")
    return sizes

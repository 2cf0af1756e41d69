"""Which candidates are drawn: a seeded order, with equally many of each emotion or with as many as occur."""

import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emor3_trl.data.sources.candidates import Candidate, Source
from emor3_trl.data.sources.messages import build_error, shorten


@dataclass(frozen=True)
class Sampling:
    """How much is drawn, and how.

    Args:
        train, test: number of images. None takes the source's own number (the paper's), 0 draws none.
        method: "stratified" (equally many of each emotion, as far as there are) or "natural" (as often as they occur).
        seed: seed of the draw.
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
        size: number of candidates to accept.
        sampling: method and seed.
    """

    def __init__(self, candidates: Sequence[Candidate], size: int, sampling: Sampling) -> None:
        self._random = random.Random(sampling.seed)
        shuffled = sorted(candidates, key=lambda candidate: candidate.id)
        self._random.shuffle(shuffled)
        self._queues: dict[str, deque[Candidate]] = defaultdict(deque)
        for candidate in shuffled:
            self._queues[candidate.emotion if sampling.method == "stratified" else ""].append(candidate)
        self._accepted = Counter[str]()
        self._stratified = sampling.method == "stratified"
        self.size = size

    def accept(self, candidate: Candidate) -> None:
        """Count a candidate. Those that were tried and not accepted give their place to the next of their label."""
        self._accepted[candidate.emotion if self._stratified else ""] += 1

    def waves(self) -> Iterator[list[Candidate]]:
        """Yield lists of candidates to try. What was accepted of one list decides the next."""
        while self._accepted.total() < self.size:
            wave = []
            for key, missing in self._count_missing().items():
                wave += [self._queues[key].popleft() for _ in range(missing)]
            if not wave:
                return
            self._random.shuffle(wave)
            yield wave

    def _count_missing(self) -> dict[str, int]:
        """Return how many to try of each label. Labels with the fewest come first, as far as there are any left."""
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


def compute_split_sizes(source: Source, sampling: Sampling) -> dict[str, int]:
    """Return how many images each split gets.

    Raises:
        ValueError: if a split that is asked for has no candidates, or none is asked for.
    """
    shared = len(source.pools.get("all", ()))

    def choose_size(name: str, size: int | None, default: int) -> int:
        size = source.sizes.get(name) if size is None else size
        if size is None:
            return len(source.pools[name]) if name in source.pools else default
        return size

    test = choose_size("test", sampling.test, shared // 5)
    sizes = {"test": test, "train": choose_size("train", sampling.train, max(shared - test, 0))}
    for name, wanted in sizes.items():
        if wanted and not source.pools.get(name, source.pools.get("all")):
            offered = ", ".join(split for split, pool in source.pools.items() if pool) or "none"
            reasons = Counter(item.reason for item in source.dropped).most_common(2)
            dropped = "; ".join(f"{count:,} x {shorten(reason, 80)}" for reason, count in reasons)
            raise build_error(
                f"{source.name} offers no picture for the split '{name}' (it has {offered})."
                + (f" Left out are: {dropped}." if dropped else ""),
                f"Set --{name} 0 to do without it."
                + (f" For another split: --{name}_split." if source.name == "own" and source.pools else ""),
            )
    if not any(sizes.values()):
        raise ValueError("Nothing to draw: train and test are 0. Set --train or --test.")
    return sizes

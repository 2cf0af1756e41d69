"""What the paper claims of its tables, tested on the pictures that both systems of a claim were asked about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emor3_trl.evaluation.prediction import Prediction, load_predictions
from emor3_trl.reproduce.cells import Cell
from emor3_trl.reproduce.paired_runs import PairedRuns, RunPair, compare_runs
from emor3_trl.reproduce.paper import CLAIMS, Claim, Where, read_paper_difference
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.systems import SYSTEMS

CHANCE = 0.05  # a difference whose p-value is not below this may be chance


@dataclass(frozen=True)
class Verdict:
    """A claim beside what was seen.

    Args:
        claim: the claim.
        seen: the better system against the worse one in the runs that both have; None if there is none.
        lacking: trainings of the table that one of the two does not have.
    """

    claim: Claim
    seen: PairedRuns | None
    lacking: tuple[str, ...] = ()

    def judge(self) -> str:
        """Return in words whether the direction agrees."""
        if self.seen is None:
            return "not run"
        if abs(self.seen.difference) < 1e-9:
            return "no difference"
        agreement = "agrees" if self.seen.difference > 0 else "disagrees"
        if self.seen.p_value >= CHANCE:
            return f"{agreement} in direction, within chance"
        return agreement if self.seen.is_in_every_seed else f"{agreement}, but not in every seed"

    def describe(self) -> str:
        """Return the claim as a row of a Markdown table."""
        paper = f"{read_paper_difference(self.claim):+.2f}"
        text = f"{self.claim.text} (without training on {', '.join(self.lacking)})" if self.lacking else self.claim.text
        return f"| {text} | {self.claim.table} | {paper} | {describe_runs(self.seen)} | **{self.judge()}** |"


def describe_runs(seen: PairedRuns | None) -> str:
    """Return the difference with its interval, that of each seed, the pictures and the p-value, as Markdown columns."""
    if seen is None:
        return "– | – | – | –"
    p_value = "< 0.0001" if seen.p_value < 1e-4 else f"{seen.p_value:.4f}"
    by_seed = ", ".join(f"{100 * value:+.1f}" for value in seen.by_seed)
    interval = f"{100 * seen.difference:+.1f} [{100 * seen.low:+.1f}, {100 * seen.high:+.1f}]"
    return f"{interval} | {by_seed} | {seen.pictures:,} | {p_value}"


def judge_claims(
    scale: Scale, tables: Sequence[int], cells: Sequence[Cell], claims: Sequence[Claim] = CLAIMS
) -> list[Verdict]:
    """Test the claims of some tables on finished cells.

    Args:
        scale: the scale.
        tables: numbers of tables.
        cells: the grid's.
        claims: what to test.
    """
    finished = _find_finished(cells)
    return [_test_claim(scale, claim, finished) for claim in claims if claim.table in tables]


def compare_prompts(cells: Sequence[Cell]) -> list[tuple[str, PairedRuns]]:
    """Return for each base model how much thinking, in each style, adds to the direct answer over all test sets."""
    finished = _find_finished(cells)
    rows = []
    for name in SYSTEMS:
        prefix, _, style = name.rpartition("vanilla_")
        direct, thinking = finished.get((f"{prefix}vanilla_direct", None, 1)), finished.get((name, None, 1))
        if style in ("think", "set") and direct and thinking:
            pair = RunPair("", 1, load_predictions(direct.predictions), load_predictions(thinking.predictions))
            rows.append((SYSTEMS[name].title, compare_runs([pair])))
    return rows


def _find_finished(cells: Sequence[Cell]) -> dict[tuple[str, str | None, int], Cell]:
    return {(cell.system.name, cell.train, cell.seed): cell for cell in cells if cell.is_finished()}


def _test_claim(scale: Scale, claim: Claim, finished: Mapping[tuple[str, str | None, int], Cell]) -> Verdict:
    seen = _compare(scale, claim.table, claim.better, claim.worse, claim.where, finished)
    lacking = [train for train in scale.list_trainings(claim.table) if seen and train not in seen.trainings]
    return Verdict(claim, seen, tuple(lacking))


def compare_systems(scale: Scale, table: int, better: str, worse: str, cells: Sequence[Cell]) -> PairedRuns | None:
    """Compare two systems of a table over all test sets; None where they have no run in common.

    Args:
        scale: the scale.
        table: its number.
        better, worse: names of systems.
        cells: the grid's.
    """
    return _compare(scale, table, better, worse, "everywhere", _find_finished(cells))


def _compare(
    scale: Scale,
    table: int,
    better: str,
    worse: str,
    where: Where,
    finished: Mapping[tuple[str, str | None, int], Cell],
) -> PairedRuns | None:
    """Compare two systems over the trainings of a table and the seeds that both systems have."""
    pairs = []
    for train in scale.list_trainings(table):
        for seed in sorted({seed for _, _, seed in finished}):
            cells = [_find_cell(finished, name, train, seed) for name in (worse, better)]
            if all(cells):
                rows = [select_predictions(cell, train, where) for cell in cells if cell]
                pairs.append(RunPair(train, seed, *rows))
    return compare_runs(pairs) if pairs else None


def _find_cell(finished: Mapping[tuple[str, str | None, int], Cell], name: str, train: str, seed: int) -> Cell | None:
    """Return the cell of a system; of a model as it is the only one, which stands beside every seed."""
    return finished.get((name, train, seed)) or finished.get((name, None, 1))


def select_predictions(cell: Cell, train: str, where: Where) -> list[Prediction]:
    """Return the predictions of a cell on some of its test sets.

    Args:
        cell: the cell.
        train: the data set of the training, whose test set is the one in-domain.
        where: on which test sets.
    """
    keep = {"in-domain": lambda test: test == train, "out of domain": lambda test: test != train}
    rows = load_predictions(cell.predictions)
    return [row for row in rows if where == "everywhere" or keep[where](row.dataset)]

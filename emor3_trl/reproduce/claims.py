"""What the paper claims of its tables, tested on the pictures that both systems of a claim were asked about."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from emor3_trl.evaluation.comparison import Comparison, compare_predictions
from emor3_trl.evaluation.prediction import Prediction, load_predictions
from emor3_trl.reproduce.cells import Cell
from emor3_trl.reproduce.paper import CLAIMS, Claim, Where, read_paper_difference
from emor3_trl.reproduce.scales import Scale

CHANCE = 0.05  # a difference whose p-value is not below this may be chance


@dataclass(frozen=True)
class Verdict:
    """A claim beside what was seen.

    Args:
        claim: the claim.
        seeds: how many seeds both systems have.
        comparison: the worse system (a) and the better one (b) on the same pictures; None if a cell is missing.
    """

    claim: Claim
    seeds: int
    comparison: Comparison | None

    def judge(self) -> str:
        """Return in words whether the direction agrees."""
        if self.comparison is None:
            return "not run"
        difference, is_clear = self.comparison.difference, self.comparison.p_value < CHANCE
        if difference == 0:
            return "no difference"
        agreement = "agrees" if difference > 0 else "disagrees"
        return agreement if is_clear else f"{agreement} in direction, within chance"

    def describe(self) -> str:
        """Return the claim as a row of a Markdown table."""
        paper = f"{read_paper_difference(self.claim):+.2f}"
        seen = "– | – | –"
        if self.comparison is not None:
            row = self.comparison
            p_value = "< 0.0001" if row.p_value < 1e-4 else f"{row.p_value:.4f}"
            seen = f"{100 * row.difference:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}] | {row.n:,} | {p_value}"
        return f"| {self.claim.text} | {self.claim.table} | {paper} | {seen} | **{self.judge()}** |"


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
    finished = {(cell.system.name, cell.train, cell.seed): cell for cell in cells if cell.is_finished()}
    return [_test_claim(scale, claim, finished) for claim in claims if claim.table in tables]


def _test_claim(scale: Scale, claim: Claim, finished: dict[tuple[str, str | None, int], Cell]) -> Verdict:
    """Test a claim over all trainings of its table and all seeds that both systems have."""
    worse: list[Prediction] = []
    better: list[Prediction] = []
    seeds: set[int] = set()
    highest = max((seed for _, _, seed in finished), default=0)
    for train in scale.train_on if claim.table == 1 else scale.train_on[:1]:
        for seed in range(1, highest + 1):
            pair = [_find_cell(finished, name, train, seed) for name in (claim.worse, claim.better)]
            if pair[0] is None or pair[1] is None:
                continue
            seeds.add(seed)
            worse += pool_predictions(pair[0], train, seed, claim.where)
            better += pool_predictions(pair[1], train, seed, claim.where)
    return Verdict(claim, len(seeds), compare_predictions(worse, better) if worse else None)


def _find_cell(finished: dict[tuple[str, str | None, int], Cell], name: str, train: str, seed: int) -> Cell | None:
    """Return the cell of a system; of a model as it is the only one, which stands beside every seed."""
    return finished.get((name, train, seed)) or finished.get((name, None, 1))


def pool_predictions(cell: Cell, train: str, seed: int, where: Where) -> list[Prediction]:
    """Return the predictions of a cell on some of its test sets, as those of one data set.

    Args:
        cell: the cell.
        train, seed: what they are pooled over, which tells the same picture in two runs apart.
        where: on which test sets.
    """
    rows = load_predictions(cell.predictions)
    keep = {"in-domain": lambda test: test == train, "out of domain": lambda test: test != train}
    return [
        replace(row, id=f"{train}/{seed}/{row.dataset}/{row.id}", dataset="pooled")
        for row in rows
        if where == "everywhere" or keep[where](row.dataset)
    ]

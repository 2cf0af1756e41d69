"""Table 4: what lies beyond the paper, each row tested against EMO-R3 on the same pictures, seeds and budget.

One test decides about a row: the mean accuracy over the test sets. Its p-value is that of `paired_runs`, corrected by
Holm's procedure for as many tests as the table has rows. *Better* and *worse* are said of three seeds or more, of
p < 0.05 after this correction, and of one direction in every seed; nothing else is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from emor3_trl.report.evaluated import load_log_history
from emor3_trl.reproduce.cells import Cell
from emor3_trl.reproduce.claims import CHANCE, compare_systems, describe_runs
from emor3_trl.reproduce.judging import summarise_judgings
from emor3_trl.reproduce.paired_runs import PairedRuns
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.systems import BASELINE, SYSTEMS, TABLES

SEEDS = 3  # fewer allow no claim
ROWS = tuple(name for name in TABLES[4] if name != BASELINE)
COSTS = ("questions", "tokens")


@dataclass(frozen=True)
class Comparison:
    """A row of Table 4 against EMO-R3.

    Args:
        name: its system.
        seen: the row minus EMO-R3, over the test sets, in the runs that both have; None if there is none.
        p_holm: the p-value after Holm's correction.
    """

    name: str
    seen: PairedRuns | None
    p_holm: float

    def judge(self) -> str:
        """Return in words what may be said of the row."""
        if self.seen is None:
            return "not run"
        if len(self.seen.by_seed) < SEEDS:
            return "too few seeds"
        if self.p_holm >= CHANCE:
            return "within chance"
        is_above = self.seen.difference > 0
        if not self.seen.is_in_every_seed:
            return f"{'above' if is_above else 'below'}, but not in every seed"
        return "better" if is_above else "worse"


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's step-down correction: the k-th smallest of m counts m - k + 1 times, none falls.

    Holm, A simple sequentially rejective multiple test procedure, 1979.

    >>> adjust_p_values([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def compare_with_paper(scale: Scale, cells: Sequence[Cell]) -> list[Comparison]:
    """Test each row of Table 4 against EMO-R3; rows that have not run count as tests, too."""
    seen = [compare_systems(scale, 4, name, BASELINE, cells) for name in ROWS]
    adjusted = adjust_p_values([1.0 if row is None else row.p_value for row in seen])
    return [Comparison(*row) for row in zip(ROWS, seen, adjusted, strict=True)]


def measure_costs(scale: Scale, cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Return what a step of each row of Table 4 costs, the mean over its steps but the first, the median over runs.

    Args:
        scale: the scale.
        cells: finished and unfinished ones, of any tables.

    Returns:
        By system: `questions` and `tokens` of the reflection, which depend on no machine: tokens are those of the
        questions that came from no cache, and those that were written.
    """
    by_system: dict[str, list[dict[str, float]]] = {}
    trained = scale.list_trainings(4)
    for cell in (cell for cell in cells if cell.system.name in TABLES[4] and cell.train in trained):
        if not cell.is_finished():
            continue
        steps = [
            row for row in load_log_history(cell.folder / "model") if row.get("step", 0) > 1 and "step_time" in row
        ]
        if steps:
            by_system.setdefault(cell.system.name, []).append(
                {
                    "questions": fmean(row.get("reflection/requests", 0.0) for row in steps),
                    "tokens": fmean(map(_count_tokens, steps)),
                }
            )
    return {
        name: {key: round(median(run[key] for run in runs), 4) for key in COSTS} for name, runs in by_system.items()
    }


def _count_tokens(row: Mapping[str, float]) -> float:
    read, cached, written = (
        row.get(f"reflection/{kind}_tokens", 0.0) for kind in ("prompt", "cached", "generated")
    )  # fmt: skip
    return read - cached + written


def build_beyond(
    comparisons: Sequence[Comparison], costs: Mapping[str, Mapping[str, float]], judgings: Sequence[Cell]
) -> dict[str, dict[str, Any]]:
    """Return what tables.json holds beside Table 4, by system: `against_emo_r3`, `reflection` and `step`.

    Args:
        comparisons: what `compare_with_paper` returned.
        costs: what `measure_costs` returned.
        judgings: cells of `judging.list_judgings`.
    """
    figures = summarise_judgings(judgings)
    content: dict[str, dict[str, Any]] = {
        name: {"reflection": figures.get(name, {}), "step": dict(costs.get(name, {}))} for name in TABLES[4]
    }
    for row in (row for row in comparisons if row.seen):
        assert row.seen is not None
        numbers = {"p_holm": row.p_holm, "verdict": row.judge()}
        content[row.name] = {"against_emo_r3": {**asdict(row.seen), **numbers}, **content[row.name]}
    return {name: parts for name, parts in content.items() if any(parts.values())}


def describe_comparisons(comparisons: Sequence[Comparison]) -> str:
    """Return the rows that have run as a Markdown table, and above it which of them are better, and which worse."""
    verdicts = {row.name: row.judge() for row in comparisons if row.seen}
    said = []
    for verdict in dict.fromkeys(["better", "worse", *verdicts.values()]):
        titles = [SYSTEMS[name].title for name, found in verdicts.items() if found == verdict]
        said.append(f"{verdict[0].upper()}{verdict[1:]}: {'; '.join(titles) or 'none'}.")
    lines = [_COMPARED.format(rows=len(ROWS), chance=CHANCE, seeds=SEEDS, said=" ".join(said))]
    for row in (row for row in comparisons if row.seen):
        holm = "< 0.001" if row.p_holm < 1e-3 else f"{row.p_holm:.3f}"
        lines.append(f"| {SYSTEMS[row.name].title} | {describe_runs(row.seen)} | {holm} | **{row.judge()}** |")
    return "\n".join(lines)


def describe_reflection(content: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what `build_beyond` says of the reflection and of a step as a Markdown table."""
    lines = [_REFLECTED]
    for name, parts in content.items():
        figures, step = parts["reflection"], parts["step"]
        yes, shuffled = figures.get("yes"), figures.get("shuffled_yes")
        gap = None if yes is None or shuffled is None else yes - shuffled
        shares = [yes, shuffled, gap, figures.get("coherence"), figures.get("masked_coherence")]
        texts = ["–" if share is None else f"{100 * share:.1f}" for share in shares]
        texts += [f"{step[key]:,.0f}" if key in step else "–" for key in ("questions", "tokens")]
        lines.append(f"| {SYSTEMS[name].title} | {' | '.join(texts)} |")
    return "\n".join(lines)


_COMPARED = """{said}

Each row against EMO-R3 on as many completions and the same seeds, in points: the mean over the columns of the table,
tested over pictures as above. {rows} rows are {rows} tests, so p is corrected by Holm's procedure. *Better* and *worse*
mean p < {chance} after it, {seeds} seeds or more, and the same direction in each of them. Another seed, or another
scale, may differ by as much as these seeds do.

| row | against EMO-R3, points | by seed | pictures | p | p (Holm) | what may be said |
|---|---|---|---|---|---|---|"""
_REFLECTED = """What the trained model answers about its own greedy steps on the in-domain test set, in percent,
medians over seeds: Yes about the right picture (*own*), Yes about another of another emotion (*other*), and the
difference, which is how specific step 1 is; the true emotion read from steps 1 and 2 (*coherence*); and the same
emotion read once the labels in them are masked (*masked*; steps without a label count as read). A step's questions and
tokens (from no cache, and written) are those of the reflection, whatever the machine; what they cost in seconds
`python benchmarks/reflection_cost.py` measures, step by step in turn.

| row | own | other | difference | coherence | masked | questions a step | tokens a step |
|---|---|---|---|---|---|---|---|"""

"""RESULTS.md: the tables beside the paper's, which of its claims hold here, and what everything took."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emor3_trl.reproduce.claims import CHANCE, Verdict
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.systems import SYSTEMS
from emor3_trl.reproduce.tables import format_table

TITLES = {
    1: "Table 1: in-domain and out of domain",
    2: "Table 2: Cold-Start-Emo",
    3: "Table 3: SET and RER, and parts of RER",
}
FIGURES = {
    "figure3.png": "Figure 3: accuracy over steps, of training and validation; x marks where the pool starves",
    "figure4.png": "Figure 4: a picture that GRPO gets wrong and EMO-R3 right, with what both wrote",
    "figure5.png": "Figure 5: seconds of a step, and what they are spent on",
}

_HEAD = """# Results: the paper's tables at scale {scale}

`python recipes/reproduce.py {asked}` runs them. The same with `--write_results` writes
this page from the finished runs. [SYSTEMS.md](SYSTEMS.md) says what each row is.

Accuracy in percent on the test splits, greedy, of the model after its last step: no setting and no checkpoint was
chosen on a test split. Median over seeds [lowest, highest], and the paper's figure in brackets. {stands}.
`a > b`: trained on a, tested on b. A^I, A^O and A are the means over in-domain, out-of-domain and all columns, of each
seed; the paper's are means of its medians. The paper does not say how Vanilla was asked: its figure stands beside all
three prompts."""
_CLAIMS = """Of {claims} claims: {said}.

*Agrees* and *disagrees* alone mean p < {chance}. Each difference is of the same test pictures under both systems,
pooled over seeds (and in Table 1 over both trainings), in points, with the 95% interval of a paired bootstrap and the
p-value of McNemar's exact test. A picture counts once for each run, so the test tells these runs apart, not all that
could be run.

| claim | table | paper, points | here, points | pairs | p | direction |
|---|---|---|---|---|---|---|
"""
_BUDGETS = """At one G, all systems of GRPO take as many optimizer steps on as many completions. G 4 and G 8 take
as many prompts. Dynamic sampling writes more completions than it trains on. SFT and Cold-Start-Emo train on examples,
which are counted instead. Medians over seeds.

| training | optimizer steps | trained on | completions written |
|---|---|---|---|"""


def write_results(
    scale: Scale, content: Mapping[str, Any], verdicts: Sequence[Verdict], seeds: int, figures: Mapping[str, str]
) -> str:
    """Return RESULTS.md; it holds nothing but what saved runs say.

    Args:
        scale: the scale.
        content: what `tables.build_tables` returned.
        verdicts: the paper's claims, tested.
        seeds: how many were asked for.
        figures: place of each figure that there is, by its file's name.
    """
    tables = [number for number in TITLES if str(number) in content]
    asked = f"--table {' '.join(map(str, tables))} --scale {scale.name} --seeds {seeds}"
    stands = ", ".join(f"{name} for {scale.stands_for[name]}" for name in scale.data)
    parts = [_HEAD.format(scale=scale.name, asked=asked, stands=f"{stands[0].upper()}{stands[1:]}")]
    for number in tables:
        parts += [f"## {TITLES[number]}", format_table(scale, number, content[str(number)], markdown=True)]
    if content["missing"]:
        parts += ["Not in these tables:", "\n".join(f"- {line}" for line in content["missing"])]
    parts += ["## What the paper claims, and what is seen here", describe_verdicts(verdicts)]
    parts += ["## Budgets", describe_budgets(content["budgets"])]
    shown = [f"![{text}]({figures[name]})\n\n{text}." for name, text in FIGURES.items() if name in figures]
    return "\n\n".join([*parts, *(["## Figures", *shown] if shown else [])]) + "\n"


def describe_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Return the claims as a table, and above it how many agree."""
    counts = Counter(verdict.judge() for verdict in verdicts)
    said = ", ".join(f"{count} × {judgement}" for judgement, count in sorted(counts.items()))
    head = _CLAIMS.format(claims=len(verdicts), said=said or "none was tested", chance=CHANCE)
    return head + "\n".join(verdict.describe() for verdict in verdicts)


def describe_budgets(budgets: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what each training took as a table."""
    if not budgets:
        return "No training has ended."
    lines = [_BUDGETS]
    for key, row in budgets.items():
        name, _, train = key.partition(" on ")
        written = f"{row['completions_written']:,.0f}" if "completions_written" in row else "–"
        counts = f"{row['optimizer_steps']:,.0f} | {row['trained_on']:,.0f}"
        lines.append(f"| {SYSTEMS[name].title} on {train} | {counts} | {written} |")
    return "\n".join(lines)


def place_figures(paths: Sequence[Path], beside: Path) -> dict[str, str]:
    """Return where each figure lies as seen from a page, by the file's name."""
    return {path.name: path.relative_to(beside).as_posix() for path in paths}

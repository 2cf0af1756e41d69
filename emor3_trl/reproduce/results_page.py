"""RESULTS.md: the tables beside the paper's, which of its claims hold here, and what everything took."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emor3_trl.reproduce.beyond import Comparison, describe_comparisons, describe_reflection
from emor3_trl.reproduce.claims import CHANCE, Verdict, describe_runs
from emor3_trl.reproduce.paired_runs import PairedRuns
from emor3_trl.reproduce.paper import PAPER
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.systems import SYSTEMS
from emor3_trl.reproduce.tables import format_table

TITLES = {
    1: "Table 1: in-domain and out of domain",
    2: "Table 2: Cold-Start-Emo",
    3: "Table 3: SET and RER, and parts of RER",
    4: "Table 4: beyond the paper",
}
FIGURES = {
    "figure3.png": "Figure 3: accuracy over steps, of training and validation; x marks where the pool starves",
    "figure4.png": "Figure 4: the first picture that GRPO gets wrong and EMO-R3 right, and what both wrote: an example",
    "figure5.png": "Figure 5: seconds of a step, and what they are spent on, in runs that may have shared the machine",
}

_HEAD = """# Results: the paper's tables at scale {scale}{beyond}

`python recipes/reproduce.py {asked}` runs them. The same with `--write_results` writes
this page from the finished runs. [SYSTEMS.md](SYSTEMS.md) says what each row is.

Accuracy in percent on the test splits, greedy, of the model after its last step: no checkpoint is chosen. Median over
seeds [lowest, highest], and the paper's figure in brackets. {stands}. `a > b`: trained on a, tested on b. A^I, A^O and
A are the means over in-domain, out-of-domain and all columns, of each seed; the paper's are means of its medians. The
paper does not say how Vanilla was asked: its figure stands beside all three prompts."""
_CLAIMS = """Of {claims} claims: {said}.

A difference is in points: the mean over the columns of the table and over seeds. Its 95% interval and its p-value are
over pictures: each counts once, with the mean over all runs that were asked about it, because runs that share a picture
are no independent evidence (paired bootstrap; sign-flip test of 100,000 flips). *Agrees* and *disagrees* alone mean
p < {chance} and the same direction in every seed. Another seed may differ by as much as these do, and {claims} tests at
{chance} let chance through more often than one.

| claim | table | paper, points | here, points | by seed | pictures | p | direction |
|---|---|---|---|---|---|---|---|
"""
_PROMPTS = """The base model under a prompt that asks for thinking, against the direct question; of all test sets, each
counting the same. The paper does not compare them.

| prompt | against direct, points | p | worth it |
|---|---|---|---|
"""
_BUDGETS = """At one G, all systems of GRPO take as many optimizer steps on batches of as many completions. G 4 and G 8
take as many prompts. Dynamic sampling writes more completions than it trains on; a group that it drops and cannot
replace is not trained on. SFT and Cold-Start-Emo train on examples, which are counted instead. Medians over seeds.

| training | optimizer steps | trained on | completions written |
|---|---|---|---|"""


def write_results(
    scale: Scale,
    content: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    prompts: Sequence[tuple[str, PairedRuns]],
    seeds: int,
    figures: Mapping[str, str],
    comparisons: Sequence[Comparison] = (),
) -> str:
    """Return RESULTS.md; it holds nothing but what saved runs say.

    Args:
        scale: the scale.
        content: what `tables.build_tables` returned.
        verdicts: the paper's claims, tested.
        prompts: what thinking adds to the base models' direct answers.
        seeds: how many were asked for.
        figures: place of each figure that there is, by its file's name.
        comparisons: the rows of Table 4 against EMO-R3.
    """
    tables = [number for number in TITLES if content.get(str(number)) or (number in PAPER and str(number) in content)]
    asked = f"--table {' '.join(map(str, tables))} --scale {scale.name} --seeds {seeds}"
    asked += f" --train_on {' '.join(scale.beyond_on)}" if scale.beyond_on and 4 in tables else ""
    stands = ", ".join(f"{name} for {scale.stands_for[name]}" for name in scale.data)
    beyond = ", and what lies beyond them" if 4 in tables else ""
    parts = [_HEAD.format(scale=scale.name, beyond=beyond, asked=asked, stands=f"{stands[0].upper()}{stands[1:]}")]
    for number in (number for number in tables if number in PAPER):
        parts += [f"## {TITLES[number]}", format_table(scale, number, content[str(number)], markdown=True)]
    if content["missing"]:
        parts += ["Not in these tables:", "\n".join(f"- {line}" for line in content["missing"])]
    parts += ["## What the paper claims, and what is seen here", describe_verdicts(verdicts)]
    if 4 in tables:
        parts += [f"## {TITLES[4]}", format_table(scale, 4, content["4"], markdown=True)]
        parts += [describe_comparisons(comparisons), describe_reflection(content["beyond"])]
    if prompts:
        parts += ["## Is thinking worth it without training?", describe_prompts(prompts)]
    parts += ["## Budgets", describe_budgets(content["budgets"])]
    shown = [f"![{text}]({figures[name]})\n\n{text}." for name, text in FIGURES.items() if name in figures]
    return "\n\n".join([*parts, *(["## Figures", *shown] if shown else [])]) + "\n"


def describe_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Return the claims as a table, and above it how many agree."""
    counts = Counter(verdict.judge() for verdict in verdicts)
    said = ", ".join(f"{count} × {judgement}" for judgement, count in sorted(counts.items()))
    head = _CLAIMS.format(claims=len(verdicts), said=said or "none was tested", chance=CHANCE)
    return head + "\n".join(verdict.describe() for verdict in verdicts)


def describe_prompts(prompts: Sequence[tuple[str, PairedRuns]]) -> str:
    """Return what thinking adds to a base model's direct answer as a table."""
    lines = []
    for title, seen in prompts:
        difference, _, _, p_value = describe_runs(seen).split(" | ")
        worth = "within chance" if seen.p_value >= CHANCE else "yes" if seen.difference > 0 else "no"
        lines.append(f"| {title} | {difference} | {p_value} | **{worth}** |")
    return _PROMPTS + "\n".join(lines)


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

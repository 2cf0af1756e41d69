"""The paper's claims on predictions that can be counted by hand."""

from pathlib import Path

import pytest
from small_grid import write_scale

from emor3_trl.evaluation.prediction import Prediction, save_predictions
from emor3_trl.reproduce.cells import Cell, list_cells
from emor3_trl.reproduce.claims import Verdict, judge_claims
from emor3_trl.reproduce.paper import Claim
from emor3_trl.reproduce.scales import Scale

PICTURES = 20


@pytest.fixture
def scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scale:
    monkeypatch.chdir(tmp_path)
    return write_scale(tmp_path)


def finish(cell: Cell, right: dict[str, int]) -> None:
    """Let a cell be finished, and be right about the first pictures of each data set."""
    for command in cell.commands:
        command.finished.parent.mkdir(parents=True, exist_ok=True)
        command.finished.write_text("{}")
    save_predictions([
        Prediction(f"{name}-{i}", name, "joy", ["joy", "fear"], "", None, None, None, "joy", True, i < count)
        for name, count in right.items() for i in range(PICTURES)
    ], cell.predictions)  # fmt: skip
    cell.write_record(
        {"digest": cell.digest(), "commands": {c.kind: {"exit_code": 0, "seconds": 1} for c in cell.commands}}
    )


def judge(scale: Scale, claim: Claim, right: dict[tuple[str, str | None, int], dict[str, int]]) -> Verdict:
    cells = list_cells(scale, [1, 2, 3], 2, Path("runs"))
    for cell in cells:
        if (cell.system.name, cell.train, cell.seed) in right:
            finish(cell, right[cell.system.name, cell.train, cell.seed])
    (verdict,) = judge_claims(scale, [1, 2, 3], cells, [claim])
    return verdict


def test_pictures_are_pooled_over_seeds_and_both_trainings(scale: Scale) -> None:
    worse, better = {"sketches": 10, "toons": 10, "emoji": 0}, {"sketches": 15, "toons": 12, "emoji": 20}
    pairs = {("grpo_g8", train, seed): worse for train in ("sketches", "toons") for seed in (1, 2)}
    pairs |= {("emo_r3_g8", train, seed): better for train in ("sketches", "toons") for seed in (1, 2)}
    verdict = judge(scale, Claim(1, "emo_r3_g8", "grpo_g8", "in-domain", "above"), pairs)
    assert verdict.comparison is not None
    assert (verdict.seeds, verdict.comparison.n) == (2, 2 * 2 * PICTURES)
    assert verdict.comparison.only_b == 2 * 5 + 2 * 2  # sketches after sketches, toons after toons
    assert verdict.comparison.only_a == 0
    assert verdict.judge() == "agrees"


def test_only_seeds_of_both_count_and_tables_2_and_3_take_the_first_training(scale: Scale) -> None:
    rows = {"sketches": 10, "toons": 10, "emoji": 10}
    cells = {("grpo_g8", train, 1): rows for train in ("sketches", "toons")}
    cells |= {("set_only_g8", "sketches", seed): rows for seed in (1, 2)}
    verdict = judge(scale, Claim(3, "set_only_g8", "grpo_g8", "everywhere", "helps"), cells)
    assert verdict.comparison is not None
    assert (verdict.seeds, verdict.comparison.n, verdict.judge()) == (1, 3 * PICTURES, "no difference")


def test_a_model_as_it_is_stands_beside_every_training(scale: Scale) -> None:
    cells = {("vanilla_think", None, 1): {"sketches": 8, "toons": 8, "emoji": 8}}
    cells |= {("sft", "sketches", seed): {"sketches": 20, "toons": 2, "emoji": 7} for seed in (1, 2)}
    verdict = judge(scale, Claim(1, "vanilla_think", "sft", "out of domain", "falls"), cells)
    assert verdict.comparison is not None
    assert (verdict.comparison.n, verdict.comparison.only_b) == (2 * 2 * PICTURES, 2 * (6 + 1))


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        pytest.param(20, 5, "agrees", id="clear"),
        pytest.param(11, 10, "agrees in direction, within chance", id="one picture"),
        pytest.param(5, 20, "disagrees", id="clearly the reverse"),
        pytest.param(9, 10, "disagrees in direction, within chance", id="the reverse by one picture"),
    ],
)
def test_a_verdict_says_direction_and_chance(scale: Scale, better: int, worse: int, expected: str) -> None:
    rows = {("emo_r3_g8", "sketches", 1): better, ("grpo_g8", "sketches", 1): worse}
    claim = Claim(1, "emo_r3_g8", "grpo_g8", "in-domain", "above")
    verdict = judge(scale, claim, {key: {"sketches": count, "toons": 0, "emoji": 0} for key, count in rows.items()})
    assert verdict.judge() == expected
    assert f"**{expected}**" in verdict.describe()
    assert f"| {100 * (better - worse) / PICTURES:+.1f} [" in verdict.describe()


def test_a_claim_without_runs_is_not_judged(scale: Scale) -> None:
    verdict = judge(scale, Claim(1, "emo_r3_g8", "grpo_g8", "in-domain", "above"), {})
    assert verdict.judge() == "not run"
    assert verdict.describe() == "| above | 1 | +1.40 | – | – | – | **not run** |"

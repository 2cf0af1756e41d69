"""The paper's claims on predictions that can be counted by hand."""

from pathlib import Path

import pytest
from small_grid import finish_cell, write_scale

from emor3_trl.evaluation.prediction import Prediction, save_predictions
from emor3_trl.reproduce.cells import Cell, list_cells
from emor3_trl.reproduce.claims import Verdict, compare_prompts, judge_claims
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
    finish_cell(cell)


def judge(scale: Scale, claim: Claim, right: dict[tuple[str, str | None, int], dict[str, int]]) -> Verdict:
    cells = list_cells(scale, [1, 2, 3], 2, Path("runs"))
    for cell in cells:
        if (cell.system.name, cell.train, cell.seed) in right:
            finish(cell, right[cell.system.name, cell.train, cell.seed])
    (verdict,) = judge_claims(scale, [1, 2, 3], cells, [claim])
    return verdict


def test_a_difference_is_the_mean_over_columns_and_seeds(scale: Scale) -> None:
    worse, better = {"sketches": 10, "toons": 10, "emoji": 0}, {"sketches": 15, "toons": 12, "emoji": 20}
    pairs = {("grpo_g8", train, seed): worse for train in ("sketches", "toons") for seed in (1, 2)}
    pairs |= {("emo_r3_g8", train, seed): better for train in ("sketches", "toons") for seed in (1, 2)}
    verdict = judge(scale, Claim(1, "emo_r3_g8", "grpo_g8", "in-domain", "above"), pairs)
    assert verdict.seen is not None
    assert verdict.seen.difference == pytest.approx((5 + 2) / (2 * PICTURES))  # sketches and toons, after their own
    assert verdict.seen.by_seed == pytest.approx([7 / (2 * PICTURES)] * 2)
    assert verdict.seen.pictures == 2 * PICTURES
    assert verdict.seen.p_value == pytest.approx(2 / 2**7, rel=0.1)  # 7 pictures differ, all in one direction
    assert verdict.judge() == "agrees"


def test_only_seeds_of_both_count_and_tables_2_and_3_take_the_first_training(scale: Scale) -> None:
    rows = {"sketches": 10, "toons": 10, "emoji": 10}
    cells = {("grpo_g8", train, 1): rows for train in ("sketches", "toons")}
    cells |= {("set_only_g8", "sketches", seed): rows for seed in (1, 2)}
    verdict = judge(scale, Claim(3, "set_only_g8", "grpo_g8", "everywhere", "helps"), cells)
    assert verdict.seen is not None
    assert (verdict.seen.by_seed, verdict.seen.pictures, verdict.judge()) == ((0.0,), 3 * PICTURES, "no difference")
    assert verdict.lacking == ()


def test_a_model_as_it_is_stands_beside_every_training_and_is_no_new_evidence_in_each(scale: Scale) -> None:
    cells = {("vanilla_think", None, 1): {"sketches": 8, "toons": 8, "emoji": 8}}
    cells |= {("sft", "sketches", seed): {"sketches": 20, "toons": 2, "emoji": 7} for seed in (1, 2)}
    verdict = judge(scale, Claim(1, "vanilla_think", "sft", "out of domain", "falls"), cells)
    assert verdict.seen is not None
    assert verdict.seen.difference == pytest.approx((6 + 1) / (2 * PICTURES))
    assert verdict.seen.p_value == pytest.approx(2 / 2**7, rel=0.1)  # with 14 of 14 answers it would be 0.0001
    assert "| falls (without training on toons) | 1 |" in verdict.describe()


def test_a_direction_that_one_seed_reverses_is_not_simply_agreed_with(scale: Scale) -> None:
    rows = {("grpo_g8", "sketches", seed): 10 for seed in (1, 2)}
    rows |= {("set_only_g8", "sketches", 1): 20, ("set_only_g8", "sketches", 2): 9}
    cells = {key: {"sketches": count, "toons": count, "emoji": count} for key, count in rows.items()}
    verdict = judge(scale, Claim(3, "set_only_g8", "grpo_g8", "everywhere", "helps"), cells)
    assert verdict.seen is not None
    assert verdict.seen.p_value < 0.01
    assert verdict.judge() == "agrees, but not in every seed"
    assert "| +50.0, -5.0 |" in verdict.describe()


@pytest.mark.parametrize(("thinking", "expected"), [(20, 0.5), (10, 0.0), (0, -0.5)])
def test_thinking_is_compared_with_the_direct_answer(scale: Scale, thinking: int, expected: float) -> None:
    right = {"vanilla_direct": 10, "vanilla_think": thinking, "vanilla_set": 10}
    cells = list_cells(scale, [1], 1, Path("runs"))
    for cell in cells:
        if cell.system.name in right:
            finish(cell, dict.fromkeys(("sketches", "toons", "emoji"), right[cell.system.name]))
    by_title = dict(compare_prompts(cells))
    assert by_title["Vanilla, think"].difference == pytest.approx(expected)
    assert (by_title["Vanilla, think"].p_value < 0.05) is (thinking != 10)
    assert by_title["Vanilla, SET"].difference == 0


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
    assert verdict.describe() == "| above | 1 | +1.40 | – | – | – | – | **not run** |"

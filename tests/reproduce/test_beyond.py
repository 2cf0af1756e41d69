"""Table 4: what may be said of a row beside EMO-R3, on answers that can be counted by hand."""

import json
from pathlib import Path

import pytest
from small_grid import finish_cell, write_scale

from emor3_trl.evaluation.prediction import Prediction, save_predictions
from emor3_trl.reproduce.beyond import ROWS, adjust_p_values, compare_with_paper, describe_comparisons, measure_costs
from emor3_trl.reproduce.cells import Cell, list_cells
from emor3_trl.reproduce.judging import list_judgings, summarise_judgings
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.tables import build_tables

PICTURES = 30
SETS = ("sketches", "toons", "emoji")


@pytest.fixture
def scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scale:
    monkeypatch.chdir(tmp_path)
    return write_scale(tmp_path)


def finish(cell: Cell, right: int = 0) -> None:
    """Let a cell be finished, and be right about the first pictures of each data set."""
    for command in cell.commands:
        command.finished.parent.mkdir(parents=True, exist_ok=True)
        command.finished.write_text("{}")
    metrics = {f"eval/{name}/accuracy": right / PICTURES for name in SETS}
    cell.commands[-1].finished.write_text(json.dumps(metrics))
    (cell.folder / "model" / "trainer_state.json").write_text('{"log_history": [{"step": 4}]}')
    save_predictions([
        Prediction(f"{name}-{i}", name, "joy", ["joy", "fear"], "", None, None, None, "joy", True, i < right)
        for name in SETS for i in range(PICTURES)
    ], cell.predictions)  # fmt: skip
    finish_cell(cell)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param([0.04], [0.04], id="one"),
        pytest.param([0.02, 0.2, 0.001], [0.04, 0.2, 0.003], id="3, 2 and 1 times"),
        pytest.param([0.01, 0.04, 0.03], [0.03, 0.06, 0.06], id="none falls below a smaller one"),
        pytest.param([0.7, 0.6], [1.0, 1.0], id="at most 1"),
    ],
)
def test_holm_counts_the_smallest_p_value_as_often_as_there_are_tests(
    p_values: list[float], expected: list[float]
) -> None:
    assert adjust_p_values(p_values) == pytest.approx(expected)


# By row: how many of 30 pictures each seed is right about in each set, where EMO-R3 is right about 10; what may be said
VERDICTS = {
    "soft_raw_g8": ([20, 20, 20], "better"),
    "contrastive_g8": ([0, 0, 0], "worse"),
    # 6 pictures in one direction are p = 0.03, which fourteen tests let chance reach
    "masked_g8": ([12, 12, 12], "within chance"),
    "gdpo_g8": ([30, 30, 9], "above, but not in every seed"),
    "gspo_g8": ([10, 10, 10], "within chance"),
    "cispo_g8": ([20, 20], "too few seeds"),
}


def test_better_needs_three_seeds_one_direction_and_more_than_chance(scale: Scale) -> None:
    cells = list_cells(scale, [4], 3, Path("runs"), ["emo_r3_g8", *VERDICTS])
    for cell in cells:
        by_seed, _ = VERDICTS.get(cell.system.name, ([10, 10, 10], ""))
        if cell.seed <= len(by_seed):
            finish(cell, by_seed[cell.seed - 1])
    rows = {row.name: row for row in compare_with_paper(scale, cells)}
    assert tuple(rows) == ROWS
    assert {name: row.judge() for name, row in rows.items()} == {
        name: VERDICTS[name][1] if name in VERDICTS else "not run" for name in ROWS
    }
    masked = rows["masked_g8"]
    assert masked.seen is not None
    assert masked.seen.p_value == pytest.approx(2 / 2**6, rel=0.1)
    assert masked.p_holm == pytest.approx((14 - 4) * masked.seen.p_value), "four rows have smaller p-values"
    said = describe_comparisons(list(rows.values()))
    assert said.startswith(
        "Better: soft reflection, raw, G 8. Worse: contrastive consistency, G 8. Within chance: masked coherence, G 8; "
        "GSPO, G 8. Above, but not in every seed: GDPO, G 8. Too few seeds: CISPO, G 8."
    )
    assert "14 rows are 14 tests" in said
    assert "Dr. GRPO" not in said


def test_a_baseline_that_other_tables_have_run_is_the_same_cell_and_makes_no_table_4(scale: Scale) -> None:
    (alone,) = list_cells(scale, [3], 1, Path("runs"), ["emo_r3_g8"])
    finish(alone, 10)
    cells = list_cells(scale, [4], 1, Path("runs"))
    assert cells[0] == alone
    assert cells[0].is_finished()
    assert [cell.system.name for cell in cells if cell.is_finished()] == ["emo_r3_g8"]
    everything = list_cells(scale, [1, 2, 3, 4], 1, Path("runs"))
    assert "4" not in build_tables(scale, [1, 2, 3], everything, 1)
    assert build_tables(scale, [4], everything, 1)["4"] == {}
    finish(cells[1], 10)
    assert set(build_tables(scale, [1], everything, 1)["4"]) == {"emo_r3_g8", cells[1].system.name}


def test_a_judging_needs_the_cell_and_is_stale_with_its_weights_or_answers(scale: Scale) -> None:
    cells = list_cells(scale, [4], 1, Path("runs"), ["emo_r3_g8"])
    (judging,) = list_judgings(scale, cells)
    weights = cells[0].folder / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"trained")
    finish(cells[0], 10)
    judging.folder.mkdir()
    (judging.folder / "metrics.json").write_text('{"yes": 0.9, "shuffled_yes": 0.5, "pictures": 4}')
    finish_cell(judging)
    assert (judging.title, judging.needs) == ("EMO-R3, G 8 on sketches, seed 1, judged by itself", cells[0])
    assert judging.is_finished()
    assert cells[0].is_finished(), "what a judging writes is no part of the cell"
    assert summarise_judgings([judging]) == {"emo_r3_g8": {"yes": 0.9, "shuffled_yes": 0.5}}
    finish(cells[0], 11)
    assert not judging.is_finished()
    assert summarise_judgings([judging]) == {}
    finish_cell(judging)
    weights.write_bytes(b"trained again")
    assert not judging.is_finished()


def test_a_step_costs_questions_and_tokens_that_no_cache_had(scale: Scale) -> None:
    cells = list_cells(scale, [4], 1, Path("runs"), ["emo_r3_g8", "masked_g8"])
    for cell, reflection in zip(cells, (0, 100), strict=True):
        finish(cell, 10)
        tokens = {"requests": 16, "prompt_tokens": 900, "cached_tokens": 600 - reflection, "generated_tokens": 20}
        step = {"step_time": 4.0, **{f"reflection/{name}": value for name, value in tokens.items()}}
        log = [{**step, "step": 1, "reflection/requests": 99}, {**step, "step": 2}, {**step, "step": 3}]
        log += [{"step": 3, "eval/seconds": 9}]
        (cell.folder / "model" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert measure_costs(scale, cells) == {
        "emo_r3_g8": {"questions": 16.0, "tokens": 320.0},
        "masked_g8": {"questions": 16.0, "tokens": 420.0},
    }


def test_table_4_may_train_on_other_worlds(scale: Scale) -> None:
    moved = scale.move_table_4(["toons", "emoji", "toons"])
    assert {cell.train for cell in list_cells(moved, [4], 1, Path("runs"))} == {"toons", "emoji"}
    assert {cell.train for cell in list_cells(moved, [2, 3], 1, Path("runs"))} == {"sketches"}
    assert {cell.train for cell in list_cells(scale, [4], 1, Path("runs"))} == {"sketches"}
    with pytest.raises(ValueError, match=r"--train_on names cats\. Expected some of sketches, toons, emoji"):
        scale.move_table_4(["toons", "cats"])

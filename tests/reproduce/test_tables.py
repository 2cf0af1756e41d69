"""Tables of finished cells, with numbers that can be counted by hand."""

import json
from pathlib import Path

import pytest
from small_grid import finish_cell, write_scale

from emor3_trl.reproduce.cells import Cell, list_cells
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.tables import build_table, build_tables, format_table

# Accuracy in percent on (sketches, toons, emoji)
ACCURACIES = {
    ("vanilla_set", None, 1): (50, 40, 30),
    ("grpo_g8", "sketches", 1): (70, 60, 50),
    ("grpo_g8", "sketches", 2): (76, 54, 38),
    ("grpo_g8", "sketches", 3): (73, 51, 47),
    ("grpo_g8", "toons", 1): (40, 80, 30),
    ("grpo_g8", "toons", 2): (46, 86, 42),
    ("emo_r3_g8", "sketches", 2): (90, 60, 30),
}
NAMES = ("sketches", "toons", "emoji")
BY_CELL = {key: dict(zip(NAMES, map(float, values), strict=True)) for key, values in ACCURACIES.items()}


@pytest.fixture
def scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scale:
    monkeypatch.chdir(tmp_path)
    return write_scale(tmp_path)


def test_a_column_is_the_median_with_its_spread_and_the_papers_figure(scale: Scale) -> None:
    table = build_table(scale, 1, BY_CELL, 3)
    assert table["grpo_g8"]["sketches > toons"] == {
        "median": 54.0, "low": 51.0, "high": 60.0, "seeds": [60.0, 54.0, 51.0], "paper": 57.91,
    }  # fmt: skip
    assert table["grpo_g8"]["toons > sketches"] == {
        "median": 43.0, "low": 40.0, "high": 46.0, "seeds": [40.0, 46.0], "paper": 60.30,
    }  # fmt: skip


def test_averages_are_of_each_seed_whose_columns_are_all_there(scale: Scale) -> None:
    row = build_table(scale, 1, BY_CELL, 3)["grpo_g8"]
    assert row["A^I"]["seeds"] == [75.0, 81.0]  # seed 3 has no training on toons
    assert row["A^O"]["seeds"] == [45.0, 45.0]
    assert row["A"]["seeds"] == [55.0, 57.0]
    assert row["A"]["median"] == 56.0
    assert row["A^I"]["paper"] == 72.66


def test_a_model_as_it_is_has_one_value_in_the_columns_of_both_trainings(scale: Scale) -> None:
    row = build_table(scale, 1, BY_CELL, 3)["vanilla_set"]
    assert row["sketches > toons"]["seeds"] == row["toons > toons"]["seeds"] == [40.0]
    assert (row["A^I"]["median"], row["A^O"]["median"], row["A"]["median"]) == (45.0, 37.5, 40.0)


def test_tables_2_and_3_average_the_first_training(scale: Scale) -> None:
    row = build_table(scale, 2, BY_CELL, 3)["grpo_g8"]
    assert list(row) == ["sketches > sketches", "sketches > toons", "sketches > emoji", "A"]
    assert row["A"] == {"median": 57.0, "low": 56.0, "high": 60.0, "seeds": [60.0, 56.0, 57.0], "paper": 60.92}


def test_cells_that_are_not_there_stay_absent(scale: Scale) -> None:
    table = build_table(scale, 1, BY_CELL, 3)
    assert set(table) == {"vanilla_set", "grpo_g8", "emo_r3_g8"}
    assert "toons > toons" not in table["emo_r3_g8"]
    assert "A" not in table["emo_r3_g8"]


def write_finished(cell: Cell, accuracies: tuple[float, ...]) -> None:
    for command in cell.commands:
        command.finished.parent.mkdir(parents=True, exist_ok=True)
        command.finished.write_text("{}")
    metrics = {f"eval/{name}/accuracy": value / 100 for name, value in zip(NAMES, accuracies, strict=True)}
    cell.commands[-1].finished.write_text(json.dumps(metrics))
    log = [{"step": step, "rollout/completions": 8.0 * step} for step in range(1, 5)]
    (cell.folder / "model").mkdir(exist_ok=True)
    (cell.folder / "model" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    finish_cell(cell)


def test_the_file_holds_tables_budgets_and_what_is_missing(scale: Scale) -> None:
    cells = list_cells(scale, [1, 2, 3], 1, Path("runs"))
    for cell in cells:
        if (cell.system.name, cell.train, cell.seed) in ACCURACIES:
            write_finished(cell, ACCURACIES[cell.system.name, cell.train, cell.seed])
    content = build_tables(scale, [3], cells, 1)
    assert content["3"]["grpo_g8"]["sketches > sketches"]["median"] == 70.0
    assert set(content["1"]) == {"vanilla_set", "grpo_g8"}
    assert content["budgets"]["grpo_g8 on sketches"] == {
        "optimizer_steps": 4, "trained_on": 32.0, "completions_written": 80.0,
    }  # fmt: skip
    assert "EMO-R3, G 8 on sketches, seed 1: not run, or failed" in content["missing"]
    assert not [line for line in content["missing"] if line.startswith(("GRPO", "SFT"))]


def test_a_table_shows_median_spread_and_paper(scale: Scale) -> None:
    text = format_table(scale, 2, build_table(scale, 2, BY_CELL, 3))
    header, row, *_ = text.splitlines()
    assert header.split() == ["sketches", ">", "sketches", "sketches", ">", "toons", "sketches", ">", "emoji", "A"]
    assert row.startswith("GRPO, G 8    73.0 [70.0, 76.0] (paper 75.45)")
    markdown = format_table(scale, 2, build_table(scale, 2, BY_CELL, 3), markdown=True)
    assert markdown.splitlines()[1] == "|---|---|---|---|---|"
    assert (
        "| EMO-R3, G 8 | 90.0 (paper 76.40) | 60.0 (paper 59.26) | 30.0 (paper 49.70) | 60.0 (paper 61.79) |"
        in markdown
    )

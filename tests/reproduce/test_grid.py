"""The grid is run cell by cell: finished ones are kept, a failing one is shown and does not stop the rest."""

import re
from pathlib import Path

import pytest
from small_grid import write_scale, write_stand_ins

from emor3_trl.reproduce.cells import Cell, list_cells
from emor3_trl.reproduce.estimates import Estimates, describe_plan
from emor3_trl.reproduce.grid import Failure, Grid

SYSTEMS = ["grpo_g8", "emo_r3_g8", "cold_start", "emo_r3_cold_start_g8"]


class SmallGrid:
    """The grid of a few systems of Table 2 with stand-ins for the recipes, and what was said and called."""

    def __init__(self, folder: Path) -> None:
        self.scale = write_scale(folder)
        self.recipes = write_stand_ins(folder)
        self.said: list[str] = []

    def list_cells(self) -> list[Cell]:
        return list_cells(self.scale, [2], 1, Path("runs"), SYSTEMS)

    def run(self, **options) -> list[Failure]:
        cells = self.list_cells()
        return Grid(cells, self.recipes, Estimates(self.scale, cells), say=self.said.append, **options).run()

    def take_calls(self) -> list[str]:
        """Return the recipes that were started since the last call, without the common part of their folders."""
        file = Path("calls.txt")
        lines = file.read_text().splitlines() if file.is_file() else []
        file.unlink(missing_ok=True)
        return [line.replace("runs/tiny/sketches/", "") for line in lines]


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallGrid:
    monkeypatch.chdir(tmp_path)
    return SmallGrid(tmp_path)


@pytest.mark.parametrize("jobs", [1, 3])
def test_all_cells_are_run_and_then_kept(grid: SmallGrid, jobs: int) -> None:
    assert grid.run(jobs=jobs) == []
    calls = grid.take_calls()
    assert len(calls) == 8
    assert calls.index("train cold_start/seed1/model") < calls.index("train emo_r3_cold_start_g8/seed1/model")
    assert all(cell.is_finished() for cell in grid.list_cells())
    assert grid.run(jobs=jobs) == []
    assert grid.take_calls() == []
    assert grid.said[-1] == "4 of 4 cells are finished already"


def test_a_cell_that_waits_for_another_keeps_no_job_from_the_rest(
    grid: SmallGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAUSE", "0.2")
    by_system = {cell.system.name: cell for cell in grid.list_cells()}
    cells = [by_system[name] for name in ("cold_start", "emo_r3_cold_start_g8", "grpo_g8")]
    assert Grid(cells, grid.recipes, Estimates(grid.scale, cells), jobs=2, say=grid.said.append).run() == []
    calls = grid.take_calls()
    is_needed = calls.index("evaluate cold_start/seed1/evaluation/cold_start")
    assert calls.index("train grpo_g8/seed1/model") < is_needed
    assert is_needed < calls.index("train emo_r3_cold_start_g8/seed1/model")


def test_progress_counts_cells_and_the_time_that_is_left(grid: SmallGrid) -> None:
    grid.run()
    lines = [line for line in grid.said if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert all(re.search(r"finished in \d+ s; about [\d.]+ (s|min) left$", line) for line in lines)
    assert lines[-1].endswith("about 0 s left")


def test_a_failing_cell_is_shown_and_does_not_stop_the_rest(grid: SmallGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "sketches/grpo_g8")
    (failure,) = grid.run()
    assert failure.cell.system.name == "grpo_g8"
    assert "grpo.py ended with exit code 1" in failure.describe()
    assert "| one line of the log\n    | it broke\n" in failure.describe()
    assert failure.describe().endswith("log: runs/tiny/sketches/grpo_g8/seed1/log.txt")
    assert failure.describe() in grid.said
    assert [cell.is_finished() for cell in grid.list_cells()] == [
        cell.system.name != "grpo_g8" for cell in grid.list_cells()
    ]
    monkeypatch.delenv("FAIL")
    grid.take_calls()
    assert grid.run() == []
    assert grid.take_calls() == ["train grpo_g8/seed1/model", "evaluate grpo_g8/seed1/evaluation/grpo_g8"]


def test_what_starts_from_a_failed_cell_is_not_run(grid: SmallGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "sketches/cold_start")
    failures = grid.run()
    assert [failure.cell.system.name for failure in failures] == ["cold_start", "emo_r3_cold_start_g8"]
    assert "starts from Cold-Start-Emo on sketches, seed 1, which failed" in failures[1].reason
    assert not [call for call in grid.take_calls() if "emo_r3_cold_start_g8" in call]


def test_other_settings_are_run_anew_and_replace_only_when_told(grid: SmallGrid, tmp_path: Path) -> None:
    grid.run()
    grid.take_calls()
    grid.scale = write_scale(tmp_path, settings={"cold_start": {"learning_rate": 1.0}, "grpo": {"validation_steps": 2}})
    grid.run(overwrite=True)
    assert grid.take_calls() == [
        "train cold_start/seed1/model overwrite",
        "evaluate cold_start/seed1/evaluation/cold_start overwrite",
        "train emo_r3_cold_start_g8/seed1/model overwrite",
        "evaluate emo_r3_cold_start_g8/seed1/evaluation/emo_r3_cold_start_g8 overwrite",
    ]
    assert all(cell.is_finished() for cell in grid.list_cells())


def test_a_refused_cell_is_replaced_by_a_later_overwrite(
    grid: SmallGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real recipes refuse a folder of other settings; that refusal must not make the folder look like its own."""
    grid.run()
    grid.scale = write_scale(tmp_path, settings={"grpo": {"validation_steps": 1}})
    monkeypatch.setenv("FAIL", "sketches")
    assert len(grid.run()) == 3
    monkeypatch.delenv("FAIL")
    grid.take_calls()
    assert grid.run(overwrite=True) == []
    assert all(call.endswith("overwrite") for call in grid.take_calls())


def test_a_plan_says_what_is_finished_measured_and_guessed(grid: SmallGrid) -> None:
    cells = grid.list_cells()
    plan = describe_plan(grid.scale, cells, Estimates(grid.scale, cells), {"GRPO, G 8 on sketches, seed 1": (4, 32)})
    assert "4 cells, 4 to run: about 4.5 min one after the other, 0.1 CPU core hours (2 CPU cores)" in plan
    assert "~85 s" in plan
    assert plan.endswith("the guess of the scale's reproduce.yaml")
    (row,) = (line for line in plan.splitlines() if "GRPO, G 8" in line)
    assert row.split() == ["to", "run", "~85", "s", "4", "32", "GRPO,", "G", "8", "on", "sketches,", "seed", "1"]
    assert not Path("runs").exists()
    assert grid.take_calls() == []
    grid.run()
    plan = describe_plan(grid.scale, cells, Estimates(grid.scale, cells), {})
    assert "4 cells, 0 to run: about 0 s" in plan
    assert "~" not in plan


def test_seconds_of_a_system_that_has_not_run_are_those_of_one_like_it(grid: SmallGrid) -> None:
    cells = grid.list_cells()
    (grpo,) = (cell for cell in cells if cell.system.name == "grpo_g8")
    grpo.write_record(
        {"commands": {"grpo": {"exit_code": 0, "seconds": 30}, "evaluation": {"exit_code": 1, "seconds": 9}}}
    )
    estimates = Estimates(grid.scale, cells)
    assert [estimates.estimate(cell, cell.commands) for cell in cells if cell.system.name == "emo_r3_g8"] == [35.0]


def test_a_cell_that_was_killed_between_its_recipes_goes_on_with_the_second(grid: SmallGrid) -> None:
    grid.run()
    before = {cell.folder: cell.read_record() for cell in grid.list_cells()}
    for cell in grid.list_cells():  # as it stands when the first has ended
        record = {**before[cell.folder], "commands": dict([next(iter(before[cell.folder]["commands"].items()))])}
        cell.write_record(record)
    grid.take_calls()
    assert grid.run() == []
    assert len(calls := grid.take_calls()) == 4
    assert all(call.startswith("evaluate ") and not call.endswith("overwrite") for call in calls)
    for cell in grid.list_cells():
        training = next(iter(cell.read_record()["commands"].values()))
        assert training == next(iter(before[cell.folder]["commands"].values()))


def test_a_training_whose_record_was_lost_is_left_to_its_recipe(grid: SmallGrid) -> None:
    """Killed while it trains, a cell has no record; the recipe resumes in its folder."""
    folder = Path("runs/tiny/sketches/grpo_g8/seed1/model")
    folder.mkdir(parents=True)
    (folder / "steps.txt").write_text("0\n1\n")
    assert grid.run() == []
    assert (folder / "steps.txt").read_text().split() == ["0", "1", "2", "3"]


def test_a_recipe_that_ends_well_without_its_result_has_failed(grid: SmallGrid) -> None:
    (grid.recipes / "grpo.py").write_text("print('gone')")
    failures = grid.run()
    assert [failure.cell.system.name for failure in failures] == ["grpo_g8", "emo_r3_g8", "emo_r3_cold_start_g8"]
    assert "but without 'runs/tiny/sketches/grpo_g8/seed1/model/metrics.json'" in failures[0].describe()
    assert "| gone" in failures[0].describe()


def test_a_cell_that_cannot_be_written_does_not_stop_the_rest(grid: SmallGrid) -> None:
    Path("runs/tiny/sketches/grpo_g8/seed1/log.txt").mkdir(parents=True)
    (failure,) = grid.run()
    assert failure.reason == "Is a directory: 'runs/tiny/sketches/grpo_g8/seed1/log.txt'"
    assert [cell.system.name for cell in grid.list_cells() if not cell.is_finished()] == ["grpo_g8"]


def test_what_an_unknown_run_left_is_replaced_when_told(grid: SmallGrid) -> None:
    """The recipe refuses it and names --overwrite, which must reach it."""
    folder = Path("runs/tiny/sketches/grpo_g8/seed1/model")
    (folder / "checkpoint-2").mkdir(parents=True)
    grid.run(overwrite=True)
    calls = grid.take_calls()
    assert [call for call in calls if call.endswith("overwrite")] == ["train grpo_g8/seed1/model overwrite"]


def test_weights_of_other_settings_are_not_evaluated_under_the_old_ones(grid: SmallGrid, tmp_path: Path) -> None:
    """The settings change, the training is replaced, its evaluation fails; then the settings are as before."""
    grid.run()
    grid.scale = write_scale(tmp_path, settings={"grpo": {"validation_steps": 1}})
    evaluation = (grid.recipes / "evaluate.py").read_text()
    (grid.recipes / "evaluate.py").write_text("raise SystemExit(1)")
    assert len(grid.run(overwrite=True)) == 3
    (grid.recipes / "evaluate.py").write_text(evaluation)
    grid.scale = write_scale(tmp_path)
    grid.take_calls()
    assert grid.run(overwrite=True) == []
    calls = grid.take_calls()
    assert "train grpo_g8/seed1/model overwrite" in calls
    assert all(call.endswith("overwrite") for call in calls)


def test_other_settings_of_the_evaluation_keep_the_training(grid: SmallGrid, tmp_path: Path) -> None:
    grid.run()
    grid.scale = write_scale(tmp_path, evaluation={"max_tokens": 9})
    grid.take_calls()
    assert grid.run(overwrite=True) == []
    calls = grid.take_calls()
    assert len(calls) == 4
    assert all(call.startswith("evaluate ") and call.endswith(" overwrite") for call in calls)


def test_seconds_of_a_resumed_or_a_kept_training_are_no_measure(grid: SmallGrid) -> None:
    folder = Path("runs/tiny/sketches/grpo_g8/seed1/model")
    (folder / "checkpoint-2").mkdir(parents=True)
    grid.run()
    cells = grid.list_cells()
    (grpo,) = (cell for cell in cells if cell.system.name == "grpo_g8")
    runs = grpo.read_record()["commands"]
    assert (runs["grpo"]["is_whole"], runs["evaluation"]["is_whole"]) == (False, True)
    for cell in cells:
        if cell is not grpo:
            cell.write_record({})
    assert Estimates(grid.scale, cells).estimate(grpo, grpo.commands[:1]) == 80, "the guess, not the end of a training"


def test_a_plan_counts_what_is_left_of_a_cell(grid: SmallGrid) -> None:
    grid.run()
    cells = grid.list_cells()
    for cell in cells:
        record = cell.read_record()
        for run in record["commands"].values():
            run["seconds"] = 100.0
        if cell.system.name == "grpo_g8":
            record["commands"]["evaluation"]["exit_code"] = 1
        cell.write_record(record)
    plan = describe_plan(grid.scale, cells, Estimates(grid.scale, cells), {})
    assert "4 cells, 1 to run: about 1.7 min one after the other" in plan
    (row,) = (line for line in plan.splitlines() if "GRPO, G 8" in line)
    assert row.startswith("to finish    1.7 min")

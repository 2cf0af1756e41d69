"""Optimizer steps and completions: what a configuration says, and what a log says."""

import json
from pathlib import Path

import pytest
from small_grid import write_scale

from emor3_trl.reproduce.budgets import Budget, measure_budget, plan_budget, summarise_budgets
from emor3_trl.reproduce.cells import Cell, build_cell
from emor3_trl.reproduce.systems import SYSTEMS


def make_cell(folder: Path, name: str, **changes) -> Cell:
    scale = write_scale(folder)
    system = SYSTEMS[name]
    cell = build_cell(scale, system, "sketches" if system.stage else None, 1, folder / "cell")
    cell.commands[0].values.update(changes)
    return cell


@pytest.mark.parametrize(
    ("name", "changes", "rows", "expected"),
    [
        pytest.param("grpo_g8", {}, 4, Budget(4, 32), id="steps are set"),
        pytest.param("grpo_g8", {}, None, Budget(4, 32), id="and need no data"),
        pytest.param("grpo_g4", {}, 4, Budget(4, 16), id="half the completions at half the G"),
        pytest.param("grpo_g8", {"max_steps": -1, "num_train_epochs": 2}, 10, Budget(20, 160), id="epochs"),
        pytest.param("grpo_g8", {"max_steps": -1, "num_train_epochs": 2}, None, None, id="epochs of no data"),
        pytest.param("sft", {"num_train_epochs": 3}, 5, Budget(9, 15), id="SFT, the last batch short"),
        pytest.param("sft", {"max_samples": 4}, 5, Budget(2, 4), id="SFT on a part"),
        pytest.param("cold_start", {}, 5, Budget(1, 2), id="cold start"),
        pytest.param("cold_start", {}, None, Budget(1, 2), id="cold start, which needs no data to count"),
        pytest.param("vanilla_set", {}, 5, None, id="no training"),
    ],
)
def test_a_configuration_says_what_it_takes(
    tmp_path: Path, name: str, changes: dict, rows: int | None, expected: Budget | None
) -> None:
    assert plan_budget(make_cell(tmp_path, name, **changes), rows) == expected


def test_a_log_says_what_was_taken_and_written(tmp_path: Path) -> None:
    cell = make_cell(tmp_path, "dapo_g8")
    log = [{"step": 1, "rollout/completions": 8.0}, {"step": 2, "rollout/completions": 24.0}, {"step": 2, "loss": 1.0}]
    (cell.folder / "model").mkdir(parents=True)
    (cell.folder / "model" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert measure_budget(cell, plan_budget(cell, 4)) == Budget(2, 16, 32.0)  # it was stopped at half its steps


def test_groups_that_starved_are_not_counted_as_trained_on(tmp_path: Path) -> None:
    cell = make_cell(tmp_path, "dapo_g8")
    shares = [0.0, 0.5, 1.0, 0.5]
    log = [{"step": step, "rollout/starved_share": share} for step, share in enumerate(shares, 1)]
    (cell.folder / "model").mkdir(parents=True)
    (cell.folder / "model" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert measure_budget(cell, plan_budget(cell, 4)) == Budget(4, 16)  # of 32, half


def test_budgets_of_seeds_are_medians() -> None:
    runs = [Budget(24, 192, 192), Budget(24, 192, 400), Budget(20, 160, 300)]
    assert summarise_budgets(runs) == {"optimizer_steps": 24, "trained_on": 192, "completions_written": 300}
    assert summarise_budgets([Budget(13, 100)]) == {"optimizer_steps": 13, "trained_on": 100}

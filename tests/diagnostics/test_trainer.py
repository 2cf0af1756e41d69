"""Diagnostics of a real trainer: on several processes, on rows that say little, and on rows that no one can read."""

import logging
from typing import Any

import cheating
import pytest
from cheating import train_half_right
from training import launch_two, logged, tiny_dataset, tiny_trainer


def collect_diagnostics(entry: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in entry.items() if name.startswith("diagnostics/")}


@pytest.mark.slow
def test_two_processes_say_of_a_rollout_what_one_does(tiny_model_dir, tmp_path):
    """Each of the two holds one group, about one image; averages of both would call every answer a favourite."""
    alone = collect_diagnostics(train_half_right(tiny_model_dir, tmp_path / "one", 4).state.log_history[0])
    (tmp_path / "two").mkdir()
    launched = launch_two(tiny_model_dir, tmp_path / "two", {"batch_size": 2}, cheating.__file__)
    assert launched["processes"] == 2
    assert collect_diagnostics(launched["log"][0]) == pytest.approx(alone)
    assert alone["diagnostics/favourite_excess"] < 0.5
    assert alone["diagnostics/trigger_specificity"] > 0


def change_column(name: str, values: list[Any]) -> Any:
    return tiny_dataset().remove_columns(name).add_column(name, values)


def test_rows_whose_emotion_is_not_known_are_left_out(tiny_model_dir, tmp_path):
    rows = change_column("emotion", ["awe", None] * 4)
    trainer = tiny_trainer(tiny_model_dir, tmp_path, rows=rows, use_vllm=False, per_device_train_batch_size=32,
                           max_steps=1)  # fmt: skip
    trainer.train()
    entry = trainer.state.log_history[0]
    assert [name for name in entry if name.startswith("diagnostics/reward/")] == ["diagnostics/reward/awe"]
    assert entry["diagnostics/no_answer"] == 1.0


def test_a_fault_in_diagnostics_does_not_end_a_run(tiny_model_dir, tmp_path, caplog):
    rows = change_column("label_space", ["mine"] * 8)  # the user's own column, which no reward reads
    trainer = tiny_trainer(tiny_model_dir, tmp_path, rows=rows, use_vllm=False, max_steps=2)
    with caplog.at_level(logging.WARNING, "emor3_trl"):
        trainer.train()
    assert len(logged(trainer, "reward")) == 2
    told = [record for record in caplog.records if "has no diagnostics" in record.getMessage()]
    assert [record.getMessage()[:6] for record in told] == ["Step 1", "Step 2"]
    assert "Unknown label space 'mine'" in str(told[0].exc_info[1])

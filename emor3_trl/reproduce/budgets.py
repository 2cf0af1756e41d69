"""What a training takes and what it took: optimizer steps, and completions or examples that they train on."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from emor3_trl.groups.batching import count_batches
from emor3_trl.report.evaluated import load_log_history
from emor3_trl.reproduce.cells import Cell


@dataclass(frozen=True)
class Budget:
    """What trainings of one system take.

    Args:
        steps: optimizer steps.
        trained: completions (of SFT: examples) that the steps train on.
        written: completions that the policy wrote, those of dropped groups too; None where it was not counted.
    """

    steps: float
    trained: float
    written: float | None = None


def plan_budget(cell: Cell, rows: int | None) -> Budget | None:
    """Return what the configuration of a cell says; None for a model as it is, or data that is not there yet.

    Args:
        cell: the cell.
        rows: rows of its training split.
    """
    if cell.system.stage is None:
        return None
    values = cell.commands[0].values
    processes, limit = values.get("processes") or 1, values.get("max_samples")
    rows = min(rows, limit) if rows and limit else rows or limit
    rows = values.get("num_samples") or rows  # of a cold start
    if rows is None and not values.get("max_steps", -1) > 0:
        return None
    batch = processes * values["per_device_train_batch_size"] * values.get("gradient_accumulation_steps", 1)
    if cell.system.stage == "grpo":
        values = {"gradient_accumulation_steps": 1, **values}
        steps = count_batches(values, rows or 10**9, processes).updates
    else:
        samples = rows or 0
        fixed = values.get("max_steps", -1)
        epochs = values.get("num_train_epochs", 1)
        if not fixed > 0:  # the last batch of an epoch is short
            return Budget(int(-(-samples // batch) * epochs), samples * epochs)
        steps = fixed
    return Budget(steps, steps * batch)


def measure_budget(cell: Cell, planned: Budget | None) -> Budget | None:
    """Return what the log of a finished training says, of which the batch is planned.

    A dropped group that nothing could replace stands in its batch without an advantage, so nothing is trained on it.
    """
    if cell.system.stage is None or planned is None:
        return None
    log = load_log_history(cell.folder / "model")
    steps = max((int(entry["step"]) for entry in log if "step" in entry), default=0)
    written = [entry["rollout/completions"] for entry in log if "rollout/completions" in entry]
    starved = [entry["rollout/starved_share"] for entry in log if "rollout/starved_share" in entry]
    filled = 1 - sum(starved) / len(starved) if starved else 1.0
    trained = planned.trained / planned.steps * steps * filled
    return Budget(steps, round(trained), sum(written) if written else None)


def summarise_budgets(budgets: Iterable[Budget]) -> dict[str, Any]:
    """Return the medians over runs, as tables.json holds them."""
    budgets = list(budgets)
    written = [budget.written for budget in budgets if budget.written is not None]
    summary = {
        "optimizer_steps": median(budget.steps for budget in budgets),
        "trained_on": median(budget.trained for budget in budgets),
    }
    return {**summary, "completions_written": median(written)} if written else summary

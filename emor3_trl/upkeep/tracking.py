"""Completions in W&B and trackio: `TrackingTrainer` is mixed into TRL's `GRPOTrainer`, and replaces its table."""

import importlib
from collections.abc import Sequence
from typing import Any

from trl import GRPOTrainer

from emor3_trl.upkeep.completions_table import BACKENDS, build_table, choose_rows
from emor3_trl.upkeep.tracking_faults import warn_of_faults

ROWS = 32  # of a table: enough to read, small enough to load
STEPS = 10  # between two tables, where the configuration has no field for it
# The order of the first columns, where they are there
LEADING = ("step", "group", "image", "id", "emotion", "answer", "trigger", "feeling", "conclusion",
           "consistency_answer", "coherence_answer", "consistency_probability", "coherence_probability",
           "contrast_answer", "contrast_probability", "reflection_gate")  # fmt: skip


class TrackingTrainer(GRPOTrainer):
    """Logs the completions of a rollout to W&B and trackio as one bounded table; TRL still writes its Parquet file.

    It reads the field `log_completions_steps` of the configuration.
    """

    _last_table: int | None = None  # the step that it was logged at
    _report_to: list[str] = []  # while it trains

    @property
    def reports_to(self) -> list[str]:
        """What the run reports to, as the configuration says it."""
        return list(self.args.report_to or self._report_to)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train. TRL, which asks the configuration, logs neither a table of its own nor the time of each method."""
        self._report_to, self.args.report_to = self.args.report_to, []
        try:
            return super().train(*args, **kwargs)
        finally:
            self._report_to, self.args.report_to = [], self._report_to

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the metrics, and completions where `log_completions` is set and it is time."""
        names = [name for name in BACKENDS if name in self.reports_to]
        report_to, self.args.report_to = self.args.report_to, []  # also where it evaluates without training
        try:
            super().log(logs, start_time)
        finally:
            self.args.report_to = report_to
        step, steps = self.state.global_step, getattr(self.args, "log_completions_steps", STEPS)
        is_time = self._last_table is None or step >= self._last_table + steps
        if not (names and is_time and self.log_completions and self._logs["prompt"]):
            return
        self._last_table = step
        if not self.accelerator.is_main_process:
            return
        for name in names:
            with warn_of_faults(f"Step {step}: {name} took no table of completions"):
                self._log_table(importlib.import_module(name))

    def _log_table(self, backend: Any) -> None:
        """Log the completions of the last rollout to W&B or trackio, whichever module is given."""
        if backend.__name__ == "wandb" and backend.run is None:
            return
        columns, step = self._collect_columns(), self.state.global_step
        chosen = choose_rows(columns["group"], ROWS)
        if self.log_unique_prompts:
            chosen = [row for row in chosen if row == 0 or columns["group"][row] != columns["group"][row - 1]]
        backend.log({"completions": build_table(backend, columns, chosen), "train/global_step": step})

    def _collect_columns(self) -> dict[str, list[Any]]:
        """Return the columns of the last rollout, one value per completion of all processes."""
        logs = self._logs
        count = len(logs["prompt"])
        extra = {name: list(values) for name, values in logs["extra"].items() if len(values) == count}
        columns = {
            "step": [self.state.global_step] * count,
            **extra,
            "group": _number_groups(extra.get("group") or range(count), logs["prompt"]),
            **{name: list(values) for name, values in logs["rewards"].items()},
            "advantage": list(logs["advantages"]),
            "completion": [_read_text(completion) for completion in logs["completion"]],
        }
        if "trigger" not in columns:  # with steps, all prompts ask the same, and would fill the page
            columns["prompt"] = [_read_text(prompt) for prompt in logs["prompt"]]
        images = list(logs["images"] or ())
        if len(images) == count and any(images):
            columns["image"] = [row[0] if row else None for row in images]
        first = [name for name in LEADING if name in columns]
        return {name: columns[name] for name in (*first, *(name for name in columns if name not in first))}


def _number_groups(groups: Sequence[int], prompts: Sequence[Any]) -> list[int]:
    """Return 0, 1, … for runs of rows that are siblings: a refill of the rollout counts its groups anew."""
    numbers: list[int] = []
    for row, place in enumerate(zip(groups, map(str, prompts), strict=True)):
        is_new = row == 0 or place != (groups[row - 1], str(prompts[row - 1]))
        numbers.append(is_new + numbers[-1] if numbers else 0)
    return numbers


def _read_text(conversation: Any) -> str:
    if isinstance(conversation, str):
        return conversation
    return "\n".join(str(message.get("content") or "") for message in conversation)

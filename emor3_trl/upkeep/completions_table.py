"""A table of completions for W&B and trackio, in place of TRL's: siblings together, small pictures, a bounded size."""

import importlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from PIL import Image
from trl import GRPOTrainer

BACKENDS = ("wandb", "trackio")
IMAGE_SIDE = 224  # pixels; with 256 colours a PNG of this size has at most 52 kB
ROWS, STEPS = 32, 10
# The order of the first columns, where they are there
LEADING = ("step", "group", "image", "id", "emotion", "answer", "trigger", "feeling", "conclusion",
           "consistency_answer", "coherence_answer")  # fmt: skip


class CompletionsTableTrainer(GRPOTrainer):
    """Logs the completions of a rollout to W&B and trackio as one bounded table; TRL still writes its Parquet file.

    It reads the fields `log_completions_rows` and `log_completions_steps` of the configuration.
    """

    _last_table: int | None = None  # the step that it was logged at

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the metrics, and completions where `log_completions` is set and it is time."""
        report_to, self.args.report_to = self.args.report_to, []  # TRL logs no table of its own
        try:
            super().log(logs, start_time)
        finally:
            self.args.report_to = report_to
        step, steps = self.state.global_step, getattr(self.args, "log_completions_steps", STEPS)
        is_time = self._last_table is None or step >= self._last_table + steps
        names = [name for name in BACKENDS if name in (report_to or ())]
        if not (names and is_time and self.log_completions and self._logs["prompt"]):
            return
        self._last_table = step
        if not self.accelerator.is_main_process:
            return
        columns = self._collect_columns()
        chosen = choose_rows(columns["group"], getattr(self.args, "log_completions_rows", ROWS))
        if self.log_unique_prompts:
            chosen = [row for row in chosen if row == 0 or columns["group"][row] != columns["group"][row - 1]]
        for name in names:
            backend = importlib.import_module(name)
            if name == "wandb" and backend.run is None:
                continue
            table = build_table(backend, columns, chosen)
            backend.log({"completions": table, "train/global_step": step})

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
            "prompt": [_read_text(prompt) for prompt in logs["prompt"]],
        }
        images = list(logs["images"] or ())
        if len(images) == count and any(images):
            columns["image"] = [row[0] if row else None for row in images]
        first = [name for name in LEADING if name in columns]
        return {name: columns[name] for name in (*first, *(name for name in columns if name not in first))}


def choose_rows(groups: Sequence[int], limit: int) -> list[int]:
    """Return the first rows that make whole groups, at most `limit`; of a larger group, its first rows.

    >>> choose_rows([0, 0, 0, 1, 1, 1, 2, 2, 2], 7)
    [0, 1, 2, 3, 4, 5]
    >>> choose_rows([0, 0, 0], 2)
    [0, 1]
    """
    chosen: list[int] = []
    for _, rows in groupby(range(len(groups)), lambda row: groups[row]):
        siblings = list(rows)
        if chosen and len(chosen) + len(siblings) > limit:
            break
        chosen += siblings[:limit]
    return chosen


def shrink_image(image: Image.Image) -> Image.Image:
    """Return a copy with 256 colours and at most `IMAGE_SIDE` pixels a side, whose PNG is small."""
    small = image.convert("RGB")
    small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    return small.quantize(256)


def build_table(backend: Any, columns: Mapping[str, Sequence[Any]], rows: Sequence[int]) -> Any:
    """Return a table of W&B or trackio. Siblings share one image.

    Args:
        backend: the module `wandb` or `trackio`.
        columns: values by name; `image` holds PIL images.
        rows: which values to show.
    """
    shared: dict[int, Any] = {}
    data = []
    for row in rows:
        values = {name: column[row] for name, column in columns.items()}
        image = values.get("image")
        if image is not None:
            if id(image) not in shared:
                small = shrink_image(image)
                # trackio would give the image an alpha channel and all colours back
                shared[id(image)] = backend.Image(small if backend.__name__ == "wandb" else small.convert("RGB"))
            values["image"] = shared[id(image)]
        data.append(list(values.values()))
    return backend.Table(columns=list(columns), data=data)


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

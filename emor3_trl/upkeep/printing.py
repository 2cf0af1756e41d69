"""What others wrote is printed without control characters: `PrintingTrainer` is mixed into TRL's `GRPOTrainer`."""

from typing import Any

from transformers.utils import is_rich_available
from trl import GRPOTrainer
from trl.trainer.utils import print_prompt_completions_sample

from emor3_trl.printing import escape_controls


class PrintingTrainer(GRPOTrainer):
    """Prints the table of `log_completions` with escapes; its file and W&B keep every text as it is.

    A run that goes on after its last step has generated nothing, and leaves the file of that step as it is.
    """

    num_completions_to_print: int | None
    log_completions: bool

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the metrics and, with `log_completions`, print completions."""
        count, self.num_completions_to_print = self.num_completions_to_print, 0  # TRL prints none
        wanted, self.log_completions = self.log_completions, self.log_completions and bool(self._logs["prompt"])
        try:
            super().log(logs, start_time)
        finally:
            self.num_completions_to_print, self.log_completions = count, wanted
        if self.accelerator.is_main_process and self.log_completions and is_rich_available():
            names = ("prompt", "completion", "rewards", "advantages")
            columns = [_escape(self._logs[name]) for name in names]
            print_prompt_completions_sample(*columns, self.state.global_step, count, extra=_escape(self._logs["extra"]))


def _escape(value: Any) -> Any:
    """Return a value whose texts, however deep, hold no control character."""
    if isinstance(value, str):
        return escape_controls(value)
    if isinstance(value, dict):
        return {_escape(key): _escape(part) for key, part in value.items()}
    return [_escape(part) for part in value] if hasattr(value, "__iter__") else value

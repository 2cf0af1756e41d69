"""Where the seconds of a step go: `TimedTrainer` is mixed into TRL's `GRPOTrainer`, and logs `time/…`."""

from time import perf_counter
from typing import Any

from trl import GRPOTrainer

# What is measured; `time/training` is the rest of TRL's `step_time`
PARTS = ("time/rollout", "time/reflection", "time/rewards")


class TimedTrainer(GRPOTrainer):
    """Logs the seconds of an optimizer step by part; together they are TRL's `step_time`.

    A rollout that is used for several steps counts in the first of them; where these are logged together, in each of
    them with its share.
    """

    def _generate(self, prompts: list) -> tuple:
        start = perf_counter()
        output = super()._generate(prompts)
        seconds = perf_counter() - start
        self._log_metric("time/rollout", seconds)
        self._log_metric("rollout/tokens_per_second", sum(map(len, output[1])) / seconds)
        return output

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        earned = super()._calculate_rewards(*args, **kwargs)
        self._log_metric("time/rewards", perf_counter() - start)
        return earned

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the metrics; of training, with the seconds of the parts for each optimizer step."""
        metrics = self._metrics["train"]
        steps = metrics.get("step_time")
        if self.model.training and steps:
            totals = {part: sum(metrics[part]) for part in PARTS if part in metrics}
            for part, seconds in totals.items():
                metrics[part] = [seconds / len(steps)]
            metrics["time/training"] = [(sum(steps) - sum(totals.values())) / len(steps)]
        super().log(logs, start_time)

"""One progress bar with the few numbers that tell whether training works, instead of fifty metrics a step.

All metrics still go to `trainer_state.json` and to W&B.
"""

from typing import Any

from transformers import Trainer
from transformers.trainer_callback import ProgressCallback

SHOWN = {
    "loss": "loss",
    "reward": "reward",
    "rewards/accuracy_reward/mean": "accuracy",
    "rewards/consistency_reward/mean": "consistency",
    "rewards/coherence_reward/mean": "coherence",
    "rewards/format_reward/mean": "format",
    "rewards/think_format_reward/mean": "format",
    "kl": "kl",
}


class CompactProgress(ProgressCallback):
    """Transformers' progress bar, with selected metrics beside it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the latest numbers on the bar."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = {name: f"{float(logs[key]):.2f}" for key, name in SHOWN.items() if logs.get(key) is not None}
            if "reward" in shown:
                shown.pop("loss", None)  # GRPO's loss says nothing by itself
            if shown:
                self.training_bar.set_postfix(shown)


def show_compactly(trainer: Trainer) -> None:
    """Replace the trainer's own progress bar, where it has one."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(CompactProgress)

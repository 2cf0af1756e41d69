"""What is not a finite number stops a run: a weight, a loss, a reward. No stage ends with a model of NaNs.

`FiniteTrainer` is mixed into a trainer of TRL. It looks at the weights before the first step and after each one, before
anything is saved, so the checkpoints of a run that stops here are whole.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import Trainer
from trl.trainer.utils import is_async_callable


class NotFiniteError(RuntimeError):
    """A weight, a loss or a reward is infinite or not a number."""


class FiniteTrainer(Trainer):
    """Stops where a number is not finite; mix it in before a trainer of TRL."""

    reward_funcs: list[Any]

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> tuple:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        cure = "Check the model that model_name_or_path names."
        if resume_from_checkpoint is not None:
            cure = f"Delete '{resume_from_checkpoint}' to go on from an earlier checkpoint."
        self._check_weights(f"before step {self.state.global_step + 1}", cure)
        return prepared

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute a step's loss and gradient.

        Raises:
            NotFiniteError: if the loss is not finite, or the weights give no distribution to sample from.
        """
        try:
            loss = super().training_step(*args, **kwargs)
        except RuntimeError as error:
            if "probability tensor contains" not in str(error):  # what torch says of NaNs to sample from
                raise
            raise self._not_finite("The probability of a token is", None) from None
        if not torch.isfinite(loss).all():
            raise self._not_finite("The loss is", loss)
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._check_weights(f"after step {self.state.global_step}", self._advice())
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if output.get("old_per_token_logps") is not None:
            self._check_scores(output["old_per_token_logps"])
        return output

    def _calculate_rewards(
        self, inputs: list[dict], prompts: list, completions: list, completion_ids_list: list
    ) -> torch.Tensor:
        """Return what each reward function gives, shape (completions of all processes, functions).

        Raises:
            NotFiniteError: if a reward is infinite, or NaN; None, for a completion that is not judged, is neither.
        """
        functions = self.reward_funcs
        self.reward_funcs = [
            function if isinstance(function, torch.nn.Module) else _checked(function, name)
            for function, name in zip(functions, self.reward_func_names, strict=True)
        ]
        try:
            earned = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        finally:
            self.reward_funcs = functions
        for column, (function, name) in enumerate(zip(functions, self.reward_func_names, strict=True)):
            rewards = earned[:, column]
            if not isinstance(function, torch.nn.Module):
                rewards = rewards[~rewards.isnan()]  # its None, by now
            _check_rewards(rewards.tolist(), name)
        return earned

    def _check_scores(self, scores: torch.Tensor) -> None:
        """Check log-probabilities of the policy.

        Raises:
            NotFiniteError: if one of them is not a number.
        """
        if not torch.isfinite(scores).all():
            raise self._not_finite("The log-probability of a token is", None)

    def _check_weights(self, when: str, advice: str) -> None:
        names = list_not_finite(self.model)
        if names:
            count = sum(1 for _ in self.model.parameters())
            raise NotFiniteError(f"{len(names)} of {count} weights are not finite {when} (first: {names[0]}). {advice}")

    def _not_finite(self, what: str, value: torch.Tensor | None) -> NotFiniteError:
        shown = "not a number" if value is None else value.mean().item()
        return NotFiniteError(f"{what} {shown} in step {self.state.global_step + 1}. {self._advice()}")

    def _advice(self) -> str:
        return (
            f"Lower learning_rate (it is {self.args.learning_rate:g}), or look at the data of that step. "
            f"Checkpoints in '{self.args.output_dir}' from before are kept."
        )


@torch.no_grad()
def list_not_finite(model: torch.nn.Module) -> list[str]:
    """Return the names of weights that are not finite; of a sharded model, in this process's part."""
    local = {name: _local_part(weight) for name, weight in model.named_parameters()}
    # Weights of few bits are whole numbers, which cannot be anything else
    local = {name: weight for name, weight in local.items() if weight.numel() and weight.is_floating_point()}
    largest = torch._foreach_norm(list(local.values()), float("inf"))
    finite = torch.stack([value.float() for value in largest]).isfinite().tolist() if largest else []
    return [name for name, whole in zip(local, finite, strict=True) if not whole]


def _local_part(weight: Any) -> torch.Tensor:
    """Return what this process holds of a weight, under FSDP2, ZeRO-3, or whole."""
    return weight.to_local() if hasattr(weight, "to_local") else getattr(weight, "ds_tensor", weight)


def _checked(function: Callable, name: str) -> Callable:
    """Return a reward function whose rewards are looked at."""

    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        return _check_rewards(function(*args, **kwargs), name)

    @functools.wraps(function)
    async def check_later(*args: Any, **kwargs: Any) -> Any:
        return _check_rewards(await function(*args, **kwargs), name)

    return check_later if is_async_callable(function) else check


def _check_rewards(rewards: Iterable[float | None], name: str) -> list[float | None]:
    rewards = list(rewards)
    for row, reward in enumerate(rewards):
        if reward is not None and not math.isfinite(reward):
            raise NotFiniteError(
                f"The reward '{name}' is {float(reward)} for completion {row}. Expected a finite number, or None for a "
                "completion that it does not judge. Correct the reward."
            )
    return rewards

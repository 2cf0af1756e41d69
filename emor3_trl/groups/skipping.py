"""Groups without an advantage cost no forward: their part of the loss and of the gradient is an exact zero.

That holds while nothing but the advantage weighs a completion: beta is 0, or `skip_flat_groups` gives their KL term up.
Their tokens still count where the loss is a mean. What is logged of the policy's tokens (entropy, KL, the gap to the
engine) is of those that were computed.

A forward and a backward reach every weight that they would have reached, so that the optimizer steps as TRL's does,
and processes wait for each other at the same places: of a micro-batch without any advantage one completion is computed,
with an image where one has it. A process that stands alone needs none: it takes the gradient of a zero.
"""

import math
from typing import Any

import torch
from accelerate import DistributedType

from emor3_trl.groups.attention import explain_dropout
from emor3_trl.groups.checks import explain_whole_batch
from emor3_trl.groups.rows import Batch
from emor3_trl.groups.scoring import PackedTrainer, Scores


def find_skipped(advantages: torch.Tensor, groups: list[int]) -> torch.Tensor:
    """Return which rows belong to a group of which no row has an advantage, shape (rows,).

    Args:
        advantages: shape (rows,).
        groups: the group of each row.

    >>> find_skipped(torch.tensor([0.0, 1.0, 0.0, 0.0]), [0, 0, 1, 1]).tolist()
    [False, False, True, True]
    """
    teaching = {group for group, advantage in zip(groups, advantages.tolist(), strict=True) if advantage}
    return torch.tensor([group not in teaching for group in groups], device=advantages.device)


class SkippingTrainer(PackedTrainer):
    """Leaves out the forward of groups without an advantage, where nothing else of them is learned."""

    _stand_in: torch.Tensor | None = None  # log-probabilities of rows that are left out, shape (B, T)

    @property
    def _skips_groups(self) -> bool:
        """Whether groups without an advantage are left out; the same in all processes."""
        return (
            self.shares_prefix
            and self.model.training
            and not self.tools
            and (not self.beta or getattr(self.args, "skip_flat_groups", False))
            and explain_whole_batch(self.args) is None
            and explain_dropout(self.model) is None
        )

    def _mark_groups(self, batch: Batch) -> Batch:
        """Return a rollout with `is_skipped`, shape (rows,), where groups may be left out, and log their share."""
        if not self._skips_groups:
            return batch
        is_skipped = find_skipped(batch["advantages"], self.rollout.groups)
        share = self.accelerator.gather(is_skipped.float().mean().reshape(1)).mean().item()
        self._metrics["train"]["rollout/skipped_share"].append(share)
        return {**batch, "is_skipped": is_skipped}

    def _compute_loss(self, model: Any, inputs: Batch) -> torch.Tensor:
        if "is_skipped" not in inputs:
            return super()._compute_loss(model, inputs)
        inputs = {**inputs}
        skipped = self._choose_skipped(inputs.pop("is_skipped"), inputs)
        # The ratio to these is 1, and the KL term 0
        self._stand_in = inputs.get("ref_per_token_logps", inputs.get("old_per_token_logps"))
        if self._stand_in is not None and "old_per_token_logps" in inputs:
            old = inputs["old_per_token_logps"]
            inputs["old_per_token_logps"] = torch.where(skipped.unsqueeze(1), self._stand_in, old)
        self._skipped = skipped if bool(skipped.any()) else None
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self._skipped = self._stand_in = None
        self._average_over_computed(inputs["completion_mask"], skipped)
        return loss

    def _choose_skipped(self, is_skipped: torch.Tensor, inputs: Batch) -> torch.Tensor:
        """Return which rows of a micro-batch are left out, so that the others reach every weight, shape (B,)."""
        has_image = torch.tensor(inputs.get("num_images") or [0] * len(is_skipped), device=is_skipped.device) > 0
        reaches_all = not self._has_tower or (self._reaches_tower and bool(has_image.any()))
        if bool(is_skipped.all()) and reaches_all and self.accelerator.distributed_type is DistributedType.NO:
            return is_skipped
        wanted = has_image if bool(has_image.any()) else torch.ones_like(is_skipped)
        if bool((wanted & ~is_skipped).any()):
            return is_skipped
        lengths = inputs["completion_mask"].sum(dim=1).masked_fill(~wanted, torch.iinfo(torch.long).max)
        return is_skipped.index_fill(0, lengths.argmin(), value=False)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Scores:
        log_probs, entropies, aux_loss = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._skipped is not None and self._stand_in is not None:
            log_probs = torch.where(self._skipped.unsqueeze(1), self._stand_in, log_probs)
        return log_probs, entropies, aux_loss

    def _average_over_computed(self, mask: torch.Tensor, skipped: torch.Tensor) -> None:
        """Let the means that TRL has just logged over all tokens be those of the tokens that were computed."""
        counts = torch.stack([mask.sum(), (mask * ~skipped.unsqueeze(1)).sum()])
        tokens, computed = self.accelerator.reduce(counts, reduction="sum").tolist()
        for name in ("entropy", "kl"):
            values = self._metrics["train"].get(name)
            if values:
                values[-1] = values[-1] * tokens / computed if computed else math.nan

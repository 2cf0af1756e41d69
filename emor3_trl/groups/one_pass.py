"""Old log-probabilities without a pass of their own: while weights have not moved, they are the policy's.

TRL computes them before the loss, because its correction of vLLM's log-probabilities wants them there. Where a rollout
is used for one update, `OnePassTrainer` takes them from the training forward instead: ratios, metrics and the check
that rollouts are on-policy are the same, and come before the update. An evaluation keeps its pass, and so do rollouts
that are used again, dropout, whose draw differs from pass to pass, and models that `packing` does not know.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from emor3_trl.groups.attention import explain_dropout
from emor3_trl.groups.scoring import PackedTrainer, Scores
from emor3_trl.upkeep.finite import FiniteTrainer

GAP, RATIO = "sampling/sampling_logp_difference", "sampling/importance_sampling_ratio"


def weigh_samples(
    log_probs: torch.Tensor, sampled: torch.Tensor, mask: torch.Tensor, mode: str, low: float | None, high: float | None
) -> torch.Tensor:
    """Return by how much TRL corrects for what the engine sampled with other log-probabilities than the trainer's.

    Args:
        log_probs: the trainer's, shape (B, T).
        sampled: the engine's, shape (B, T); NaN for a token that it has not scored, which is not corrected.
        mask: 1 for tokens that count, shape (B, T).
        mode: TRL's `vllm_importance_sampling_mode`.
        low, high: the limits of the ratio; None for none.

    Returns:
        Ratios, shape (B, T), or (B, 1) for a mode of whole completions.
    """
    differences = ((log_probs - sampled) * mask).nan_to_num(nan=0.0)
    if mode.startswith("sequence"):
        differences = differences.sum(dim=-1, keepdim=True)
    ratios = differences.exp()
    if mode.endswith("truncate"):
        return ratios.clamp(min=low, max=high)
    outside = (ratios < (-math.inf if low is None else low)) | (ratios > (math.inf if high is None else high))
    return ratios.masked_fill(outside, 0.0)


@dataclass
class Comparison:
    """What the micro-batches of a rollout say of engine and trainer.

    Args:
        gaps: |log-prob difference| of the tokens of each micro-batch, shape (tokens,); NaN where it is not known.
        ratios: what corrects for it, shape (tokens,) or (completions,).
        skipped: whether there were completions that have not been scored.
    """

    gaps: list[torch.Tensor] = field(default_factory=list)
    ratios: list[torch.Tensor] = field(default_factory=list)
    skipped: bool = False

    def summarise(self) -> torch.Tensor:
        """Return mean and largest gap, smallest, mean and largest ratio, and the share of unknown gaps, shape (6,)."""
        gaps, ratios = torch.cat(self.gaps), torch.cat(self.ratios)
        known = gaps[~gaps.isnan()]
        # TRL's zero for a process without tokens, or with unknown gaps alone, whose share is judged; where the forward
        # was left out, there is no number
        nothing = gaps.new_full((3,), math.nan if self.skipped and not len(gaps) else 0.0)
        gap = torch.stack([known.mean(), known.max()]) if len(known) else nothing[:2]
        ratio = torch.stack([ratios.min(), ratios.mean(), ratios.max()]) if len(ratios) else nothing
        return torch.cat([gap, ratio, gaps.isnan().float().mean().reshape(1)])


class OnePassTrainer(FiniteTrainer, PackedTrainer):
    """Computes the policy's log-probabilities of a rollout once, where it is used for one update."""

    vllm_importance_sampling_correction: bool
    _comparison: Comparison
    _awaiting: dict[str, Any] | None = None  # a micro-batch whose ratios wait for the training forward

    @property
    def _scores_once(self) -> bool:
        steps = self.args.steps_per_generation
        return (
            self.shares_prefix
            and self.model.training
            and self.num_iterations == 1
            and self.args.gradient_accumulation_steps % steps == 0
            and not self.args.neftune_noise_alpha
            and explain_dropout(self.model) is None
        )

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        corrects = self.vllm_importance_sampling_correction
        self.vllm_importance_sampling_correction = corrects and not (self.use_vllm and self._scores_once)
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self.vllm_importance_sampling_correction = corrects
        if "importance_sampling_ratio" in output:
            mode = "train" if self.model.training else "eval"
            unknown = output["sampling_per_token_logps"][_count_tokens(output).bool()].isnan().float().mean()
            unknown = self.accelerator.gather(unknown.reshape(1)).nanmean().item()
            self._judge_gap(math.nan if unknown > 0.5 else self._metrics[mode][f"{GAP}/mean"][-1])
        return output

    def _judge_gap(self, gap: float) -> None:
        """Hear the mean |log-prob difference| between engine and trainer, the same in all processes, before the update.

        Args:
            gap: in nats per token; NaN if the engine has not scored most tokens.
        """

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        corrects = self.use_vllm and self.vllm_importance_sampling_correction
        if not corrects or "importance_sampling_ratio" in inputs:
            return super()._compute_loss(model, inputs)
        self._awaiting = {**inputs}
        try:
            return super()._compute_loss(model, self._awaiting)
        finally:
            self._awaiting = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Scores:
        scores = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._awaiting is not None:
            self._awaiting["importance_sampling_ratio"] = self._compare(scores[0].detach(), self._awaiting)
        return scores

    def _compare(self, log_probs: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        """Return the ratios of a micro-batch; after the last of a rollout, log and judge the whole of it."""
        self._check_scores(log_probs)
        mask, sampled = _count_tokens(batch), batch["sampling_per_token_logps"]
        rows = torch.ones_like(mask[:, 0], dtype=torch.bool) if self._skipped is None else ~self._skipped
        mask = mask * rows.unsqueeze(1)
        ratios = weigh_samples(
            log_probs,
            sampled,
            mask,
            self.vllm_importance_sampling_mode,
            self.vllm_importance_sampling_clip_min,
            self.vllm_importance_sampling_clip_max,
        )
        place, parts = self._step % self.args.steps_per_generation, self.args.steps_per_generation
        if place == 0:
            self._comparison = Comparison()
        self._comparison.gaps.append((log_probs - sampled).abs()[mask.bool()])
        self._comparison.ratios.append(ratios[mask.bool()] if ratios.shape == mask.shape else ratios[rows, 0])
        self._comparison.skipped |= not bool(rows.all())
        if place == parts - 1:
            self._report_comparison()
        return ratios

    def _report_comparison(self) -> None:
        """Log what TRL logs of a rollout's gaps and ratios, over all processes, and let the mean gap be judged."""
        every = self.accelerator.gather(self._comparison.summarise().unsqueeze(0))  # (processes, 6)
        self._comparison = Comparison()
        known = every[~every[:, 0].isnan()]
        if not len(known):  # every group was left out, see `skipping`
            return
        values = {
            f"{GAP}/mean": known[:, 0].mean(),
            f"{GAP}/max": known[:, 1].max(),
            f"{RATIO}/min": known[:, 2].min(),
            f"{RATIO}/mean": known[:, 3].mean(),
            f"{RATIO}/max": known[:, 4].max(),
        }
        for name, value in values.items():
            self._metrics["train"][name].append(value.item())
        self._judge_gap(math.nan if known[:, 5].nanmean() > 0.5 else values[f"{GAP}/mean"].item())


def _count_tokens(batch: dict[str, Any]) -> torch.Tensor:
    """Return which tokens of a batch's completions the policy wrote and is trained on, shape (B, T)."""
    return batch["completion_mask"] * batch.get("tool_mask", 1)

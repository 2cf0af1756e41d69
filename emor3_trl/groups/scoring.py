"""Log-probabilities of a micro-batch from packed rows: `PackedTrainer` is mixed into TRL's `GRPOTrainer`."""

import logging
from typing import Any

import torch
from trl import GRPOTrainer

from emor3_trl.families import find_family_of
from emor3_trl.groups import attention, packing
from emor3_trl.groups.batching import explain_split
from emor3_trl.groups.images import list_images, split_pixels_by_row

logger = logging.getLogger(__name__)

Scores = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]  # log-probabilities, entropies, auxiliary loss


class PackedTrainer(GRPOTrainer):
    """Scores the completions of a group in one row, in which prompt and image stand once (`packing`).

    `shares_prefix` says whether it does: models that it does not know are scored with TRL's own forward.
    """

    rollout: Any
    shares_prefix = False
    # Rows of the micro-batch that need no forward, shape (B,); see `skipping`
    _skipped: torch.Tensor | None = None

    def _policies(self) -> list[Any]:
        """Return the policy and, where there is one, the reference model, which DeepSpeed has wrapped by now."""
        return [self.model] if self.ref_model is None else [self.model, self.accelerator.unwrap_model(self.ref_model)]

    def _install_shared_prefix(self) -> bool:
        """Let policy and reference take packed rows, and say what keeps a group from sharing its whole prefix."""
        reason = attention.explain_refusal(self.model)
        say = logger.warning if self.accelerator.is_main_process else logger.debug
        if reason:
            say("The groups' prompts are not shared (shared_prefix): %s.", reason)
            return False
        for policy in self._policies():
            attention.install_attention(policy)
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self._rope_index = getattr(base.model, "get_rope_index", None)
        self._has_tower = getattr(base.config, "vision_config", None) is not None
        self._reaches_tower = find_family_of(base.config).reaches_tower
        self._layers = base.config.get_text_config().num_hidden_layers
        split = explain_split(
            self.num_generations, self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        )
        for text in (split, attention.explain_dropout(self.model)):
            if text:
                say(text)
        return True

    @property
    def _group_size(self) -> int:
        return self.num_generations if self.model.training else self.num_generations_eval

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **fields: Any,
    ) -> Scores:
        """Return log-probabilities and entropies, each of shape (B, T), from one packed row per chunk."""
        image_token_id = getattr(self.processing_class, "image_token_id", -1)
        # An image that a tool returned stands in the completion, and no sibling has it
        from_tool = bool(self.tools) and bool((input_ids[:, -logits_to_keep:] == image_token_id).any())
        if not self.shares_prefix or compute_aux_loss or from_tool:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **fields,
            )
        if self._skipped is not None and bool(self._skipped.all()):
            zeros = self._reach_all_weights(model) + torch.zeros_like(input_ids[:, -logits_to_keep:], dtype=torch.float)
            return zeros, torch.zeros_like(zeros) if compute_entropy else None, None
        if batch_size is not None and not torch.is_grad_enabled():
            # Without a backward, a group needs little more memory than one completion: it is not split.
            batch_size = max(batch_size // self._group_size, 1) * self._group_size
        log_probs, entropies, token_shares = [], [], []
        for row in packing.pack_rows(
            input_ids,
            attention_mask,
            logits_to_keep,
            self._rope_index,
            batch_size=batch_size,
            image_token_id=image_token_id,
            pixel_values=self._pixels_apart(fields),
            image_grid_thw=fields.get("image_grid_thw"),
            num_images=fields.get("num_images"),
            skipped=None if self._skipped is None else self._skipped.tolist(),
        ):
            with self.accelerator.autocast():
                output = model(**row.inputs(), fused_lm_head=True)
            row.layout.check_used(self._layers)
            log_probs.append(row.unpack(output.log_probs))
            if compute_entropy:
                entropies.append(row.unpack(output.entropy))
            token_shares.append(row.input_ids.shape[1] / row.ordinary_tokens)
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["shared_prefix/token_share"] += token_shares
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None

    def _reach_all_weights(self, model: torch.nn.Module) -> torch.Tensor:
        """Return a zero whose gradient is zero for each weight that is trained."""
        return torch.stack([0.0 * weight.flatten()[0] for weight in model.parameters() if weight.requires_grad]).sum()

    @property
    def _keeps_pixels_apart(self) -> bool:
        """Whether the patches of an image stand once in memory: not where a forward takes rows that are not packed."""
        return self.shares_prefix and self.use_vllm and not self.tools and not self.args.use_liger_kernel

    def _pixels_apart(self, fields: dict[str, Any]) -> Any:
        """Return the patches of each row's images where they are kept apart, else `pixel_values` as they are."""
        pixels, grids = fields.get("pixel_values"), fields.get("image_grid_thw")
        if not self._keeps_pixels_apart or grids is None or not isinstance(pixels, torch.Tensor):
            return pixels
        return split_pixels_by_row(pixels, grids, [list_images(row) for row in self.rollout.rows])

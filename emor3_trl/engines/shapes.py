"""What two checkpoints must share for one engine to hold either: all that vLLM takes from a folder but the weights."""

import hashlib
import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoConfig, GenerationConfig

# Of a configuration, what says nothing about how weights are used. An engine has a compute type of its own, and the
# tokens that end a text are compared as vLLM reads them.
_NOT_COMPARED = frozenset({
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "bos_token_id", "eos_token_id",
    "pad_token_id",
})  # fmt: skip


def describe_shape(path: str, processor: Any) -> dict[str, Any]:
    """Describe a checkpoint so that equal descriptions mean equal use of other weights.

    Args:
        path: its folder, or its name on the Hub.
        processor: its processor. Its chat template is not compared, because an engine is given tokens.

    Returns:
        Its configuration, the shape of each stored weight, the tokens that end a text, how images are processed, and a
        digest of the tokenizer.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    tokenizer = processor.tokenizer
    return {
        "config": _leave_out(config.to_dict()),
        "weights": _read_weight_shapes(path),
        "ends": sorted({*_list_ends(path, config), tokenizer.eos_token_id}),
        "processor": _leave_out(processor.to_dict()),
        "tokenizer": _digest_tokenizer(tokenizer),
    }


def _leave_out(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {name: _leave_out(value) for name, value in values.items() if name not in _NOT_COMPARED}


def _read_weight_shapes(path: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight: a head that is stored, or is not, decides whether vLLM ties it."""
    folder = Path(path) if Path(path).is_dir() else Path(snapshot_download(path, allow_patterns=["*.safetensors"]))
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.offset_keys()}
    return shapes


def _list_ends(path: str, config: Any) -> list[int]:
    try:
        ends = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:  # vLLM falls back on the configuration, too
        ends = config.get_text_config().eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _digest_tokenizer(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = json.loads(backend.to_str()) if backend is not None else {"vocabulary": tokenizer.get_vocab()}
    # How batches are made of texts is not how texts are read
    parts |= {"padding": None, "truncation": None, "special": tokenizer.special_tokens_map}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

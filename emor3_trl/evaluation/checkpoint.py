"""Checkpoints to evaluate: whether one is there, what identifies its weights, and LoRA adapters made whole."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_BLOCK, _BLOCKS = 1 << 16, 256


def check_checkpoint(model: str | Path) -> None:
    """Make sure that `model` is a checkpoint folder with its processor, or looks like the name of a model on the Hub.

    Raises:
        FileNotFoundError: if it is neither; the message says what is missing.
    """
    folder = Path(model)
    if folder.is_dir():
        needed = ["tokenizer_config.json"]
        needed += [] if (folder / "adapter_config.json").is_file() else ["config.json", "preprocessor_config.json"]
        missing = [name for name in needed if not (folder / name).is_file()]
        if "preprocessor_config.json" in missing and (folder / "processor_config.json").is_file():
            missing.remove("preprocessor_config.json")
        weights = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
        missing += [] if weights else ["*.safetensors"]
        if missing:
            raise FileNotFoundError(
                f"The model folder '{model}' lacks {', '.join(missing)}. Expected a checkpoint with its processor, as "
                "the recipes save it. Was its run stopped before the end?"
            )
        return
    parts = str(model).split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "runs", "~") or Path(parts[0]).is_dir():
        raise FileNotFoundError(
            f"There is no model at '{model}'. Expected a checkpoint folder, or a Hub name such as "
            "Qwen/Qwen2.5-VL-3B-Instruct. Train it first, or correct the path."
        )


def fingerprint(path: str | Path) -> str:
    """Return a short digest of a file's or a checkpoint's content, so that a retrained model is not taken for the old.

    Sizes and 256 evenly spaced blocks of each weight or parquet file are read, not gigabytes. A path that is not
    there (a Hub name) is its own digest.
    """
    path = Path(path)
    if not path.exists():
        return str(path)
    files = [path] if path.is_file() else sorted([*path.glob("*.safetensors"), *path.glob("*.json")])
    digest = hashlib.sha256()
    for file in files:
        # What evaluation reads, not what a run notes beside it
        if file.name in ("metrics.json", "environment.json", "log_history.json", "trainer_state.json"):
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as stream:
            for offset in range(0, size, max(_BLOCK, size // _BLOCKS)):
                stream.seek(offset)
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()[:16]


@contextmanager
def whole_checkpoint(model: str | Path) -> Iterator[str]:
    """Give the path of a checkpoint that any engine loads: `model` itself, or a LoRA adapter merged into its base."""
    if not (Path(model) / "adapter_config.json").is_file():
        yield str(model)
        return
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    base = PeftConfig.from_pretrained(str(model)).base_model_name_or_path
    whole: Any = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    with TemporaryDirectory(prefix="emor3-merged-") as folder:
        PeftModel.from_pretrained(whole, str(model)).merge_and_unload().save_pretrained(folder)
        source = model if (Path(model) / "tokenizer_config.json").is_file() else base
        AutoProcessor.from_pretrained(source).save_pretrained(folder)
        yield folder

"""A checkpoint: whether it is there and whole, what identifies its weights, and a LoRA adapter merged into its base."""

import hashlib
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from emor3_trl.checksums import CHECKSUMS, find_changed
from emor3_trl.damage import find_file_damage
from emor3_trl.families import find_family_of
from emor3_trl.files import read_mapping

_BLOCK, _BLOCKS = 1 << 16, 256
_MERGED = "emor3-merged-"
# How a model is loaded that somebody names: no code of its folder runs, and no pickle is read. Without an answer,
# transformers would ask the terminal whether to run the code.
SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}


def check_checkpoint(model: str | Path, base_model: str | None = None) -> None:
    """Make sure that `model` is a checkpoint or a LoRA adapter with its processor, or looks like a name on the Hub.

    Args:
        model: a folder or a Hub name.
        base_model: the model under an adapter; by default, the one that the adapter recorded.

    Raises:
        FileNotFoundError: if it is neither, or its base model is not there; the message says what is missing.
        ValueError: if a file of weights is not whole, or one changed since a run saved it.
    """
    folder = Path(model)
    if folder.is_dir():
        adapter = (folder / "adapter_config.json").is_file()
        needed = [] if adapter else ["tokenizer_config.json", "config.json", "preprocessor_config.json"]
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
        _check_whole(folder)
        if adapter:
            base = find_base(model, base_model)
            try:
                check_checkpoint(base)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error} It is the base of the adapter '{model}': set --base_model.") from None
        return
    if not looks_like_hub_name(str(model)):
        raise FileNotFoundError(
            f"There is no model at '{model}'. Expected a checkpoint folder, or a Hub name such as "
            "Qwen/Qwen2.5-VL-3B-Instruct. Train it first, or correct the path."
        )


def _check_whole(folder: Path) -> None:
    for file in sorted(folder.glob("*.safetensors")):
        damage = find_file_damage(file)
        if damage:
            raise ValueError(
                f"'{file}' is not whole ({damage}). Was it copied, or its run stopped, half-way? Save it again."
            )
    changed = find_changed(folder)
    if changed:
        raise ValueError(
            f"The model folder '{folder}' is damaged: {changed}. Copy it again from where it was saved, or train it "
            f"again with --overwrite. If you changed it on purpose, delete its {CHECKSUMS}."
        )


def find_base(model: str | Path, base_model: str | None = None) -> str:
    """Return the model itself, or the one under it if it is a LoRA adapter: `base_model`, else what it recorded."""
    recorded = Path(model) / "adapter_config.json"
    if not recorded.is_file():
        return str(model)
    content = read_mapping(recorded, "Copy it again from where the adapter was trained.")
    base = base_model or content.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"'{recorded}' names no base_model_name_or_path. Set --base_model, or copy it again.")
    return str(base)


def read_token_side(model: str | Path, base_model: str | None = None) -> int:
    """Return the `token_side` of a model's family: pixels of the side of an image token."""
    from transformers import AutoConfig

    return find_family_of(AutoConfig.from_pretrained(find_base(model, base_model), trust_remote_code=False)).token_side


def check_fit(model: str | Path, base_model: str | None = None) -> tuple[Any, int]:
    """Make sure that a model and its processor belong together, from their configurations alone.

    Args:
        model: what `check_checkpoint` accepts.
        base_model: the model under an adapter; by default, the one that the adapter recorded.

    Returns:
        The processor, and the number of tokens that the model sees at once.

    Raises:
        OSError: if it is on no disk and not on the Hub, or the Hub cannot be reached.
        ValueError: naming what differs: the image token, the patches, a tokenizer with more tokens than the model, a
            missing chat template or image processor, or the names of an adapter's weights.
    """
    from transformers import AutoConfig, AutoProcessor

    try:
        config: Any = AutoConfig.from_pretrained(find_base(model, base_model), trust_remote_code=False)
        processor: Any = AutoProcessor.from_pretrained(_find_processor(model, base_model), trust_remote_code=False)
    except OSError as error:
        raise OSError(
            f"The model '{model}' cannot be loaded ({error}). Expected a checkpoint folder, or a Hub name that is "
            "downloaded already or can be reached from here. Correct it, or download the model first."
        ) from error
    tokenizer, images = getattr(processor, "tokenizer", processor), getattr(processor, "image_processor", None)
    if images is None or not hasattr(config, "vision_config"):
        what = "its processor has no image processor" if images is None else "its configuration has no vision tower"
        raise ValueError(
            f"The model '{model}' cannot see: {what}. Expected a vision-language model such as Qwen2.5-VL."
        )
    vision = config.vision_config
    pairs = {
        "image token id": (getattr(config, "image_token_id", None), getattr(processor, "image_token_id", None)),
        "patch size": (getattr(vision, "patch_size", None), getattr(images, "patch_size", None)),
        "merge size": (getattr(vision, "spatial_merge_size", None), getattr(images, "merge_size", None)),
    }
    faults = [
        f"{name} {of_model} in the model and {of_processor} in the processor"
        for name, (of_model, of_processor) in pairs.items()
        if None not in (of_model, of_processor) and of_model != of_processor
    ]
    size = config.get_text_config().vocab_size
    if len(tokenizer) > size:
        faults.append(f"{len(tokenizer)} tokens in the tokenizer, but {size} rows in the model's embedding")
    if not (getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)):
        faults.append("no chat template")
    if faults:
        raise ValueError(
            f"The model and the processor in '{model}' do not fit: {'; '.join(faults)}. Copy the processor's files "
            "(tokenizer, preprocessor_config.json, chat_template) from the model that it was trained from."
        )
    if find_base(model, base_model) != str(model):
        check_adapter_fits(_load_without_weights(model, config), model)
    return processor, int(config.get_text_config().max_position_embeddings)


def fingerprint(path: str | Path) -> str:
    """Return a short digest of a file's or a checkpoint's content, so that a retrained model is not taken for the old.

    Sizes and 256 evenly spaced blocks of each weight or parquet file are read, not gigabytes. A path that is not
    there (a Hub name) is its own digest.
    """
    path = Path(path)
    if not path.exists():
        return str(path)
    kinds = ("*.safetensors", "*.json", "*.jinja")
    files = [path] if path.is_file() else sorted(file for kind in kinds for file in path.glob(kind))
    digest = hashlib.sha256()
    for file in files:
        # What evaluation reads, not what a run notes beside it
        if file.name in ("metrics.json", "environment.json", "log_history.json", "trainer_state.json", CHECKSUMS):
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as stream:
            for offset in range(0, size, max(_BLOCK, size // _BLOCKS)):
                stream.seek(offset)
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()[:16]


def estimate_room(models: Iterable[str], base_model: str | None, completions: int, max_tokens: int) -> int:
    """Return the bytes that an evaluation may write: its completions, and the largest adapter's base, merged, once.

    Args:
        models: the models.
        base_model: the model under adapters; by default, the one that each recorded.
        completions: of each model.
        max_tokens: of a completion; each may take 8 bytes, in the text and in its steps, in two files for a while.
    """
    models = list(models)
    bases = [Path(find_base(model, base_model)) for model in models if find_base(model, base_model) != str(model)]
    merged = max((sum(file.stat().st_size for file in base.glob("*.safetensors")) for base in bases), default=0)
    return merged + len(models) * completions * (2_000 + 32 * max_tokens)


@contextmanager
def whole_checkpoint(
    model: str | Path, base_model: str | None = None, scratch: str | Path | None = None
) -> Iterator[str]:
    """Give the path of a checkpoint that any engine loads: `model` itself, or a LoRA adapter merged into its base.

    Args:
        model: what `check_checkpoint` accepts.
        base_model: the model under an adapter; by default, the one that the adapter recorded.
        scratch: where a merged adapter is written for that time; the system's folder by default. What a killed
            evaluation left there is removed.

    Raises:
        ValueError: if the adapter's weights do not fit the model.
    """
    base = find_base(model, base_model)
    if base == str(model):
        yield str(model)
        return
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    for leftover in Path(scratch).glob(f"{_MERGED}*") if scratch else ():
        shutil.rmtree(leftover)
    merged: Any = AutoModelForImageTextToText.from_pretrained(base, dtype="auto", **SAFE)
    with TemporaryDirectory(prefix=_MERGED, dir=scratch) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that do not fit, which are refused here
            adapted = PeftModel.from_pretrained(merged, str(model))
            check_adapter_fits(adapted.load_adapter(str(model), "default"), model)
        adapted.merge_and_unload().save_pretrained(folder)
        processor = AutoProcessor.from_pretrained(_find_processor(model, base_model), trust_remote_code=False)
        processor.save_pretrained(folder)
        del merged
        yield folder


def check_adapter_fits(report: Any, folder: str | Path) -> None:
    """Make sure that all weights of an adapter, and no others, found their place in a model.

    Args:
        report: what `PeftModel.load_adapter` returned.
        folder: the adapter, for the message.

    Raises:
        ValueError: with how many did not, and an example of each kind.
    """
    left, empty = list(report.unexpected_keys), list(report.missing_keys)
    if left or empty:
        raise ValueError(
            f"The adapter '{folder}' does not fit the model: {len(left)} of its weights have no place in it, "
            f"{len(empty)} places get none (first: {(left + empty)[0]}). It was trained on another base, or with a "
            "version of transformers that names weights otherwise: use what trained it."
        )


def _load_without_weights(adapter: str | Path, config: Any) -> Any:
    """Return what PEFT reports of loading an adapter into a model of that configuration, which takes no memory."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
        return PeftModel.from_pretrained(base, str(adapter)).load_adapter(str(adapter), "default", torch_device="cpu")


def _find_processor(model: str | Path, base_model: str | None) -> str:
    """Return where the processor is: an adapter may come without one of its own."""
    has_one = any((Path(model) / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    return str(model) if has_one else find_base(model, base_model)


def check_model_path(path: str | None) -> None:
    """Check that a model's folder is there and holds weights; a name on the Hub is not looked up.

    Raises:
        FileNotFoundError: if the folder, or its config.json, does not exist.
        ValueError: if no model is set, a file of weights is not whole, or one changed since a run saved it.
    """
    if not path:
        raise ValueError("No model is set. Give --model_name_or_path a checkpoint folder or a model's name on the Hub.")
    folder = Path(path)
    if looks_like_hub_name(path):
        return
    if not (folder / "config.json").is_file():
        what = "holds no config.json" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"Model folder '{path}' {what}. Point --model_name_or_path at a finished run, or make it first: "
            "recipes/prepare_data.py builds the demo's base model, recipes/cold_start.py a cold start."
        )
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"Model folder '{path}' holds no *.safetensors. Was its run stopped before the end? Weights in other "
            "formats are not loaded: save them with save_pretrained(…, safe_serialization=True)."
        )
    _check_whole(folder)


def looks_like_hub_name(model: str) -> bool:
    """Return whether a path reads organisation/name, and the first part is no folder here."""
    organisation, *names = model.split("/")
    local = organisation in ("", ".", "..", "runs", "~") or Path(organisation).is_dir()
    return len(names) == 1 and names[0] != "" and not local

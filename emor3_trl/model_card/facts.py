"""What the files of a run say of it: each fact of a model card stands in one of them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emor3_trl.checkpoints import find_base, fingerprint
from emor3_trl.data import load_split
from emor3_trl.engines.policy import image_token_ids
from emor3_trl.files import read_mapping
from emor3_trl.prompts import prompt_text

_CURE = "Export a finished run."


@dataclass(frozen=True)
class RunFacts:
    """What the files of a run say.

    Args:
        config: its resolved configuration (config.yaml; training_args.bin of a run that Python code started).
        environment: when, where and with what it ran (environment.json).
        labels: the label space of its training data.
        question: what the model is asked about a picture of that label space.
        data: what the data's manifest says, empty where the data is elsewhere.
        training: its last metrics (metrics.json), empty until it has ended.
        metrics: of its evaluation (metrics.json), empty if there is none.
        evaluation: how that asked (its config.yaml).
    """

    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    labels: tuple[str, ...]
    question: str
    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    """Where a card's reader finds the weights, and how they are loaded.

    Args:
        path: the folder, as it stands in the card; None while no weights are saved.
        base: the model under an adapter; None for a whole model.
        decoding: how the model is decoded, where its own generation_config.json says something else.
    """

    path: str | None
    base: str | None = None
    decoding: Mapping[str, Any] | None = None


def gather_facts(run: Path, evaluation: str | Path | None = None, data: str | None = None) -> RunFacts:
    """Read the files of a run, of its training data and of its evaluation.

    Args:
        run: the run's folder.
        evaluation: the folder of an evaluation of this very model, or None.
        data: the folder of its training data, where they are elsewhere than its configuration says.

    Raises:
        FileNotFoundError: if its training data is not there.
        ValueError: if a file cannot be read, its configuration names no data, or the evaluation is of other weights.
    """
    config = read_mapping(run / "config.yaml", _CURE)
    environment = read_mapping(run / "environment.json", _CURE)
    training = read_mapping(run / "metrics.json", _CURE) if (run / "metrics.json").is_file() else {}
    metrics: dict[str, Any] = {}
    evaluated: dict[str, Any] = {}
    if evaluation is not None:
        evaluated = read_mapping(Path(evaluation) / "config.yaml", "Evaluate the model again.")
        if evaluated.get("model_fingerprint") != fingerprint(run):
            raise ValueError(
                f"The evaluation '{evaluation}' is of '{evaluated.get('model')}', whose weights are not those of "
                f"'{run}'. Evaluate this model: recipes/evaluate.py --model {run}."
            )
        metrics = read_mapping(Path(evaluation) / "metrics.json", "Evaluate the model again.")
    place = data or config.get("data")
    if not place:
        raise ValueError(f"'{run / 'config.yaml'}' names no data, so the labels are not known. {_CURE}")
    rows = load_split(place, config.get("train_split", "train"), max_samples=1)
    labels = tuple(rows[0]["label_space"])
    question = prompt_text(config.get("prompt_style", "set"), labels)
    return RunFacts(config, environment, labels, question, read_manifest(place), training, metrics, evaluated)


def read_manifest(data: str) -> dict[str, Any]:
    """Return what the manifest of a data folder says; empty where it has none."""
    manifest = Path(data, "manifest.json")
    return read_mapping(manifest, "Prepare the data again.") if manifest.is_file() else {}


def find_weights(folder: Path, config: Mapping[str, Any]) -> Weights:
    """Return how the weights in a run's folder, or in a checkpoint, are loaded and decoded.

    Args:
        folder: the folder, with its processor.
        config: the run's configuration, which says how long completions are.
    """
    from transformers import AutoProcessor

    adapter = (folder / "adapter_config.json").is_file()
    if not adapter and not any(folder.glob("*.safetensors")):
        return Weights(None)
    base = find_base(folder) if adapter else None
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    decoding = describe_decoding(read_decoding(base or folder, processor), processor, config)
    near = folder.absolute().is_relative_to(Path.cwd())  # other folders of a machine are nobody's business
    return Weights(os.path.relpath(folder) if near else folder.name, base, decoding)


def read_decoding(model: str | Path, processor: Any) -> Any:
    """Return a model's own `GenerationConfig`; without one, the tokens of its tokenizer that end a text."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model, local_files_only=True)  # it came with the weights
    except OSError:
        tokenizer = processor.tokenizer
        return GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)


def describe_decoding(stock: Any, processor: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how evaluation decodes, as options of transformers' `GenerationConfig`: greedily, without image tokens.

    Args:
        stock: the model's own `GenerationConfig`, of which the tokens that end a text are kept.
        processor: the model's processor.
        config: the run's configuration, which says how long completions are.
    """
    longest = config.get("max_completion_length") or config.get("probe_max_tokens") or 2048
    ends = {name: getattr(stock, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    suppressed = image_token_ids(processor)
    decoding = {"do_sample": False, "max_new_tokens": int(longest), **ends, "suppress_tokens": suppressed or None}
    return {name: value for name, value in decoding.items() if value is not None}

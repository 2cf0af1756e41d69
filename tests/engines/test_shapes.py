"""Which checkpoints may follow one another on an engine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from emor3_trl.engines.shapes import describe_shape


def describe(folder: Path) -> dict[str, Any]:
    return describe_shape(str(folder), AutoProcessor.from_pretrained(folder))


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return what changes a JSON file of a checkpoint."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return apply


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Return what changes the weights of a checkpoint."""

    def apply(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def store_head(weights: dict[str, torch.Tensor]) -> None:
    """Store a head of its own against the configuration: vLLM uses it instead of the embedding."""
    embedding = next(weight for name, weight in weights.items() if name.endswith("embed_tokens.weight"))
    weights["lm_head.weight"] = embedding + 1


@pytest.mark.parametrize(
    ("change", "equal"),
    [
        pytest.param(edit_weights(lambda w: [t.mul_(2) for t in w.values()]), True, id="weights"),
        pytest.param(edit_weights(lambda w: w.update({n: t.bfloat16() for n, t in w.items()})), True, id="stored-type"),
        pytest.param(edit("config.json", lambda c: c.update(use_cache=False, dtype="float16")), True, id="trained"),
        pytest.param(
            edit("generation_config.json", lambda c: c.update(eos_token_id=[c["eos_token_id"]] * 2, top_k=1)),
            True,
            id="same-end-twice",
        ),
        pytest.param(edit("tokenizer_config.json", lambda c: c.update(padding_side="right")), True, id="padding"),
        pytest.param(edit_weights(store_head), False, id="a-head-beside-a-tied-embedding"),
        pytest.param(edit("generation_config.json", lambda c: c.update(eos_token_id=[3, 5])), False, id="ends"),
        pytest.param(edit("config.json", lambda c: c["text_config"].update(rms_norm_eps=0.1)), False, id="norm"),
        pytest.param(
            edit("config.json", lambda c: c["text_config"].update(tie_word_embeddings=False)), False, id="untied"
        ),
        pytest.param(
            edit("config.json", lambda c: c["vision_config"].update(fullatt_block_indexes=[0])), False, id="tower"
        ),
        pytest.param(
            edit("processor_config.json", lambda c: c["image_processor"].update(image_mean=[0, 0, 0])),
            False,
            id="pixels",
        ),
        pytest.param(edit("tokenizer.json", lambda c: c["model"]["merges"].pop()), False, id="tokenizer"),
    ],
)
def test_only_what_changes_the_use_of_weights_tells_checkpoints_apart(tiny_model_dir, tmp_path, change, equal):
    other = Path(shutil.copytree(tiny_model_dir, tmp_path / "other"))
    change(other)
    assert (describe(other) == describe(tiny_model_dir)) is equal

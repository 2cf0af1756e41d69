"""Do prompts and completions fit the model's context? Answered from texts and picture sizes, before a model loads."""

import io
import json
from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from PIL import Image
from transformers import AutoConfig

from emor3_trl.engines.choices import prompt_beginning_ids
from emor3_trl.groups.images import leave_encoded
from emor3_trl.prompts import render


def prompt_lengths(dataset: Dataset, processor: Any) -> list[int]:
    """Return the number of tokens of each row's prompt, its picture's included.

    Args:
        dataset: rows with `prompt` (a conversation of text) and `image` (or none).
        processor: a processor, or a tokenizer for rows without pictures.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    known: dict[str, int] = {}
    tokens_of_size: dict[tuple[int, int], int] = {}
    lengths = []
    columns = leave_encoded(dataset).select_columns([name for name in ("prompt", "image") if name in dataset.features])
    for row in columns:
        image = row.get("image")
        prompt = row["prompt"]
        if image is not None and not isinstance(prompt, str):  # as TRL does: the picture stands before the first text
            first, *others = prompt
            content = [{"type": "image"}, {"type": "text", "text": first["content"]}]
            prompt = [{**first, "content": content}, *others] if isinstance(first["content"], str) else prompt
        key = json.dumps(prompt)
        if key not in known:
            text = prompt
            if not isinstance(prompt, str):
                text = processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            known[key] = len(prompt_beginning_ids(tokenizer, text))
        further = 0
        if image is not None:
            size = _read_size(image)
            if size not in tokens_of_size:
                tokens_of_size[size] = _count_further_tokens(size, processor)
            further = tokens_of_size[size]
        lengths.append(known[key] + further)
    return lengths


def check_context(dataset: Any, processor: Any, args: Any, model: Any, name: str = "") -> None:
    """Check that the longest prompt leaves room for a completion, before the model is loaded.

    Args:
        dataset: rows, or a dict of several sets of them; only map-style data sets are checked.
        processor: the model's processor; without one, nothing is checked.
        args: `EmoR3Config`.
        model: a loaded model, or the path that it will be loaded from.
        name: what an error calls the rows.

    Raises:
        ValueError: with the row of the longest prompt, and what would fit.
    """
    if isinstance(dataset, Mapping):
        for name, part in dataset.items():
            check_context(part, processor, args, model, name)
        return
    if not isinstance(dataset, Dataset) or processor is None or not len(dataset):
        return
    context, setting = args.vllm_max_model_length if args.use_vllm else None, "vllm_max_model_length"
    if context is None:
        trusted = bool(getattr(args, "trust_remote_code", False))
        config = (
            AutoConfig.from_pretrained(model, trust_remote_code=trusted) if isinstance(model, str) else model.config
        )
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
        setting = "The model's max_position_embeddings"
    completion = args.max_completion_length
    lengths = prompt_lengths(dataset, processor)
    longest = max(lengths)
    if context is None or longest + completion <= context:
        return
    too_long = sum(length + completion > context for length in lengths)
    ways = ["prepare the pictures with fewer pixels"]
    if context > longest:
        ways.insert(0, f"set --max_completion_length {context - longest}")
    if setting == "vllm_max_model_length":
        ways.insert(0, f"set --vllm_max_model_length {longest + completion} if the model's context allows it")
    advice = ", or ".join(ways)
    raise ValueError(
        f"{setting} is {context} tokens, but the prompt of row {lengths.index(longest)}{name and f' of {name}'} has "
        f"{longest} and max_completion_length is {completion}: {longest + completion} are needed ({too_long} of "
        f"{len(lengths)} rows do not fit). {advice[0].upper()}{advice[1:]}."
    )


def longest_prompt(datasets: Mapping[str, Dataset], processor: Any, context: int, max_tokens: int) -> int:
    """Return the tokens of the longest prompt of data sets to evaluate, and check that each leaves room to answer.

    Args:
        datasets: rows with `prompt` and `image`, by name.
        processor: the model's processor.
        context: tokens that the model can see, prompt and completion.
        max_tokens: longest completion.

    Raises:
        ValueError: with the row of the longest prompt, and what would fit.
    """
    longest = 0
    for name, dataset in datasets.items():
        lengths = prompt_lengths(dataset, processor)
        row = lengths.index(max(lengths))
        longest = max(longest, lengths[row])
        if lengths[row] + max_tokens > context:
            raise ValueError(
                f"The model sees {context} tokens, but the prompt of row {row} (id '{dataset[row]['id']}') of {name} "
                f"has {lengths[row]} and max_tokens is {max_tokens}. "
                + (f"Set --max_tokens {context - lengths[row]}, or prepare" if lengths[row] < context else "Prepare")
                + " the pictures with fewer pixels."
            )
    return longest


def _read_size(image: Any) -> tuple[int, int]:
    if not isinstance(image, dict):
        return image.size
    with Image.open(io.BytesIO(image["bytes"]) if image.get("bytes") else image["path"]) as opened:
        return opened.size


def _count_further_tokens(size: tuple[int, int], processor: Any) -> int:
    """Return how many tokens more than the template's placeholder a picture of a (width, height) has."""
    images = processor.image_processor
    if hasattr(images, "merge_size") and hasattr(images, "get_number_of_image_patches"):
        return images.get_number_of_image_patches(size[1], size[0]) // images.merge_size**2 - 1
    # Other processors crop, tile or add tokens as they like: what one does to a blank picture tells
    prompt = render(processor, "")
    expanded = processor(text=[prompt], images=[[Image.new("RGB", size)]], add_special_tokens=False)["input_ids"][0]
    return len(expanded) - len(processor.tokenizer(prompt, add_special_tokens=False)["input_ids"])

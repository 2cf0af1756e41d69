"""An image's tokens on transformers: how much a question attends to each, and completions without some of them.

The families differ in how many tokens an image has and in where they stand (Qwen2.5-VL: rows and columns, M-RoPE). The
model itself is asked for both, so that a prompt that has lost nothing is the one of `TransformersEngine.generate`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from emor3_trl import families
from emor3_trl.engines.engine import Completion, Question
from emor3_trl.engines.transformers import PER_TOKEN, TransformersEngine, evaluating, padded_inputs
from emor3_trl.prompts import render

# Families whose prompts were compared token by token, without and with removed image tokens
FAMILIES = tuple(sorted(name for name, family in families.FAMILIES.items() if family.removes_image_tokens))


@dataclass(frozen=True)
class Look:
    """What one forward says of a question about an image.

    Args:
        choice_logits: the logit of each choice's first token, where the answer begins.
        attention: what each of the image's N tokens gets of the attention of the question's tokens, in their order: the
            mean over these tokens, heads and layers. The rest of 1 goes to the other tokens.
    """

    choice_logits: tuple[float, ...]
    attention: tuple[float, ...]


def look(engine: TransformersEngine, questions: Sequence[Question]) -> list[Look]:
    """Return the logits of the choices of each question, and its attention to its image.

    Args:
        engine: with a model of one of `FAMILIES`.
        questions: each with an image.

    Raises:
        ValueError: if the first tokens of two choices are the same.
    """
    first_tokens = {question.choices: _first_tokens(engine, question.choices) for question in questions}
    looks: list[Look] = []
    for start in range(0, len(questions), engine.batch_size):
        batch = questions[start : start + engine.batch_size]
        looks += _look_at_batch(engine, batch, [first_tokens[question.choices] for question in batch])
    return looks


def _first_tokens(engine: TransformersEngine, choices: tuple[str, ...]) -> list[int]:
    tokens = [engine.encoder.data_ids(choice)[0] for choice in choices]
    if len(set(tokens)) < len(tokens):
        raise ValueError(
            f"The model's tokenizer begins {' and '.join(choices)} with the same token, so one token cannot tell them "
            "apart. Expected a tokenizer such as those of Qwen2.5-VL and LLaVA-1.5."
        )
    return tokens


@torch.no_grad()
def _look_at_batch(
    engine: TransformersEngine, questions: Sequence[Question], first_tokens: Sequence[Sequence[int]]
) -> list[Look]:
    model, encoder = engine.model, engine.encoder
    beginnings, rests = zip(*map(encoder.split_prompt, questions), strict=True)
    inputs = padded_inputs(engine.processor, beginnings, rests, [question.image for question in questions])
    length = inputs["input_ids"].shape[1]
    # The question begins what follows the image's part; the template's own tokens end the prompt
    starts = [length - len(rest) for rest in rests]
    spans = [
        slice(start, start + len(encoder.data_ids(question.text)))
        for start, question in zip(starts, questions, strict=True)
    ]
    inputs = inputs.to(model.device)
    with evaluating(model), _mean_attention(model, spans) as received:
        logits = model(**inputs, logits_to_keep=1).logits[:, -1].float()  # (B, vocabulary)
    is_image = inputs["input_ids"] == model.config.image_token_id  # (B, L)
    return [
        Look(tuple(logits[row, list(first_tokens[row])].tolist()), tuple(received[row][is_image[row]].tolist()))
        for row in range(len(questions))
    ]


@contextmanager
def _mean_attention(model: Any, spans: Sequence[slice]) -> Iterator[dict[int, torch.Tensor]]:
    """Gather, for each row, the attention (L,) that its span pays, as the mean over the span, the heads and the layers.

    Each layer's weights are added up as they come: all layers' together (`output_attentions`) would fill a GPU.
    """
    layers = [layer.self_attn for layer in model.get_decoder().layers]
    received: dict[int, torch.Tensor] = {}

    def add_layer(_module: Any, _arguments: Any, outputs: Any) -> None:
        for row, span in enumerate(spans):
            attention = outputs[1][row, :, span].mean(dim=(0, 1), dtype=torch.float32)  # of (heads, span, L)
            received[row] = received.get(row, 0.0) + attention / len(layers)

    usual = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})  # the others return no weights
    hooks = [layer.register_forward_hook(add_layer) for layer in layers]
    try:
        yield received
    finally:
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation({"text_config": usual})


@torch.no_grad()
def complete_without(
    engine: TransformersEngine,
    texts: Sequence[str],
    images: Sequence[Any],
    removed: Sequence[Sequence[int]],
    *,
    n: int,
    temperature: float,
    max_tokens: int,
    seed: int,
) -> list[list[Completion]]:
    """Return `n` completions for each question about an image of which some tokens are missing.

    Args:
        engine: with a model of one of `FAMILIES`.
        texts: the questions.
        images: their images.
        removed: for each, which of the image's tokens are missing, counted from 0.
        n, temperature, max_tokens, seed: see `Engine.generate`.
    """
    prompts = [render(engine.processor, text) for text in texts for _ in range(n)]
    images = [image for image in images for _ in range(n)]
    inputs = padded_inputs(engine.processor, prompts, [()] * len(prompts), images).to(engine.model.device)
    with evaluating(engine.model):
        shortened = remove_image_tokens(engine.model, inputs, [places for places in removed for _ in range(n)])
    completions = engine.complete(shortened, temperature=temperature, max_tokens=max_tokens, seed=seed)
    return [completions[row : row + n] for row in range(0, len(completions), n)]


@torch.no_grad()
def remove_image_tokens(
    model: Any, inputs: Mapping[str, torch.Tensor], removed: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """Return prompts as embeddings, without some of their images' tokens; the others stay at their positions.

    Args:
        model: of one of `FAMILIES`.
        inputs: what the model is called with, for B prompts of one image each, padded on the left (`padded_inputs`).
        removed: for each prompt, which of its image's tokens to remove, counted from 0.

    Returns:
        `inputs_embeds` (B, K, hidden), `attention_mask` (B, K) and `position_ids` (B, K), or (4, B, K) for M-RoPE. K is
        the length of the longest prompt that is left. A model that is called with them never sees a removed token.
    """
    input_ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
    of_images = {name: value for name, value in inputs.items() if name not in PER_TOKEN}
    features = torch.cat(list(model.get_image_features(**of_images).pooler_output))
    is_image = input_ids == model.config.image_token_id
    embeddings = model.get_input_embeddings()(input_ids)
    embeddings[is_image] = features.to(embeddings.dtype)
    # What `generate` itself asks the model for, and counts on from
    positions = model._prepare_position_ids_for_generation(input_ids, dict(inputs))
    kept = attention_mask.bool()
    for row, places in enumerate(removed):
        kept[row, is_image[row].nonzero()[list(places), 0]] = False
    # Stable: what is left keeps its order; what is not stands before it, as padding
    columns = kept.int().argsort(dim=1, stable=True)[:, -int(kept.sum(dim=1).max()) :]  # (B, K)
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    mask = kept[rows, columns]
    return {
        "inputs_embeds": embeddings[rows, columns] * mask[..., None],
        "attention_mask": mask.to(attention_mask.dtype),
        "position_ids": positions[..., rows, columns],
    }

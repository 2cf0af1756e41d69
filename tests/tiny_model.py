"""Builds the tiny model of the tests; also a script, so that torchrun tests can share it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, decoders, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from emor3_trl.demo.untrained import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    build_processor,
    build_untrained_model,
    train_bpe,
)
from emor3_trl.emotions import EMOSET_8
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION, prompt_text

__all__ = ["CHAT_TEMPLATE", "build_tiny_model", "gold_completion", "tiny_pictures"]

TEXT_SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_key_value_heads": 1,
    "num_attention_heads": 2,  # vLLM on a CPU needs heads of 32 or more
    "max_position_embeddings": 1024,
}  # fmt: skip
VISION_SIZES = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "fullatt_block_indexes": [1],
}  # fmt: skip


def gold_completion(label: str) -> str:
    """Return a well-formed completion that answers `label`."""
    return (
        "<step1>A wide night sky above a small tent.</step1><step2>A person feels small and moved.</step2>"
        f"<step3>The emotion is positive and excited.</step3>\\boxed{{{label}}}"
    )


def tiny_pictures(count: int = 3) -> list[Image.Image]:
    """Return distinct noisy pictures of mixed sizes, all multiples of 28 pixels."""
    sizes = [(56, 56), (84, 56), (56, 112)]
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (*sizes[i % 3][::-1], 3), dtype=np.uint8)) for i in range(count)]


def build_tiny_model(folder: Path, tied: bool = True, seed: int = 0) -> Path:
    """Build a random model and its processor in `folder`."""
    torch.manual_seed(seed)
    processor = build_processor(tiny_tokenizer(), min_pixels=28 * 28, max_pixels=28 * 28 * 36)
    build_untrained_model(processor, TEXT_SIZES, VISION_SIZES, tied).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose byte-level BPE is trained on the prompts and a few completions."""
    texts = [prompt_text(style, EMOSET_8.labels) for style in ("set", "think", "direct")]
    texts += [gold_completion(label) for label in EMOSET_8.labels]
    texts += [CONSISTENCY_QUESTION, COHERENCE_QUESTION, "Yes", "No", "user", "assistant"]
    tokenizer = train_bpe(texts, 560, pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        padding_side="left",
    )

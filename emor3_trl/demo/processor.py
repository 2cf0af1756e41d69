"""The processor of the demo's base model: its own byte-level BPE, and images of a few patches."""

import json
import random

from transformers import Qwen2_5_VLProcessor, Qwen2Tokenizer

from emor3_trl.demo.pictures import choose_drawing
from emor3_trl.demo.texts import FEELINGS, list_phrases, set_completion, think_completion
from emor3_trl.demo.untrained import SPECIAL_TOKENS, build_processor, train_bpe
from emor3_trl.demo.worlds import WORLDS
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION, prompt_text


def build_demo_processor(vocabulary_size: int = 900) -> Qwen2_5_VLProcessor:
    """Return a Qwen2.5-VL processor for the demo's images and texts.

    Args:
        vocabulary_size: tokens at most, special ones included.
    """
    return build_processor(train_demo_tokenizer(vocabulary_size), min_pixels=56 * 56, max_pixels=112 * 112)


def train_demo_tokenizer(vocabulary_size: int = 900) -> Qwen2Tokenizer:
    """Return a tokenizer, padding on the left, whose byte-level BPE is trained on the texts of the demo."""
    qwen = Qwen2Tokenizer().backend_tokenizer
    size = vocabulary_size - len(SPECIAL_TOKENS)
    bpe = json.loads(train_bpe(list_training_texts(), size, qwen.pre_tokenizer, qwen.normalizer).to_str())["model"]
    return Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        padding_side="left",
        model_max_length=2048,
    )


def list_training_texts() -> list[str]:
    """Return the texts of the demo, each about as often as it is worth tokens of its own."""
    rng = random.Random(0)
    drawing = choose_drawing("sketches", 0, "train", 0)
    texts = ["user\n", "assistant\n", CONSISTENCY_QUESTION]
    for world in WORLDS.values():
        labels = ", ".join(world.labels)
        texts += [prompt_text(style, world.labels) for style in ("set", "think", "direct")]
        texts += [COHERENCE_QUESTION.format(trigger="", feeling="", labels=labels)]
    for emotion in FEELINGS:
        texts += [set_completion(drawing, emotion, rng) for _ in range(10)]
        texts += [think_completion(drawing, emotion, rng) for _ in range(3)]
    # Answers get tokens of their own, so that the choices of a constrained decode part at their first token
    texts += [*FEELINGS, "Yes", "No"] * 20
    return texts + list_phrases() * 3

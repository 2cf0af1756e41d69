"""What `real_size.py` makes instead of downloading: a model with random weights, its processor, pictures, texts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

LABELS = ["amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness"]
# Facts of the published config.json of both models; 151,665 of the 152,000 rows of the embedding have a token
FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
)  # fmt: skip
TEXT_SIZES = {
    "Qwen/Qwen2.5-VL-3B-Instruct": dict(zip(FIELDS, (2048, 36, 16, 2, 11008, 151936), strict=True)),
    "Qwen/Qwen2.5-VL-7B-Instruct": dict(zip(FIELDS, (3584, 28, 28, 4, 18944, 152064), strict=True)),
}
TIED = {"Qwen/Qwen2.5-VL-3B-Instruct": True, "Qwen/Qwen2.5-VL-7B-Instruct": False}
VISION_SIZES = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
    "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
TOKENS = 151_665


def write_model_folder(
    folder: Path, model: str, hidden: int | None, layers: int | None, vocabulary: int | None
) -> None:
    """Write the configuration and the processor of a model, and no weights.

    Args:
        folder: what is written.
        model: a name of `TEXT_SIZES`, or a local checkpoint, whose configuration and processor are taken.
        hidden, layers: a smaller model of the same form: its width, its layers.
        vocabulary: rows of a smaller embedding.
    """
    from transformers import AutoConfig, AutoProcessor

    folder.mkdir(parents=True)
    if model not in TEXT_SIZES:
        AutoConfig.from_pretrained(model, trust_remote_code=False).save_pretrained(folder)
        AutoProcessor.from_pretrained(model, trust_remote_code=False).save_pretrained(folder)
        return
    text, vision = dict(TEXT_SIZES[model]), dict(VISION_SIZES)
    if hidden:
        size = 64 if hidden < 1024 else 128
        text |= {"hidden_size": hidden, "intermediate_size": 5 * hidden, "num_attention_heads": hidden // size}
        text |= {"num_key_value_heads": max(hidden // size // 8, 1)}
        width = max(5 * hidden // 8 // 64, 1) * 64
        vision |= {"hidden_size": width, "intermediate_size": 2 * width, "num_heads": width // 32}
    if layers:
        depth = max(min(layers, 32), 2)
        text["num_hidden_layers"] = layers
        vision |= {"depth": depth, "fullatt_block_indexes": [depth // 2 - 1, depth - 1]}
    text["vocab_size"] = vocabulary or text["vocab_size"]
    processor = _build_processor(min(TOKENS, text["vocab_size"]))
    processor.save_pretrained(folder)
    _build_config(processor, text, vision, TIED[model]).save_pretrained(folder)


def _build_processor(tokens: int) -> Any:
    """Return the demo's processor with as many tokens as Qwen's: the rest is never written, but read where sampled."""
    from transformers import Qwen2Tokenizer

    from emor3_trl.demo.processor import train_demo_tokenizer
    from emor3_trl.demo.untrained import SPECIAL_TOKENS, build_processor

    bpe = json.loads(train_demo_tokenizer().backend_tokenizer.to_str())["model"]
    vocabulary = dict(bpe["vocab"])
    for number in range(len(vocabulary), tokens - len(SPECIAL_TOKENS)):
        vocabulary[f"Ġw{number}"] = number
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[tuple(pair) for pair in bpe["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        padding_side="left",
    )
    return build_processor(tokenizer, min_pixels=28 * 28, max_pixels=28 * 28 * 16384)


def _build_config(processor: Any, text: dict[str, Any], vision: dict[str, Any], tied: bool) -> Any:
    """Return a configuration, by the demo's builder, whose model stays on torch's meta device."""
    from emor3_trl.demo.untrained import build_untrained_model

    limits = {"max_position_embeddings": 128_000}
    with torch.device("meta"):
        config = build_untrained_model(processor, text | limits, vision, tied).config
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    return config


def write_weights(folder: Path, device: str) -> None:
    """Draw random weights on a device, and save them in bfloat16, as published ones are.

    Policy, reference and engine load them as they load a download. (vLLM's own dummy weights leave a trace that no
    synchronisation takes away: a gap of 0.02 to the trainer's log-probabilities in float32, where 1e-6 is right.)
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(0)
    with torch.device(device):
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def make_rows(folder: Path, count: int, pixels: int, style: Any) -> Dataset:
    """Return rows with noisy square pictures at the pixel budget, and write the manifest that `--plan` reads."""
    from emor3_trl.prompts import prompt_text

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"max_pixels": pixels}))
    side = max(int(pixels**0.5) // 28, 1) * 28
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 255, (side // 7, side // 7, 3), dtype=np.uint8) for _ in range(count)]
    return Dataset.from_list(
        [
            {
                "image": Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC),
                "prompt": [{"role": "user", "content": prompt_text(style, LABELS)}],
                "emotion": LABELS[number % len(LABELS)],
                "label_space": LABELS,
                "id": str(number),
                "source": "made",
            }
            for number, pixels in enumerate(noise)
        ]
    )


def make_completions(count: int, tokens: int, tokenizer: Any) -> list[str]:
    """Return distinct well-formed completions that answer all labels in turn, of about `tokens` tokens at most 200."""
    import random

    from emor3_trl.demo.texts import list_phrases

    words = " ".join(list_phrases()).split()
    texts = []
    for number in range(count):
        rng = random.Random(number)
        length = max(min(tokens, 200) // 6, 3)  # a word takes about two tokens, and there are three steps
        steps = [" ".join(rng.choices(words, k=length)) for _ in range(3)]
        parts = "".join(f"<step{step}>{text}.</step{step}>" for step, text in enumerate(steps, start=1))
        texts.append(f"{parts}\\boxed{{{LABELS[number % len(LABELS)]}}}")
    assert len({tuple(tokenizer(text)["input_ids"]) for text in texts}) == count
    return texts

"""An untrained Qwen2.5-VL of any size with its processor: the demo, the tests and the benchmarks size their own."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, trainers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

# One turn after another, without a system prompt; an image is one placeholder between its two marks
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part['type'] == 'text' -%}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def train_bpe(
    texts: Iterable[str], size: int, pre_tokenizer: PreTokenizer, normalizer: Normalizer | None = None
) -> Tokenizer:
    """Return a byte-level BPE of at most `size` tokens, none of them special, trained on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_processor(tokenizer: PreTrainedTokenizerBase, min_pixels: int, max_pixels: int) -> Qwen2_5_VLProcessor:
    """Return a Qwen2.5-VL processor.

    Args:
        tokenizer: with `SPECIAL_TOKENS`, padding on the left.
        min_pixels, max_pixels: images outside these bounds are resized.
    """
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": min_pixels, "longest_edge": max_pixels}),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def build_untrained_model(
    processor: Qwen2_5_VLProcessor, text: dict[str, Any], vision: dict[str, Any], tied: bool = True
) -> Qwen2_5_VLForConditionalGeneration:
    """Return a Qwen2.5-VL in float32 with weights from torch's global seed.

    Args:
        processor: gives the vocabulary and the special tokens.
        text: sizes of the language model, fields of its configuration; the size of a head divides by 16.
        vision: sizes of the vision tower, fields of its configuration.
        tied: use one matrix for embeddings and head, as the 3B model does.
    """
    ids = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    eighth = text["hidden_size"] // text["num_attention_heads"] // 16  # of the pairs of a head that are rotated
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2 * eighth, 3 * eighth, 3 * eighth]}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "rope_parameters": rope,
            "tie_word_embeddings": tied,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            **text,
        },
        vision_config={"out_hidden_size": text["hidden_size"], "window_size": 112, **vision},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
        dtype="float32",
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], do_sample=True, temperature=1.0
    )
    return model

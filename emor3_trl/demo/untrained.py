"""An untrained Qwen2.5-VL of any size with its processor: the demo, the tests and the benchmarks size their own."""

from collections.abc import Iterable
from dataclasses import dataclass

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
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

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


@dataclass(frozen=True)
class Sizes:
    """How large a model is.

    Args:
        hidden, intermediate, layers, heads, key_value_heads: of the language model.
        context: tokens that it sees at once.
        vision_hidden, vision_intermediate, vision_layers, vision_heads: of the vision tower.
        vision_full_attention: its layers that attend to the whole image, not to windows.
        tied: one matrix for embeddings and head, as the 3B model has.
        initializer_range: standard deviation of the weights.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    context: int
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    vision_heads: int
    vision_full_attention: tuple[int, ...]
    tied: bool = True
    initializer_range: float = 0.02


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


def build_untrained_model(processor: Qwen2_5_VLProcessor, sizes: Sizes) -> Qwen2_5_VLForConditionalGeneration:
    """Return a Qwen2.5-VL in float32 with weights from torch's global seed.

    Args:
        processor: gives the vocabulary and the special tokens.
        sizes: how large the model is; a head's size divides by 16.
    """
    tokenizer = processor.tokenizer
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    rotated = sizes.hidden // sizes.heads // 16  # an eighth of the pairs of a head that are rotated together
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.intermediate,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.key_value_heads,
            "max_position_embeddings": sizes.context,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2 * rotated, 3 * rotated, 3 * rotated],
            },
            "tie_word_embeddings": sizes.tied,
            "initializer_range": sizes.initializer_range,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": sizes.vision_intermediate,
            "num_heads": sizes.vision_heads,
            "out_hidden_size": sizes.hidden,
            "fullatt_block_indexes": list(sizes.vision_full_attention),
            "window_size": 112,
            "initializer_range": sizes.initializer_range,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=sizes.tied,
        dtype="float32",
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], do_sample=True, temperature=1.0
    )
    return model

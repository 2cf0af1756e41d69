"""Tiny random models of each family, with its own processor."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tiny_llava import build_tiny_llava
from tiny_model import build_tiny_model, tiny_tokenizer
from tiny_qwen3_vl import build_tiny_qwen3_vl
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    Idefics3VisionConfig,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipVisionConfig,
)
from transformers import CLIPImageProcessor as ClipImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

# Families that are run whole, with vLLM, by the folder of their configurations (recipes/configs)
WHOLE: dict[str, Callable[[Path], Path]] = {
    "qwen2_5_vl_7b": partial(build_tiny_model, tied=False),  # its head is a matrix of its own, unlike the 3B model's
    "qwen3_vl_4b": build_tiny_qwen3_vl,
    "llava_1_5_7b": build_tiny_llava,
}
SIDE, PATCH = 28, 14
SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER = {**SIZES, "num_hidden_layers": 1, "image_size": SIDE, "patch_size": PATCH}
NAMED_TOKENS = {
    "gemma3": {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<image>"},
    "internvl": {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<context>",
        "video_token": "<video>",
    },
}  # fmt: skip
PLACEHOLDERS = {"gemma3": "<boi>", "internvl": "<context>", "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>"}
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ 'PLACEHOLDER' }}{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def build_family(family: str, folder: Path) -> Path:
    """Build a random model and its processor in `folder`.

    Args:
        family: a key of `FAMILIES`.
        folder: where to.
    """
    torch.manual_seed(0)
    tokenizer = _tokenizer(family)
    processor, config = FAMILIES[family](tokenizer)
    processor.chat_template = TEMPLATE.replace("PLACEHOLDER", PLACEHOLDERS.get(family, "<image>"))
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    named = NAMED_TOKENS.get(family, {})
    backend = tiny_tokenizer()
    backend.add_special_tokens({"additional_special_tokens": ["<image>", "<fake>", "<global-img>", *named.values()]})
    return PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens=named,
    )


def _text(tokenizer: Any, **further: Any) -> dict[str, Any]:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    return {
        **SIZES, **ends, "num_key_value_heads": 1, "vocab_size": len(tokenizer), "max_position_embeddings": 1024,
        **further,
    }  # fmt: skip


def _llava(tokenizer: Any) -> tuple[Any, Any]:
    images = ClipImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(images, tokenizer, PATCH, "default", num_additional_image_tokens=1)
    return processor, LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=LlamaConfig(**_text(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )


def _llava_next(tokenizer: Any) -> tuple[Any, Any]:
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    images = LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(images, tokenizer, PATCH, "default", num_additional_image_tokens=1)
    return processor, LlavaNextConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=LlamaConfig(**_text(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
    )


def _gemma3(tokenizer: Any) -> tuple[Any, Any]:
    images = Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    ids = {f"{name}_index": tokenizer.convert_tokens_to_ids(f"<{name[:3]}>") for name in ("boi_token", "eoi_token")}
    return Gemma3Processor(images, tokenizer, image_seq_length=4), Gemma3Config(
        text_config=_text(tokenizer, head_dim=16, sliding_window=16),
        vision_config=SiglipVisionConfig(**TOWER),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **ids,
    )


def _idefics3(tokenizer: Any) -> tuple[Any, Any]:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<fake_token_around_image>", "<end_of_utterance>"]})
    images = Idefics3ImageProcessor(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=True
    )
    return Idefics3Processor(images, tokenizer, image_seq_len=1), Idefics3Config(
        vision_config=Idefics3VisionConfig(**TOWER),
        text_config=LlamaConfig(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )


def _internvl(tokenizer: Any) -> tuple[Any, Any]:
    images = GotOcr2ImageProcessor(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=2)
    processor = InternVLProcessor(images, tokenizer, InternVLVideoProcessor(), image_seq_length=1)
    return processor, InternVLConfig(
        vision_config=InternVLVisionConfig(**{**TOWER, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}),
        text_config=LlamaConfig(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<context>"),
        image_seq_length=1,
        downsample_ratio=0.5,
    )


def _qwen3_vl(tokenizer: Any) -> tuple[Any, Any]:
    images = Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 36})
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    return Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor()), Qwen3VLConfig(
        text_config=_text(tokenizer, head_dim=16, rope_parameters=rope),
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "deepstack_visual_indexes": [0], "num_position_embeddings": 64, "patch_size": 14,
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )  # fmt: skip


FAMILIES = {
    "llava": _llava,
    "llava_next": _llava_next,
    "gemma3": _gemma3,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "qwen3_vl": _qwen3_vl,
}

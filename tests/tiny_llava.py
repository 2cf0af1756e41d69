"""A tiny random LLaVA-1.5 that is like the real one where it matters: template, BOS, CLIP's CLS token, square crops."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_model import tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import CLIPImageProcessor as ClipImageProcessor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

# As chat_template.jinja of llava-hf/llava-1.5-7b-hf has it: it writes no <s>, which is left to the tokenizer
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
PATCH = 14


def build_tiny_llava(folder: Path, side: int = 70, seed: int = 0) -> Path:
    """Build a random model and its processor in `folder`; an image has (side / 14)² tokens."""
    torch.manual_seed(seed)
    backend = tiny_tokenizer()
    backend.add_special_tokens({"additional_special_tokens": ["<image>", "<s>", "</s>"]})
    start = backend.convert_tokens_to_ids("<s>")
    backend._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", start)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<|endoftext|>",
        padding_side="left", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    images = ClipImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = LlavaProcessor(
        images, tokenizer, PATCH, "default", chat_template=CHAT_TEMPLATE, num_additional_image_tokens=1
    )
    ends = {"bos_token_id": start, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=side,
            patch_size=PATCH, projection_dim=64,
        ),
        text_config=LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            vocab_size=len(tokenizer), max_position_embeddings=1024, **ends,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        **ends,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    sharpen(model, model.model.multi_modal_projector.linear_2)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    # The Hub's names, which a model that was loaded by them is saved with again, and the only ones that vLLM knows.
    # A model made from a configuration has them without "vision_model".
    weights = load_file(folder / "model.safetensors")
    named = {name.replace("vision_tower.", "vision_tower.vision_model."): weight for name, weight in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    processor.save_pretrained(folder)
    return folder


@torch.no_grad()
def sharpen(model: Any, projector: torch.nn.Linear) -> None:
    """Let the answers of a random model, whose logits are nearly flat, differ from picture to picture, in place.

    Args:
        model: with a decoder like Llama's.
        projector: the layer that image features leave last.
    """
    projector.weight.mul_(50)
    for layer in model.get_decoder().layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            getattr(layer.self_attn, name).weight.mul_(8)

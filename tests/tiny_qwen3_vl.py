"""A tiny random Qwen3-VL, like the real one where it matters: DeepStack, interleaved positions, the size of a head."""

from pathlib import Path

import torch
from tiny_llava import sharpen
from tiny_model import CHAT_TEMPLATE, tiny_tokenizer
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

SIDE = 32  # pixels of an image token: patches of 16, merged 2 x 2
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def build_tiny_qwen3_vl(folder: Path, tied: bool = True, seed: int = 0) -> Path:
    """Build a random model and its processor in `folder`."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    patches = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, **HALVES}
    size = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2 * 36}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(size=size, **patches), tokenizer, Qwen3VLVideoProcessor(**patches), CHAT_TEMPLATE
    )
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [12, 10, 10], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 64,  # as in the 4B model, more than hidden size / heads
            "vocab_size": len(tokenizer), "max_position_embeddings": 1024, "rope_parameters": rope,
            "tie_word_embeddings": tied, **ends,
        },
        vision_config={
            "depth": 3, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64,
            "patch_size": 16, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64,
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=tied,
        **ends,
    )  # fmt: skip
    model = Qwen3VLForConditionalGeneration(config)
    tower = model.model.visual
    sharpen(model, tower.merger.linear_fc2)
    with torch.no_grad():
        for merger in tower.deepstack_merger_list:
            merger.linear_fc2.weight.mul_(50)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

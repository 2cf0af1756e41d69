"""The processor of the demo's base model: its own byte-level BPE, a chat template, pictures of a few patches."""

import json
import random

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2_5_VLProcessor, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from emor3_trl.demo.pictures import EMOTIONS, Peep
from emor3_trl.demo.texts import every_text, set_completion
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION, messages, prompt_text

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

# One turn after another, without a system prompt; a picture is one placeholder between its two marks
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


def build_processor(vocabulary_size: int = 900) -> Qwen2_5_VLProcessor:
    """Return a Qwen2.5-VL processor, padding on the left, whose byte-level BPE is trained on the texts of the demo."""
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}),
        tokenizer=_train_tokenizer(vocabulary_size),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def render(processor: Qwen2_5_VLProcessor, text: str, picture: bool) -> str:
    """Return a prompt as the chat template writes it; a picture is one token."""
    conversation = messages(text, image="picture" if picture else None)
    return str(processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


def _train_tokenizer(vocabulary_size: int) -> Qwen2Tokenizer:
    labels = ", ".join(EMOTIONS)
    rng = random.Random(0)
    peep = Peep("awe", "awe", "a bun", "grayBun", "blue", None, None, "")
    texts = [prompt_text(style, EMOTIONS) for style in ("set", "think", "direct")]
    texts += [CONSISTENCY_QUESTION, COHERENCE_QUESTION.format(trigger="", feeling="", labels=labels)]
    texts += ["user\n", "assistant\n"]
    texts += [set_completion(peep, emotion, rng) for emotion in EMOTIONS for _ in range(20)]
    # Answers get tokens of their own, so that the choices of a constrained decode part at their first token
    texts += [*EMOTIONS, "Yes", "No"] * 20
    texts += every_text() * 3
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = Qwen2Tokenizer().backend_tokenizer.normalizer
    tokenizer.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size - len(SPECIAL_TOKENS), initial_alphabet=ByteLevel.alphabet(), show_progress=False
        ),
    )
    bpe = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        padding_side="left",
        model_max_length=2048,
    )

"""The demo's processor: its tokenizer, its special tokens, and an image in a turn."""

import random

from emor3_trl.demo.drawings import IMAGE_SIZE
from emor3_trl.demo.texts import FEELINGS, set_completion
from emor3_trl.demo.untrained import SPECIAL_TOKENS
from emor3_trl.prompts import messages


def test_tokenizer_round_trips_any_text(processor, pictures):
    rng = random.Random(0)
    texts = [set_completion(drawing, emotion, rng) for _, drawing in pictures for emotion in FEELINGS]
    for text in [*texts, "Zürich, 日本語, 😱\n\n  tabs\tand {braces}"]:
        assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_special_tokens_are_single_and_have_their_roles(processor):
    tokenizer = processor.tokenizer
    assert [len(tokenizer(token)["input_ids"]) for token in SPECIAL_TOKENS] == [1] * len(SPECIAL_TOKENS)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side) == ("<|im_end|>", "<|endoftext|>", "left")


def test_answers_part_at_their_first_token(processor):
    firsts = [processor.tokenizer(answer)["input_ids"][0] for answer in (*FEELINGS, "Yes", "No")]
    assert len(set(firsts)) == len(firsts)


def test_picture_becomes_nine_tokens_in_a_turn_of_the_qwen_form(processor, pictures):
    image, _ = pictures[0]
    text = processor.apply_chat_template(messages("Hello.", image), tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hello.<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == (IMAGE_SIZE // 28) ** 2 == 9


def test_string_content_is_written_as_it_is(processor):
    plain = [{"role": "user", "content": "A"}, {"role": "assistant", "content": [{"type": "text", "text": "B"}]}]
    assert processor.apply_chat_template(plain, tokenize=False) == (
        "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
    )

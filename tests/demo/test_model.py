"""The demo's base model: its processor, its shape, its training tasks."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.data import load_split
from emor3_trl.demo.model import TEXT_SIZES, VISION_SIZES, build_demo_model, measure_model
from emor3_trl.demo.pictures import EMOTIONS, IMAGE_SIZE, choose_peep, draw_peep, write_demo_data
from emor3_trl.demo.processor import build_demo_processor
from emor3_trl.demo.teaching import BaseTraining, Tasks, compute_completion_loss
from emor3_trl.demo.texts import set_completion
from emor3_trl.demo.untrained import SPECIAL_TOKENS, build_untrained_model
from emor3_trl.prompts import messages, prompt_text
from emor3_trl.thinking import parse

QUICK = BaseTraining(
    vision_steps=2,
    vision_batch=4,
    description_steps=2,
    statement_batch=4,
    consistency_batch=4,
    question_steps=2,
    thinking_batch=2,
    direct_batch=2,
    coherence_batch=2,
)


@pytest.fixture(scope="module")
def processor():
    return build_demo_processor()


@pytest.fixture(scope="module")
def pictures():
    peeps = [choose_peep(0, "train", index) for index in range(8)]
    return [(draw_peep(peep), peep) for peep in peeps]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo_data(folder, sizes={"train": 12, "validation": 6, "test": 6})
    return folder


def test_tokenizer_round_trips_any_text(processor, pictures):
    rng = random.Random(0)
    texts = [set_completion(peep, emotion, rng) for _, peep in pictures for emotion in EMOTIONS]
    for text in [*texts, "Zürich, 日本語, 😱\n\n  tabs\tand {braces}"]:
        assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_special_tokens_are_single_and_have_their_roles(processor):
    tokenizer = processor.tokenizer
    assert [len(tokenizer(token)["input_ids"]) for token in SPECIAL_TOKENS] == [1] * len(SPECIAL_TOKENS)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side) == ("<|im_end|>", "<|endoftext|>", "left")


def test_answers_part_at_their_first_token(processor):
    firsts = [processor.tokenizer(answer)["input_ids"][0] for answer in (*EMOTIONS, "Yes", "No")]
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


def test_untrained_model_is_small_tied_and_runs(processor, pictures):
    model = build_untrained_model(processor, TEXT_SIZES, VISION_SIZES)
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 8e6
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    inputs = processor(
        text=[processor.apply_chat_template(messages(prompt_text("set", EMOTIONS), 1), tokenize=False)] * 2,
        images=[image for image, _ in pictures[:2]],
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape[:2] == inputs["input_ids"].shape
    assert torch.isfinite(logits).all()
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id


@pytest.mark.parametrize("task", ["statements", "unasked_thinking", "thinking", "direct", "consistency", "coherence"])
def test_each_task_teaches_its_completion_only(processor, pictures, task):
    torch.manual_seed(0)
    model = build_untrained_model(processor, TEXT_SIZES, VISION_SIZES).eval()
    examples = getattr(Tasks(processor, pictures, random.Random(0)), task)(4)
    with torch.no_grad():
        loss = compute_completion_loss(model, processor, examples)
        alone = torch.stack([compute_completion_loss(model, processor, [example]) for example in examples])
    lengths = torch.tensor([float(len(processor.tokenizer(completion)["input_ids"])) for _, completion, _ in examples])
    # Padding and the other rows change nothing
    torch.testing.assert_close(loss, (alone * lengths).sum() / lengths.sum(), rtol=1e-4, atol=1e-4)
    assert (examples[0][2] is None) == (task == "coherence")


def test_thinking_examples_are_well_formed(processor, pictures):
    for _, completion, _ in Tasks(processor, pictures, random.Random(0)).thinking(8):
        assert parse(completion.removesuffix("<|im_end|>")) is not None


def test_base_training_is_repeatable_and_a_finished_model_is_kept(data_dir, tmp_path, capsys):
    first, again = tmp_path / "first", tmp_path / "again"
    build_demo_model(data_dir, first, training=QUICK)
    build_demo_model(data_dir, again, training=QUICK)
    weights = [AutoModelForImageTextToText.from_pretrained(folder).state_dict() for folder in (first, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (first / "model.safetensors").exists()
    assert AutoProcessor.from_pretrained(first).tokenizer.padding_side == "left"

    written = (first / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    build_demo_model(data_dir, first, training=QUICK)
    assert "Reusing" in capsys.readouterr().out
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match="another model"):
        build_demo_model(data_dir, first, seed=1, training=QUICK)


@pytest.mark.slow
def test_base_model_thinks_in_form_and_disagrees_with_the_labels(tmp_path):
    write_demo_data(tmp_path / "data")
    build_demo_model(tmp_path / "data", tmp_path / "base")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    processor = AutoProcessor.from_pretrained(tmp_path / "base")
    rows = load_split(tmp_path / "data", "validation")
    greedy, sampled = measure_model(model, processor, rows), measure_model(model, processor, rows, temperature=1.0)
    assert 0.40 <= greedy["accuracy"] <= 0.65
    assert greedy["format_rate"] >= 0.95
    assert sampled["format_rate"] >= 0.85

"""A prompt that leaves no room for its completion is refused with the numbers that would fit, before a model loads."""

import json
from types import SimpleNamespace

import pytest
from families import FAMILIES, build_family
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_llava import build_tiny_llava
from training import tiny_dataset, tiny_trainer
from transformers import AutoProcessor

from emor3_trl import EmoR3Config, EmoR3Trainer
from emor3_trl.context_length import check_context, prompt_lengths


@pytest.fixture
def processor(tiny_model_dir):
    return AutoProcessor.from_pretrained(tiny_model_dir, padding_side="left")


def arguments(tmp_path, **options) -> EmoR3Config:
    return EmoR3Config(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to=[], **options)


def test_lengths_are_those_of_the_prompts_that_the_trainer_tokenises(tiny_model_dir, tmp_path, processor):
    dataset = tiny_dataset()
    trainer = tiny_trainer(tiny_model_dir, tmp_path, use_vllm=False)
    rows = [dataset[i] for i in range(len(dataset))]
    prompts = [
        [{"role": "user", "content": [{"type": "image", "image": row["image"]}, {"type": "text", "text": text}]}]
        for row in rows
        for text in [row["prompt"][0]["content"]]
    ]
    ids, *_ = trainer._tokenize_prompts(prompts)
    assert prompt_lengths(dataset, processor) == [len(row) for row in ids]


def test_rows_without_pictures_are_counted_by_their_text(processor):
    text = tiny_dataset().remove_columns("image")
    with_pictures = prompt_lengths(tiny_dataset(), processor)
    assert all(0 < own < other for own, other in zip(prompt_lengths(text, processor), with_pictures, strict=True))


@pytest.mark.parametrize("room", [0, 40], ids=["no-room-at-all", "room-for-a-shorter-completion"])
def test_a_context_that_is_too_short_is_named_with_what_would_fit(tiny_model_dir, tmp_path, processor, room):
    dataset = tiny_dataset()
    lengths = prompt_lengths(dataset, processor)
    longest = max(lengths)
    args = arguments(tmp_path, vllm_max_model_length=longest + room, max_completion_length=64)
    with pytest.raises(
        ValueError, match=rf"row {lengths.index(longest)} has {longest}.*{longest + 64} are needed"
    ) as e:
        check_context(dataset, processor, args, str(tiny_model_dir))
    assert (f"--max_completion_length {room}" in str(e.value)) is bool(room)
    args.vllm_max_model_length = longest + 64
    check_context(dataset, processor, args, str(tiny_model_dir))  # what it recommends fits


def test_without_vllm_the_model_is_the_limit(tiny_model_dir, tmp_path, processor):
    args = arguments(tmp_path, use_vllm=False, max_completion_length=1024)
    with pytest.raises(ValueError, match="max_position_embeddings is 1024 tokens") as error:
        check_context(tiny_dataset(), processor, args, str(tiny_model_dir))
    assert "--vllm_max_model_length" not in str(error.value)  # would change nothing


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(context=st.integers(1, 600), completion=st.integers(1, 600))
def test_any_context_is_enough_or_refused_with_what_would_be(tiny_model_dir, processor, context, completion):
    dataset = tiny_dataset().select(range(3))
    longest = max(prompt_lengths(dataset, processor))
    args = SimpleNamespace(use_vllm=True, vllm_max_model_length=context, max_completion_length=completion)
    if longest + completion <= context:
        check_context(dataset, processor, args, str(tiny_model_dir))
        return
    with pytest.raises(ValueError, match=rf"--vllm_max_model_length {longest + completion} ") as error:
        check_context(dataset, processor, args, str(tiny_model_dir))
    assert (f"--max_completion_length {context - longest}" in str(error.value)) is (context > longest)


def test_rows_to_evaluate_are_checked_and_named(tiny_model_dir, processor):
    rows, text = tiny_dataset(), tiny_dataset().remove_columns("image")
    longest, shorter = (max(prompt_lengths(one, processor)) for one in (rows, text))
    args = SimpleNamespace(use_vllm=True, vllm_max_model_length=shorter + 8, max_completion_length=8)
    with pytest.raises(ValueError, match=rf"row \d of emotion6 has {longest}"):
        check_context({"train": text, "eval": {"emotion6": rows}}, processor, args, str(tiny_model_dir))


def test_a_processor_that_trl_loads_is_used_too(tmp_path, tiny_model_dir):
    with pytest.raises(ValueError, match=r"row \d of train has"):
        EmoR3Trainer(
            model=str(tiny_model_dir),
            args=arguments(
                tmp_path, use_vllm=False, max_completion_length=1024, model_init_kwargs={"dtype": "float32"}
            ),
            train_dataset=tiny_dataset(),
        )


def test_the_trainer_refuses_before_it_loads_a_model(tmp_path, tiny_model_dir, processor):
    (tmp_path / "model").mkdir()  # a configuration, and no weights: loading would fail in another way
    (tmp_path / "model" / "config.json").write_bytes((tiny_model_dir / "config.json").read_bytes())
    with pytest.raises(ValueError, match="are needed"):
        EmoR3Trainer(
            model=str(tmp_path / "model"),
            args=arguments(tmp_path, vllm_max_model_length=100, max_completion_length=64),
            train_dataset=tiny_dataset(),
            processing_class=processor,
        )


def test_code_of_the_model_is_read_where_it_is_trusted(tmp_path, tiny_model_dir, processor):
    config = json.loads((tiny_model_dir / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MineConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(
        "from transformers import Qwen2_5_VLConfig\n\nclass MineConfig(Qwen2_5_VLConfig):\n    model_type = 'mine'\n"
    )
    args = SimpleNamespace(use_vllm=False, max_completion_length=2000, trust_remote_code=True)
    with pytest.raises(ValueError, match="max_position_embeddings is 1024 tokens"):
        check_context(tiny_dataset(), processor, args, str(tmp_path))
    args.trust_remote_code = False
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        check_context(tiny_dataset(), processor, args, str(tmp_path))


@pytest.mark.parametrize("family", ["llava_1_5", *FAMILIES])
def test_lengths_of_other_families_are_those_of_their_processors(tmp_path, family):
    """LLaVA-1.5 has 576 tokens to a picture, and a token that starts the text."""
    folder = build_tiny_llava(tmp_path) if family == "llava_1_5" else build_family(family, tmp_path)
    processor = AutoProcessor.from_pretrained(folder)
    dataset = tiny_dataset()
    expected = []
    for row in dataset:
        content = [{"type": "image", "image": row["image"]}, {"type": "text", "text": row["prompt"][0]["content"]}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=True, return_dict=True, add_generation_prompt=True
        )
        expected.append(len(inputs["input_ids"][0]))
    assert prompt_lengths(dataset, processor) == expected
    assert min(expected) > 4

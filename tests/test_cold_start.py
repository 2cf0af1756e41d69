"""Cold-Start-Emo: balanced samples, answers alone, and what becomes of the steps."""

from collections import Counter

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.cold_start import (
    ColdStartConfig,
    build_cold_start_trainer,
    describe_cold_start,
    describe_format_loss,
    draw_balanced_sample,
    make_examples,
    probe_checkpoint,
    probe_model,
    select_unused_rows,
)


def emotions(*counts: int) -> Dataset:
    """Return rows with `counts[i]` rows of the i-th emotion."""
    column = [f"emotion {i}" for i, count in enumerate(counts) for _ in range(count)]
    return Dataset.from_dict({"emotion": column, "row": list(range(len(column)))})


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5).flatmap(
        lambda counts: st.tuples(st.just(counts), st.integers(1, sum(counts)), st.integers(0, 10))
    )
)
@settings(max_examples=50, deadline=None)
def test_a_balanced_sample_is_as_even_as_the_data_allows(case):
    counts, n, seed = case
    dataset = emotions(*counts)
    sample = draw_balanced_sample(dataset, n, seed)
    assert len(sample) == n == len(set(sample["row"]))
    drawn = Counter(sample["emotion"])
    most = max(drawn.values())
    for index, available in enumerate(counts):
        assert drawn[f"emotion {index}"] >= min(most - 1, available)
    assert sample["row"] == draw_balanced_sample(dataset, n, seed)["row"]


def test_another_seed_draws_another_sample():
    dataset = emotions(40, 40, 40)
    samples = [draw_balanced_sample(dataset, 30, seed)["row"] for seed in (1, 2)]
    assert set(samples[0]) != set(samples[1])
    assert samples[0] != sorted(samples[0]), "the order gives the emotions away"


@pytest.mark.parametrize("n", [0, -1, 7])
def test_a_sample_that_cannot_be_drawn_is_refused(n):
    with pytest.raises(ValueError, match=f"num_samples is {n}, but there are 6 rows"):
        draw_balanced_sample(emotions(3, 3), n)


def test_no_number_of_samples_takes_the_whole_split_as_it_is():
    dataset = emotions(5, 1)
    assert draw_balanced_sample(dataset, None)["row"] == list(range(6))


@pytest.mark.parametrize(("used", "asked", "expected"), [(6, 4, 4), (6, 64, 6)], ids=["enough", "fewer-than-asked"])
def test_what_is_measured_on_is_not_what_is_trained_on(used, asked, expected):
    dataset = emotions(4, 4, 4)
    held_out = select_unused_rows(dataset, used, asked, seed=3)
    assert len(held_out) == expected
    assert not set(held_out["row"]) & set(draw_balanced_sample(dataset, used, seed=3)["row"])
    assert len(set(held_out["emotion"])) == 3


def test_a_cold_start_that_uses_every_row_needs_another_split():
    with pytest.raises(ValueError, match=r"num_samples is 6.*--eval_split"):
        select_unused_rows(emotions(3, 3), 6, 4)


@pytest.mark.parametrize("name", ["num_samples", "probe_samples"])
def test_impossible_settings_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        ColdStartConfig(output_dir=str(tmp_path), bf16=False, **{name: 0})


def test_examples_are_the_direct_question_and_the_answer(training_rows):
    examples = make_examples(training_rows)
    assert examples.column_names == ["image", "prompt", "completion"]
    for row, example in zip(training_rows, examples, strict=True):
        assert "step1" not in example["prompt"][0]["content"]
        assert all(label in example["prompt"][0]["content"] for label in row["label_space"])
        assert example["completion"] == [{"role": "assistant", "content": f"\\boxed{{{row['emotion']}}}"}]


def trainer_of(model_dir, output_dir, rows, **options):
    options = {"num_samples": 6, "max_steps": 2, "learning_rate": 1e-3, **options}
    args = ColdStartConfig(
        output_dir=str(output_dir),
        per_device_train_batch_size=3,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
        **options,
    )
    model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32)
    return build_cold_start_trainer(model, args, rows, AutoProcessor.from_pretrained(model_dir))


def test_only_the_completion_is_trained(tiny_model_dir, tmp_path, training_rows):
    trainer = trainer_of(tiny_model_dir, tmp_path, training_rows)
    tokenizer = trainer.processing_class.tokenizer
    for batch in trainer.get_train_dataloader():
        for labels, ids in zip(batch["labels"], batch["input_ids"], strict=True):
            trained = tokenizer.decode(labels[labels >= 0])
            assert trained.startswith("\\boxed{")
            assert trained.rstrip("\n").endswith("}<|im_end|>")
            assert "step1" not in tokenizer.decode(ids)
            assert (ids == trainer.processing_class.image_token_id).sum() > 0


@pytest.mark.parametrize("freeze", [False, True])
def test_two_steps_change_every_parameter_that_is_trained(tiny_model_dir, tmp_path, training_rows, freeze):
    trainer = trainer_of(tiny_model_dir, tmp_path, training_rows, freeze_vision_tower=freeze)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    same = [name for name, parameter in trainer.model.named_parameters() if torch.equal(parameter, before[name])]
    assert all(freeze and "visual" in name for name in same)
    if freeze:
        assert len(same) == sum("visual" in name for name in before)


def test_more_steps_teach_the_answer_and_the_probe_sees_it(tiny_model_dir, tmp_path, training_rows):
    rows = training_rows.map(lambda row: {"emotion": row["label_space"][0]})  # "amusement" for every picture
    trainer = trainer_of(tiny_model_dir, tmp_path, rows, max_steps=60, learning_rate=5e-3)
    processor = trainer.processing_class
    before = probe_model(trainer.model, processor, rows, max_tokens=24)
    trainer.train()
    after = probe_model(trainer.model, processor, rows, max_tokens=24)
    assert before == {"format_rate": 0.0, "accuracy_set": 0.0, "accuracy_direct": 0.0}
    assert after["accuracy_direct"] == 1.0
    assert after["format_rate"] == 0.0  # steps were never shown


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(1.0, 0.95, None, id="kept"),
        pytest.param(1.0, 0.2, "untaught the steps: 20%", id="untaught"),
        pytest.param(0.1, 0.2, "it was 10% before it", id="never-known"),
    ],
)
def test_the_user_is_warned_when_the_steps_are_lost(before, after, expected):
    message = describe_format_loss({"format_rate": before}, {"format_rate": after})
    assert message is None if expected is None else expected in str(message)


def test_nothing_is_said_where_nothing_was_measured():
    assert describe_format_loss({}, {}) is None


def test_a_checkpoint_is_probed_from_its_folder_where_its_weights_are_whole(
    tiny_model_dir, tmp_path, training_rows, monkeypatch
):
    args = ColdStartConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, probe_max_tokens=4)
    measured = (str(tiny_model_dir), {"dtype": "float32"}, AutoProcessor.from_pretrained(tiny_model_dir))
    rates = probe_checkpoint(*measured, training_rows, args)
    assert set(rates) == {"format_rate", "accuracy_set", "accuracy_direct"}
    monkeypatch.setattr("emor3_trl.cold_start.is_deepspeed_zero3_enabled", lambda: True)
    assert probe_checkpoint(*measured, training_rows, args) == {}


def test_a_plan_counts_the_whole_split_and_says_what_is_measured(tmp_path):
    options = {"output_dir": str(tmp_path), "bf16": False, "use_cpu": True, "per_device_train_batch_size": 8}
    args = ColdStartConfig(num_samples=None, num_train_epochs=3, **options)
    plan = describe_cold_start(args, "a model", "some data", None, samples=100)
    assert "100 answer-only examples of some data, all of them" in plan
    assert "39 of 8 examples" in plan  # 3 x 13, the last of an epoch short
    assert "measures  nothing" in plan
    plan = describe_cold_start(ColdStartConfig(num_samples=10, **options), "a model", "some data", "others", samples=10)
    assert "balanced over the emotions" in plan
    assert "pictures of others, before and after" in plan


def test_nothing_is_measured_without_rows(tmp_path):
    args = ColdStartConfig(output_dir=str(tmp_path), num_samples=None, bf16=False, use_cpu=True)
    assert probe_checkpoint("no model", {}, None, None, args) == {}

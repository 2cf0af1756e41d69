"""Probes ask what they say, when they are due, and a run with them ends in the same weights."""

from typing import Any

import pytest
import torch
from cheating import OBJECTS, let_write, write_completion
from tiny_model import tiny_pictures
from training import LABELS, logged, tiny_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl import EmoR3Trainer
from emor3_trl.diagnostics import ask_probes
from emor3_trl.engines.engine import Question
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION
from emor3_trl.reflection import Reflection, choose_other_images

YES = Reflection("Yes", "fear")


class Listening(TransformersEngine):
    """The policy on transformers; it keeps the questions of each call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[list[Question]] = []

    def choose(self, questions: Any) -> tuple:
        self.calls.append(list(questions))
        return super().choose(questions)


@pytest.fixture(scope="module")
def stock_engine(judge_dir):
    model = AutoModelForImageTextToText.from_pretrained(judge_dir, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(judge_dir)


@pytest.fixture
def engine(stock_engine) -> Listening:
    return Listening(*stock_engine)


def test_the_question_is_about_another_image_and_labels_are_masked(engine):
    tent, dog = tiny_pictures(2)
    texts = [
        write_completion("I see a tent and Fear.", "A person feels awe and fear.", "fear"),
        write_completion("I see a small dog.", "A person feels night.", "fear"),
    ]
    metrics = ask_probes(engine, [tent, dog], texts, [LABELS] * 2, [YES, YES], ["fear", "awe"])
    (questions,) = engine.calls  # one call
    labels = ", ".join(LABELS)
    masked = {"trigger": "I see a tent and something.", "feeling": "A person feels something and something."}
    assert [(question.text, question.choices, question.image) for question in questions] == [
        (CONSISTENCY_QUESTION.format(trigger="I see a tent and Fear."), ("Yes", "No"), dog),
        (COHERENCE_QUESTION.format(**masked, labels=labels), tuple(LABELS), None),
        (CONSISTENCY_QUESTION.format(trigger="I see a small dog."), ("Yes", "No"), tent),
    ]
    assert metrics["diagnostics/shuffled_yes"] == 1.0  # this judge says Yes to anything
    assert metrics["diagnostics/yes_gap"] == 0.0
    # Nothing was masked in the second, so it is not asked again and keeps its emotion
    kept = engine.choose([questions[1]])[0] == ["fear"]
    assert metrics["diagnostics/masked_coherence"] == (1 + kept) / 2
    assert metrics["diagnostics/probe_requests"] == 3


def test_siblings_with_one_trigger_are_asked_once_and_each_counts(engine):
    images = tiny_pictures(2)
    text = write_completion("I see a tent.", "A person feels night.", "fear")
    rows = [images[0]] * 3 + [images[1]]
    reflections = [YES, Reflection("No", "fear"), YES, YES]
    metrics = ask_probes(engine, rows, [text] * 4, [LABELS] * 4, reflections, ["fear"] * 4)
    assert len(engine.calls[0]) == 2  # one about each image
    assert metrics["diagnostics/yes_gap"] == pytest.approx(3 / 4 - 1)


@pytest.mark.parametrize(
    ("completions", "images"),
    [
        pytest.param(["nothing", r"\boxed{awe}"], tiny_pictures(2), id="malformed"),
        pytest.param([write_completion(" . ", "A person feels night.", "fear")] * 2, tiny_pictures(2), id="wordless"),
    ],
)
def test_nothing_is_asked_about_what_was_not_reflected_on(engine, completions, images):
    result = ask_probes(engine, images, completions, [LABELS] * 2, [Reflection()] * 2, ["fear", "awe"])
    assert engine.calls == []
    assert result["diagnostics/probe_requests"] == 0
    assert not {"diagnostics/shuffled_yes", "diagnostics/yes_gap", "diagnostics/masked_coherence"} & result.keys()


def test_with_one_image_alone_the_steps_are_still_masked(engine):
    (image,) = tiny_pictures(1)
    text = write_completion("I see a tent.", "A person feels night.", "fear")
    result = ask_probes(engine, [image] * 2, [text] * 2, [LABELS] * 2, [YES, YES], ["fear"] * 2)
    assert "diagnostics/shuffled_yes" not in result
    assert result["diagnostics/masked_coherence"] == 1.0


@pytest.mark.parametrize(
    ("images", "emotions", "expected"),
    [
        pytest.param("abc", ["x", "y", "x"], "bcb", id="of-another-emotion"),
        pytest.param("abc", ["x", "x", "x"], "bca", id="else-the-next"),
        pytest.param("aabb", ["x", "x", "y", "y"], "bbaa", id="rows-of-a-group-alike"),
        pytest.param("ab", [None, None], "ba", id="emotions-unknown"),
        pytest.param("aa", ["x", "x"], [None, None], id="one-image"),
        pytest.param([None, "a", "b"], ["x", "x", "y"], [None, "b", "a"], id="a-row-without-an-image"),
    ],
)
def test_the_other_image_is_the_next_one_of_another_emotion(images, emotions, expected):
    assert choose_other_images(list(images), emotions, same_emotion=False) == list(expected)


def write_honestly(row: dict[str, Any], place: int) -> str:
    answer = row["emotion"] if place % 2 else row["label_space"][0]
    return write_completion(f"I see {OBJECTS[int(row['id'])]}.", "A person feels fear.", answer)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        pytest.param({"probe_steps": 2, "max_steps": 5}, [2, 4], id="every-second-step"),
        pytest.param({"probe_steps": 0, "max_steps": 2}, [], id="never"),
        pytest.param({"probe_steps": 3, "max_steps": 6, "steps_per_generation": 2}, [3, 5], id="rollouts-of-two-steps"),
        pytest.param({"probe_steps": 1, "max_steps": 2, "lambda1": 0.0}, [], id="no-reflection"),
        pytest.param(
            {"probe_steps": 1, "max_steps": 3, "eval_strategy": "steps", "eval_steps": 1},
            [1, 2, 3],
            id="after-an-evaluation",
        ),
    ],
)
def test_probes_are_asked_when_they_are_due(judge_dir, tmp_path, monkeypatch, options, steps):
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "num_generations": 2}
    trainer = tiny_trainer(judge_dir, tmp_path, reward_funcs=None, use_vllm=False, **{**settings, **options})
    let_write(trainer, monkeypatch, write_honestly)
    trainer.train()
    asked = [entry["step"] for entry in trainer.state.log_history if "diagnostics/probe_requests" in entry]
    assert asked == steps


def test_dynamic_sampling_and_evaluation_ask_no_probes_of_their_own(judge_dir, tmp_path, monkeypatch):
    asked = []
    stock = TransformersEngine.choose
    monkeypatch.setattr(TransformersEngine, "choose", lambda *args: asked.append(1) or stock(*args))
    options = {"dynamic_sampling": "accuracy", "dynamic_sampling_tries": 3, "eval_strategy": "steps", "eval_steps": 1}
    trainer = tiny_trainer(
        judge_dir, tmp_path, reward_funcs=None, use_vllm=False, max_steps=1, probe_steps=1, **options
    )
    let_write(trainer, monkeypatch, lambda row, place: write_honestly(row, 1))  # all right: every group is dropped
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "rollout/tries" in entry]
    evaluations = sum("eval_reward" in entry for entry in trainer.state.log_history)
    assert entry["rollout/tries"] > 1
    assert evaluations == 1
    rollouts = entry["rollout/tries"] + len(trainer.eval_dataset) * trainer.num_generations_eval / 8
    assert len(asked) == rollouts + 1  # one reflection each, and one call of the probes
    assert not any(
        key.startswith("eval_") and "shuffled" in key for entry in trainer.state.log_history for key in entry
    )


@pytest.mark.parametrize(
    "use_vllm", [pytest.param(True, id="vllm", marks=pytest.mark.slow), pytest.param(False, id="transformers")]
)
def test_the_weights_and_what_is_sampled_are_the_same_with_probes(judge_dir, tmp_path, monkeypatch, use_vllm):
    ends = []
    for probe_steps in (0, 1):
        sampled: list[Any] = []
        torch.manual_seed(0)
        options = {"max_steps": 3, "use_vllm": use_vllm, "parity_stop": 1e9, "parity_warn": 1e9}
        trainer = tiny_trainer(
            judge_dir, tmp_path / str(probe_steps), reward_funcs=None, probe_steps=probe_steps, **options
        )
        with monkeypatch.context() as patch:
            stock = EmoR3Trainer._generate_single_turn
            patch.setattr(
                EmoR3Trainer,
                "_generate_single_turn",
                lambda self, *args, stock=stock, kept=sampled, **kwargs: keep(stock(self, *args, **kwargs), kept),
            )
            let_write(trainer, patch, write_honestly)
            trainer.train()
        assert len(logged(trainer, "diagnostics/shuffled_yes")) == 3 * probe_steps
        weights = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        ends.append((sampled, weights, logged(trainer, "loss"), torch.get_rng_state()))
    (first_ids, first, first_losses, first_state), (second_ids, second, second_losses, second_state) = ends
    assert len(first_ids) == 3
    assert first_ids == second_ids
    assert first_losses == second_losses
    assert torch.equal(first_state, second_state)
    start = AutoModelForImageTextToText.from_pretrained(judge_dir, dtype=torch.float32)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert any(not torch.equal(weight, first[name]) for name, weight in start.named_parameters())


def keep(output: tuple, kept: list[Any]) -> tuple:
    kept.append([[int(token) for token in ids] for ids in output[0]])
    return output

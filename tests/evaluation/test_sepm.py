"""SEPM: what stage 1 decides, which labels and image tokens stage 2 has, and that all of it is in the predictions."""

import math

import pytest
import torch
from tiny_llava import build_tiny_llava
from tiny_model import build_tiny_model, tiny_pictures
from training import tiny_dataset

from emor3_trl.emotions import EMOSET_8, EMOTION6, WEBEMO_7
from emor3_trl.engines.image_tokens import Look, look
from emor3_trl.engines.opening import open_engine
from emor3_trl.evaluation import sepm
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions
from emor3_trl.evaluation.sepm import (
    Decision,
    ask_in_two_stages,
    check_family,
    decide,
    judge_polarity,
    select_labels,
    select_least_attended,
    write_question,
)
from emor3_trl.prompts import SEPM_AMBIGUOUS, prompt_text

POSITIVE_8, NEGATIVE_8 = ["amusement", "awe", "contentment", "excitement"], ["anger", "disgust", "fear", "sadness"]
BUILDERS = {"llava": build_tiny_llava, "qwen2_5_vl": build_tiny_model}


@pytest.fixture(scope="module", params=BUILDERS)
def engine(request, tmp_path_factory):
    """A transformers engine on a random model of a family."""
    folder = BUILDERS[request.param](tmp_path_factory.mktemp(request.param))
    with open_engine(folder, engine="transformers", dtype="float32") as opened:
        yield opened


def logits_of(probability: float) -> list[float]:
    """Return two logits whose softmax gives the first one a probability."""
    return [math.log(probability) + 3.0, math.log(1 - probability) + 3.0]  # softmax does not see what both share


@pytest.mark.parametrize(
    ("probability", "polarity"),
    [
        pytest.param(0.5, "ambiguous", id="even"),
        pytest.param(0.8161, "ambiguous", id="variance-0.0999"),
        pytest.param(0.8163, "positive", id="variance-0.10005"),
        pytest.param(0.1839, "ambiguous", id="variance-0.0999-negative"),
        pytest.param(0.1837, "negative", id="variance-0.10005-negative"),
        pytest.param(0.75, "ambiguous", id="sample-variance-0.125-is-not-meant"),
        pytest.param(0.999, "positive", id="sure"),
        pytest.param(0.001, "negative", id="sure-negative"),
    ],
)
def test_an_image_is_ambiguous_where_the_probabilities_vary_little(probability, polarity):
    found, decided = judge_polarity(logits_of(probability))
    assert found == pytest.approx(probability, abs=1e-5)
    assert decided == polarity


@pytest.mark.parametrize(
    ("attention", "removed"),
    [
        pytest.param([0.1] * 9, (), id="nine-tokens-stay"),
        pytest.param([5, 4, 3, 2, 1, 6, 7, 8, 9, 10], (4,), id="one-of-ten"),
        pytest.param([1, *range(2, 20)], (0,), id="one-of-nineteen"),
        pytest.param([9, 1, *range(10, 27), 2], (1, 19), id="two-of-twenty-in-order-of-place"),
        pytest.param([3, 0, 0, 0, 3, 3, 3, 3, 3, 3], (1,), id="the-first-of-equals"),
    ],
)
def test_the_least_attended_tenth_is_removed(attention, removed):
    assert select_least_attended([float(value) for value in attention]) == removed


def test_llava_loses_57_of_its_576_tokens():
    assert len(select_least_attended(torch.rand(576).tolist())) == 57


@pytest.mark.parametrize(
    ("labels", "polarity", "expected"),
    [
        pytest.param(EMOSET_8.labels, "positive", POSITIVE_8, id="emoset-positive"),
        pytest.param(EMOSET_8.labels, "negative", NEGATIVE_8, id="emoset-negative"),
        pytest.param(EMOSET_8.labels, "ambiguous", list(EMOSET_8.labels), id="emoset-ambiguous"),
        pytest.param(EMOTION6.labels, "positive", ["joy", "surprise"], id="emotion6-positive"),
        pytest.param(
            EMOTION6.labels, "negative", ["anger", "disgust", "fear", "sadness", "surprise"], id="emotion6-negative"
        ),
        pytest.param(WEBEMO_7.labels, "positive", ["confusion", "joy", "love", "surprise"], id="webemo-positive"),
        pytest.param(
            WEBEMO_7.labels, "negative", ["anger", "confusion", "fear", "sadness", "surprise"], id="webemo-negative"
        ),
        pytest.param(["Joy", "ANGER", "saudade"], "negative", ["ANGER", "saudade"], id="own-with-an-unknown"),
        pytest.param(["Joy", "ANGER", "saudade"], "positive", ["Joy", "saudade"], id="own-in-other-spelling"),
        pytest.param(["joy", "awe"], "negative", ["joy", "awe"], id="none-would-be-left"),
    ],
)
def test_stage_2_has_the_labels_of_the_polarity_and_those_of_neither(labels, polarity, expected):
    assert select_labels(labels, polarity) == expected
    question = write_question(labels, polarity, "direct")
    assert question.endswith(prompt_text("direct", expected))
    assert (SEPM_AMBIGUOUS in question) is (polarity == "ambiguous")


def test_a_decision_says_what_it_saw():
    seen = Look((4.0, 0.0), (0.2, *[0.05] * 9, *[0.02] * 10))
    assert decide(seen) == Decision(pytest.approx(1 / (1 + math.exp(-4))), "positive", (10, 11), 20)
    assert decide(seen).kept_tokens == 18


def test_both_stages_are_asked_as_decided(engine, monkeypatch):
    """Stage 1's logits are set by hand; what stage 2 is called with is compared."""
    images = tiny_pictures(3)
    attentions = [(*(float(place) for place in range(20)),), tuple([1.0] * 9), (*[1.0] * 10, 0.5)]
    looks = [Look((9.0, 0.0), attentions[0]), Look((0.0, 9.0), attentions[1]), Look((0.1, 0.0), attentions[2])]
    asked, calls = [], []
    monkeypatch.setattr(sepm, "look", lambda _engine, questions: asked.extend(questions) or looks)
    monkeypatch.setattr(
        sepm, "complete_without", lambda *arguments, **options: calls.append((arguments, options)) or [["text"]] * 3
    )
    decoding = {"n": 1, "temperature": 0.0, "max_tokens": 4, "seed": 7}
    completions, decisions = ask_in_two_stages(engine, images, [EMOSET_8.labels] * 3, "direct", **decoding)
    assert completions == [["text"]] * 3
    assert [(question.choices, question.image) for question in asked] == [
        (("Positive", "Negative"), image) for image in images
    ]
    texts = [prompt_text("direct", labels) for labels in (POSITIVE_8, NEGATIVE_8, EMOSET_8.labels)]
    texts[2] = SEPM_AMBIGUOUS + "\n" + texts[2]
    assert calls == [((engine, texts, images, [(0, 1), (), (10,)]), decoding)]
    assert [decision.polarity for decision in decisions] == ["positive", "negative", "ambiguous"]


def test_predictions_say_what_was_decided(engine):
    rows = tiny_dataset().select(range(4))
    options = PredictionOptions(
        prompt_style="direct", method="sepm", max_tokens=4, batch_size=3, num_completions=2, temperature=1.0,
        score_labels=True,
    )  # fmt: skip
    predictions = predict_emotions(engine, rows, "test", options, progress=False)
    questions = [sepm.Question(sepm.SEPM_QUESTION, sepm.SEPM_POLARITIES, row["image"]) for row in rows]
    decisions = [decide(seen) for seen in look(engine, questions) for _ in range(2)]
    assert [row.sample for row in predictions] == [0, 1] * 4
    assert [row.polarity for row in predictions] == [decision.polarity for decision in decisions]
    assert [row.kept_image_tokens for row in predictions] == [decision.kept_tokens for decision in decisions]
    assert [row.positive_probability for row in predictions] == pytest.approx(
        [decision.positive_probability for decision in decisions], abs=1e-5
    )
    assert {row.label_probabilities for row in predictions} == {None}  # the plain prompt's would be another model's
    plain = predict_emotions(engine, rows, "test", PredictionOptions(max_tokens=4), progress=False)
    assert {(row.polarity, row.positive_probability, row.kept_image_tokens) for row in plain} == {(None, None, None)}


def test_another_engine_and_another_family_are_refused(tmp_path):
    with pytest.raises(TypeError, match="needs the attention of a TransformersEngine, but was given a str"):
        ask_in_two_stages("vllm", [], [], "direct", n=1, temperature=0.0, max_tokens=4, seed=0)
    from families import build_family

    build_family("llava_next", tmp_path)
    with pytest.raises(ValueError, match=r"of the family llava_next\. Expected one of llava, qwen2_5_vl"):
        check_family(str(tmp_path))

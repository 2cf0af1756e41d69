"""Reflection: what is asked about which completion, in one call."""

import pytest
from tiny_model import gold_completion, tiny_pictures

from emor3_trl.emotions import EMOSET_8
from emor3_trl.engines.engine import ChoiceCost, Question, WeighedAnswer
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION
from emor3_trl.reflection import (
    Reflection,
    ReflectionOptions,
    Reflector,
    calibrate_probabilities,
    choose_other_images,
    measure_priors,
)

LABELS = EMOSET_8.labels


class RecordingEngine:
    """Remembers what it is asked and always takes the first choice."""

    group = None

    def __init__(self):
        self.calls: list[list[Question]] = []

    def choose(self, questions):
        self.calls.append(list(questions))
        return [question.choices[0] for question in questions], ChoiceCost(requests=len(questions))


def test_both_questions_of_all_completions_go_to_the_engine_in_one_call():
    engine = RecordingEngine()
    pictures = tiny_pictures(2)
    completions = [gold_completion("awe"), "no steps at all", gold_completion("fear"), gold_completion("awe")]
    answers = Reflector(engine).reflect(
        [pictures[0], pictures[0], pictures[1], pictures[0]], completions, ["emoset_8"] * 4
    )
    assert len(engine.calls) == 1
    # Two pictures, one text: consistency twice, coherence once; nothing about the malformed completion.
    assert [question.choices for question in engine.calls[0]] == [("Yes", "No"), LABELS, ("Yes", "No")]
    asked = Reflection("Yes", LABELS[0])
    assert answers == [asked, Reflection(), asked, asked]


@pytest.mark.parametrize(
    "completion",
    ["\\boxed{awe}", gold_completion("awe").replace("A wide night sky above a small tent.", "…")],
    ids=["malformed", "wordless-step-1"],
)
def test_nothing_is_asked_about_a_completion_without_a_trigger(completion):
    engine = RecordingEngine()
    assert Reflector(engine).reflect([tiny_pictures(1)[0]], [completion], ["emoset_8"]) == [Reflection()]
    assert engine.calls == []


def test_a_text_only_row_is_asked_about_coherence_only():
    engine = RecordingEngine()
    Reflector(engine).reflect([None], [gold_completion("awe")], [list(LABELS)])
    assert [question.choices for question in engine.calls[0]] == [LABELS]


@pytest.mark.parametrize(
    ("images", "emotions", "expected"),
    [
        pytest.param("abc", ["x", "y", "x"], "cca", id="of the same emotion"),
        pytest.param("abc", ["x", "y", "z"], "bca", id="else the next"),
        pytest.param("aabb", ["x", "x", "y", "y"], "bbaa", id="rows of a group alike"),
        pytest.param("aa", ["x", "x"], [None, None], id="one image: none"),
        pytest.param([None, "a", "b"], ["x"] * 3, [None, "b", "a"], id="a row without an image"),
    ],
)
def test_the_image_to_contrast_with_is_the_hardest_of_the_batch(images, emotions, expected):
    assert choose_other_images(list(images), emotions, same_emotion=True) == list(expected)


def test_a_copy_of_an_image_is_no_other_image():
    image, other = tiny_pictures(2)
    copy = image.copy()
    copy.info["dpi"] = (72, 72)  # which another file of the same pixels may hold
    rows = [image, copy, other]
    assert choose_other_images(rows, ["x", "x", "y"], same_emotion=True) == [other, other, image]


def test_the_contrast_is_one_more_question_in_the_same_call():
    engine, images = RecordingEngine(), tiny_pictures(2)
    reflector = Reflector(engine, ReflectionOptions(contrastive_consistency=True))
    completions = [gold_completion("awe"), gold_completion("fear").replace("tent", "dog"), "no steps"]
    answers = reflector.reflect([*images, images[0]], completions, ["emoset_8"] * 3, ["awe", "fear", "awe"])
    (questions,) = engine.calls
    tent, dog = (f"A wide night sky above a small {thing}." for thing in ("tent", "dog"))
    about = [(CONSISTENCY_QUESTION.format(trigger=text), image) for text in (tent, dog) for image in images]
    asked = [(question.text, question.image) for question in questions if question.image is not None]
    assert sorted(asked, key=about.index) == about
    assert len(questions) == 6
    assert reflector.contrast_requests == 2
    assert answers == [Reflection("Yes", LABELS[0], contrast_answer="Yes")] * 2 + [Reflection()]


def test_labels_and_their_kin_are_masked_in_the_coherence_question_alone():
    engine, (image,) = RecordingEngine(), tiny_pictures(1)
    text = gold_completion("fear").replace("moved", "fearful").replace("tent", "awe")
    Reflector(engine, ReflectionOptions(masked_coherence=True)).reflect([image], [text], ["emoset_8"])
    consistency, coherence = engine.calls[0]
    assert consistency.text == CONSISTENCY_QUESTION.format(trigger="A wide night sky above a small awe.")
    assert coherence.text == COHERENCE_QUESTION.format(
        trigger="A wide night sky above a small something.",
        feeling="A person feels small and something.",
        labels=", ".join(LABELS),
    )


def test_a_prior_is_the_mean_and_calibration_divides_by_it():
    rows = [(("Yes", "No"), (0.9, 0.1)), (("Yes", "No"), (0.7, 0.3)), (("a", "b", "c"), (0.5, 0.5, 0.0))]
    priors = measure_priors(rows)
    assert priors == {("Yes", "No"): pytest.approx([0.8, 0.2]), ("a", "b", "c"): [0.5, 0.5, 0.0]}
    # 0.9 / 0.8 = 1.125 and 0.1 / 0.2 = 0.5; 0.7 / 0.8 = 0.875 and 0.3 / 0.2 = 1.5
    assert calibrate_probabilities((0.9, 0.1), priors["Yes", "No"]) == pytest.approx([1.125 / 1.625, 0.5 / 1.625])
    assert calibrate_probabilities((0.7, 0.3), priors["Yes", "No"]) == pytest.approx([0.875 / 2.375, 1.5 / 2.375])
    assert calibrate_probabilities((0.5, 0.5, 0.0), priors["a", "b", "c"]) == [0.5, 0.5, 0.0]


class WeighingEngine:
    """Gives each text its probability of the first choice; the others share the rest."""

    group = None

    def __init__(self, shares):
        self.shares = shares

    def weigh(self, questions):
        weighed = []
        for question in questions:
            first = next(share for word, share in self.shares.items() if word in question.text)
            rest = (1 - first) / (len(question.choices) - 1)
            shares = (first, *[rest] * (len(question.choices) - 1))
            weighed.append(WeighedAnswer(question.choices[0], shares, (True,) * len(shares)))
        return weighed, ChoiceCost(requests=len(questions))


def test_calibration_counts_every_completion_of_every_process():
    """Two siblings say one thing and a third another: the prior weighs them two to one, with those of another rank."""
    image = tiny_pictures(1)[0]
    texts = [gold_completion("awe"), gold_completion("awe"), gold_completion("awe").replace("tent", "dog")]
    engine = WeighingEngine({"small tent": 0.9, "small dog": 0.6})
    elsewhere = [(("Yes", "No"), (0.6, 0.4)), (LABELS, (0.6, *[0.4 / 7] * 7))]
    options = ReflectionOptions(soft_reflection="calibrated")
    answers = Reflector(engine, options, gather=lambda rows: rows + elsewhere).reflect(
        [image] * 3, texts, ["emoset_8"] * 3, ["amusement", "awe", "amusement"]
    )
    prior = (0.9 + 0.9 + 0.6 + 0.6) / 4  # 0.75
    yes = (0.9 / prior) / (0.9 / prior + 0.1 / (1 - prior))
    assert answers[0].consistency_probability == answers[1].consistency_probability == pytest.approx(yes)
    first = (0.9 / prior) / (0.9 / prior + 7 * (0.1 / 7) / ((1 - prior) / 7))
    assert answers[0].coherence_probability == pytest.approx(first)
    assert answers[1].coherence_probability == pytest.approx((1 - first) / 7)
    assert [answer.coherence_answer for answer in answers] == [LABELS[0]] * 3


def test_where_no_emotion_is_known_no_label_has_a_probability():
    options = ReflectionOptions(soft_reflection="raw")
    (answer,) = Reflector(WeighingEngine({"small tent": 0.5}), options).reflect(
        tiny_pictures(1), [gold_completion("awe")], ["emoset_8"]
    )
    assert (answer.consistency_probability, answer.coherence_probability) == (0.5, None)

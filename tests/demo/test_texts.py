"""The demo's texts: gold completions earn their rewards, statements are true or false as said, the prior is wrong."""

import random
from collections import Counter

import pytest

from emor3_trl.demo.pictures import EMOTIONS, EXPRESSIONS, Peep, choose_peep
from emor3_trl.demo.texts import FACES, PRIOR, draw_prior_emotion, make_false_peep, set_completion, trigger_text
from emor3_trl.emotions import AROUSAL, VALENCE
from emor3_trl.rewards import accuracy_reward, format_reward
from emor3_trl.thinking import parse


@pytest.fixture(scope="module")
def all_people() -> dict[str, Peep]:
    """People by the id of their image; every expression is there several times."""
    sizes = {"train": 36, "validation": 12}
    return {f"{split}-{i}": choose_peep(3, split, i) for split, size in sizes.items() for i in range(size)}


def test_gold_completions_earn_accuracy_and_format(all_people):
    rng = random.Random(0)
    for name, peep in all_people.items():
        completion = set_completion(peep, peep.emotion, rng)
        thinking = parse(completion)
        assert thinking is not None, (name, completion)
        assert VALENCE[peep.emotion] in thinking.conclusion
        assert AROUSAL[peep.emotion] in thinking.conclusion
        columns = {"emotion": [peep.emotion], "label_space": [list(EMOTIONS)]}
        assert format_reward([completion], **columns) == accuracy_reward([completion], **columns) == [1.0]


def test_statements_about_a_picture_are_true_or_false_as_said(all_people):
    rng = random.Random(0)
    for peep in all_people.values():
        true = trigger_text(peep, rng)
        assert any(face in true for face in FACES[peep.expression])
        false = trigger_text(make_false_peep(peep, rng), rng)
        wrong_face = not any(face in false for face in FACES[peep.expression])
        assert wrong_face or not (peep.head in false or f"a {peep.shirt} shirt" in false), (peep, false)


def test_the_prior_prefers_a_wrong_emotion_for_some_expressions_and_allows_the_right_one():
    rng = random.Random(0)
    emotion_of = {face: emotion for emotion, faces in EXPRESSIONS.items() for face in faces}
    for expression, prior in PRIOR.items():
        peep = next(p for i in range(18) if (p := choose_peep(0, "train", i)).expression == expression)
        named = Counter(draw_prior_emotion(peep, rng) for _ in range(400))
        assert set(named) == set(prior)
        assert named.most_common(1)[0][0] != emotion_of[expression]
        assert named[emotion_of[expression]] > 40

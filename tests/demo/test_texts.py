"""The demo's texts: gold completions earn their rewards, statements are true or false as said, the prior is wrong."""

import random
from collections import Counter

import pytest

from emor3_trl.demo.texts import draw_prior_emotion, make_false_drawing, set_completion, think_completion, trigger_text
from emor3_trl.demo.worlds import LOOKS, WORLDS
from emor3_trl.emotions import AROUSAL, VALENCE
from emor3_trl.rewards import accuracy_reward, format_reward, think_format_reward
from emor3_trl.thinking import parse


def test_gold_completions_earn_accuracy_and_format(drawings):
    rng = random.Random(0)
    for drawing in drawings:
        completion = set_completion(drawing, drawing.emotion, rng)
        thinking = parse(completion)
        assert thinking is not None, (drawing, completion)
        assert VALENCE[drawing.emotion] in thinking.conclusion
        assert AROUSAL[drawing.emotion] in thinking.conclusion
        columns = {"emotion": [drawing.emotion], "label_space": [list(WORLDS[drawing.world].labels)]}
        assert format_reward([completion], **columns) == accuracy_reward([completion], **columns) == [1.0]
        plain = think_completion(drawing, drawing.emotion, rng)
        assert think_format_reward([plain], **columns) == accuracy_reward([plain], **columns) == [1.0]


def test_statements_about_a_picture_are_true_or_false_as_said(drawings):
    rng = random.Random(0)
    for drawing in drawings:
        true = trigger_text(drawing, rng)
        assert any(face in true for face in LOOKS[drawing.look])
        assert any(detail in true for detail in drawing.details.values())
        false = trigger_text(make_false_drawing(drawing, rng), rng)
        wrong_face = not any(face in false for face in LOOKS[drawing.look])
        assert wrong_face or not any(detail in false for detail in drawing.details.values()), (drawing, false)


def test_no_two_looks_and_no_two_details_are_told_alike():
    phrases = [phrase for group in LOOKS.values() for phrase in group]
    assert not any(first in second for first in phrases for second in phrases if first is not second)


@pytest.mark.parametrize("world", WORLDS)
def test_the_prior_prefers_a_wrong_emotion_for_some_looks_and_allows_the_right_one(world, drawings):
    rng = random.Random(0)
    emotion_of = {look: emotion for emotion, group in WORLDS[world].looks.items() for look in group}
    for look, prior in WORLDS[world].prior.items():
        drawing = next(drawing for drawing in drawings if (drawing.world, drawing.look) == (world, look))
        named = Counter(draw_prior_emotion(drawing, rng) for _ in range(400))
        assert set(named) == set(prior) <= set(WORLDS[world].labels)
        assert named.most_common(1)[0][0] != emotion_of[look]
        assert named[emotion_of[look]] > 40


def test_a_prior_alone_is_at_twice_chance_and_below_two_thirds():
    for world in WORLDS.values():
        right = [
            sum(
                max(world.prior.get(look, {emotion: 1}).items(), key=lambda item: item[1])[0] == emotion
                for look in group
            )
            / len(group)
            for emotion, group in world.looks.items()
        ]
        assert 2 / len(world.labels) <= sum(right) / len(right) <= 0.65, world.name

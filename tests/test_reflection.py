"""Reflection: what is asked about which completion, in one call."""

import pytest
from tiny_model import gold_completion, tiny_pictures

from emor3_trl.emotions import EMOSET_8
from emor3_trl.engines.engine import ChoiceCost, Question
from emor3_trl.reflection import Reflection, Reflector

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

r"""The probability of each label where an answer stands, against a forward over every spelling."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import gold_completion
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.engines.choices import QuestionEncoder
from emor3_trl.engines.transformers import TransformersEngine, padded_inputs
from emor3_trl.evaluation.label_probabilities import MAX_LABELS, find_branches, score_labels, spell_answers

LABELS = ["amusement", "anger", "awe", "awesome", "joy"]


@pytest.mark.parametrize(
    ("completion", "spelled"),
    [
        pytest.param(r"\boxed{awe}", [r"\boxed{awe}", r"\boxed{fear}"], id="plain"),
        pytest.param(r"So \boxed{Fear}, yes", [r"So \boxed{Awe}", r"So \boxed{Fear}"], id="capital"),
        pytest.param(r"\boxed{ \text{AWE}. }", [r"\boxed{ \text{AWE}", r"\boxed{ \text{FEAR}"], id="decorated"),
        pytest.param(r"awe \boxed{awe}", [r"awe \boxed{awe}", r"awe \boxed{fear}"], id="named-before"),
        pytest.param(r"\boxed{\text{text awe}} \boxed{text awe}", None, id="more-than-a-label"),
        pytest.param(r"\boxed{joy}", None, id="outside-the-space"),
        pytest.param(r"\boxed{awe or fear}", None, id="two"),
        pytest.param(r"\boxed{awe} \boxed{fear}", None, id="two-boxes"),
        pytest.param(r"\boxed{awe", None, id="never-closed"),
        pytest.param("awe", None, id="no-box"),
        pytest.param("", None, id="empty"),
    ],
)
def test_each_label_is_spelled_in_the_place_of_the_answer(completion, spelled):
    assert spell_answers(completion, ["awe", "fear"]) == spelled


@pytest.mark.parametrize("content", ["great_joy", "Great  Joy", "great-joy", r"\text{GREAT JOY}", "gReat joy"])
def test_a_label_of_two_words_is_found_however_it_is_written(content):
    assert spell_answers(rf"\boxed{{{content}}}", ["fear", "great joy"])[0].lower().endswith("fear}")


def test_a_label_that_is_also_a_latex_command_is_found():
    assert spell_answers(r"\boxed{\text{text}}", ["text", "fear"]) == [r"\boxed{\text{text}", r"\boxed{\text{fear}"]


@given(st.text(max_size=60))
def test_any_text_has_spellings_or_none(text):
    for completion in (text, rf"\boxed{{{text}}}", gold_completion(text)):
        spelled = spell_answers(completion, LABELS)
        assert spelled is None or len(set(spelled)) == len(LABELS)


@given(st.sets(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=2, max_size=8))
def test_shares_at_the_branches_make_a_distribution(paths):
    ended = [(*path, 9) for path in paths]
    forks = {written: dict.fromkeys(tokens, 1 / len(tokens)) for written, tokens in find_branches(ended)}
    shares = [math.prod(forks[p[:i]][p[i]] for i in range(len(p)) if p[:i] in forks) for p in ended]
    assert sum(shares) == pytest.approx(1)


@torch.no_grad()
def test_probabilities_are_those_of_the_model_at_the_tokens_that_tell_labels_apart(tiny_model_dir, training_rows):
    processor = AutoProcessor.from_pretrained(tiny_model_dir, padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    engine = TransformersEngine(model, processor, batch_size=2)
    rows = [training_rows[index] for index in range(3)]
    texts, images = [row["prompt"][0]["content"] for row in rows], [row["image"] for row in rows]
    completions = [gold_completion("awe"), "no answer", r"\boxed{Anger}"]
    found = score_labels(engine, texts, images, completions, [LABELS] * 3)
    assert found[1] is None

    encoder = QuestionEncoder(processor)
    for row in (0, 2):
        start = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": texts[row]}]}],
            tokenize=False, add_generation_prompt=True,
        )  # fmt: skip
        spelled = [encoder.data_ids(text) for text in spell_answers(completions[row], LABELS)]
        expected = []
        for path in spelled:
            inputs = padded_inputs(processor, [start], [path], [images[row]])
            logs = model(**inputs).logits[0].log_softmax(-1)[-len(path) - 1 : -1]
            share = 1.0
            for position, token in enumerate(path):
                rivals = {other[position] for other in spelled if other[:position] == path[:position]}
                mass = logs[position, sorted(rivals)].exp().sum()
                share *= float(logs[position, token].exp() / mass)
            expected.append(share)
        assert found[row] == pytest.approx(expected, rel=1e-4)
        assert sum(found[row]) == pytest.approx(1)


def test_too_many_labels_are_not_scored(tiny_model_dir):
    labels = [f"label {number}" for number in range(MAX_LABELS + 1)]

    class Silent:
        processor = AutoProcessor.from_pretrained(tiny_model_dir)

        def log_probabilities(self, continuations):
            raise AssertionError("nothing should be asked")

    assert score_labels(Silent(), ["q"], [None], [r"\boxed{label 3}"], [labels]) == [None]

"""Probabilities of choices from one greedy answer, against all of them counted one by one."""

import math
from collections import defaultdict

import pytest
import torch
from tiny_model import tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.emotions import EMOSET_8, EMOTION6, WEBEMO_7
from emor3_trl.engines.engine import Continuation, Question
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.label_probabilities import find_branches


def enumerate_choices(engine: TransformersEngine, question: Question) -> list[float]:
    """Return the probability of each choice from forwards over every branch of the tree."""
    paths = engine.encoder.tree(question.choices).paths
    branches = find_branches(paths)
    scores = engine.log_probabilities([Continuation(question.text, question.image, *branch) for branch in branches])
    shares = {
        (prefix, token): math.exp(score) / sum(map(math.exp, row))
        for (prefix, tokens), row in zip(branches, scores, strict=True)
        for token, score in zip(tokens, row, strict=True)
    }
    return [math.prod(shares.get((path[:n], token), 1.0) for n, token in enumerate(path)) for path in paths]


def test_known_probabilities_are_exact_and_the_others_keep_their_bound(tiny_model_dir):
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():  # flat logits would hide what is missing
        model.get_input_embeddings().weight.mul_(20)
    engine = TransformersEngine(model, AutoProcessor.from_pretrained(tiny_model_dir))
    spaces = [space.labels for space in (EMOSET_8, EMOTION6, WEBEMO_7)]
    kin = ("fear", "fearful", "fearless", "awe", "awed", "awesome", "joy", "joyful", "joyfully", "calm")
    choices = [*spaces, ("Yes", "No"), kin, kin[4:]]
    texts = ("A dog runs.", "Rain.", "What is it?")
    questions = [
        Question(text, row, image) for text, image in zip(texts, tiny_pictures(3), strict=True) for row in choices
    ]
    weighed, cost = engine.weigh(questions)
    answers, plain = engine.choose(questions)
    assert [row.answer for row in weighed] == answers
    assert cost.generated_tokens == plain.generated_tokens
    missing = 0
    for question, row in zip(questions, weighed, strict=True):
        truth = enumerate_choices(engine, question)
        assert sum(truth) == pytest.approx(1, abs=1e-5)
        assert sum(row.probabilities) == pytest.approx(1, abs=1e-5)
        assert row.exact[question.choices.index(row.answer)]
        siblings: dict[float, list[float]] = defaultdict(list)  # true probabilities, by the share that they got
        for known, is_exact, true in zip(row.probabilities, row.exact, truth, strict=True):
            if is_exact:
                assert known == pytest.approx(true, abs=1e-5)
            else:
                siblings[known].append(true)
        for known, trues in siblings.items():
            mass, count = known * len(trues), len(trues)
            assert mass == pytest.approx(sum(trues), abs=1e-5)  # together they are exact
            assert mass <= 0.5 + 1e-5
            assert max(abs(known - true) for true in trues) <= mass * (count - 1) / count + 1e-5
            missing += count
    assert missing > 3, "every first token tells the labels apart: nothing is shared"

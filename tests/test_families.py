"""Other families than Qwen-VL's on transformers: they train, reflect, answer and are scored like any policy."""

import pytest
import torch
from families import FAMILIES, build_family
from test_trainer import write_gold
from tiny_model import gold_completion, tiny_pictures
from training import logged, tiny_dataset, tiny_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.engines.engine import Continuation, Question
from emor3_trl.engines.opening import open_engine
from emor3_trl.engines.policy import image_token_ids
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions
from emor3_trl.prompts import render

TEXT = "which emotion?"


OFTEN = ("llava", "llava_next", "gemma3")  # the others take images as one of these, or as Qwen2.5-VL, does


@pytest.fixture(
    scope="module",
    params=[pytest.param(family, marks=() if family in OFTEN else pytest.mark.slow) for family in FAMILIES],
)
def family_dir(request, tmp_path_factory):
    """The checkpoint folder of a random model of a family."""
    return build_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def loaded(family_dir):
    """The model and its processor."""
    processor = AutoProcessor.from_pretrained(family_dir, padding_side="left")
    return AutoModelForImageTextToText.from_pretrained(family_dir, dtype=torch.float32).eval(), processor


def test_two_steps_reflect_on_each_completion(family_dir, tmp_path, monkeypatch):
    trainer = tiny_trainer(family_dir, tmp_path, reward_funcs=None, max_steps=2, use_vllm=False, beta=0.01)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    write_gold(trainer, monkeypatch)
    trainer.train()
    assert min(logged(trainer, "reflection/requests")) > 0
    assert min(logged(trainer, "rewards/format_reward/mean")) == 1.0
    assert any(not torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_evaluation_writes_reflects_and_scores_labels(family_dir, monkeypatch, dtype):
    rows = tiny_dataset().select(range(3))
    with open_engine(family_dir, engine="transformers", dtype=dtype) as engine:
        written = predict_emotions(engine, rows, "test", PredictionOptions(max_tokens=4), progress=False)
        assert len(written) == 3
        decode = engine.processor.tokenizer.batch_decode
        engine.processor.tokenizer.batch_decode = lambda ids, **options: [
            gold_completion("anger") for _ in decode(ids, **options)
        ]
        options = PredictionOptions(max_tokens=4, score_labels=True)
        for prediction in predict_emotions(engine, rows, "test", options, progress=False):
            assert prediction.consistency_answer in ("Yes", "No")
            assert prediction.coherence_answer in prediction.label_space
            assert sum(prediction.label_probabilities) == pytest.approx(1)


@torch.no_grad()
def next_token(model, processor, beginning, rest, image):
    """Return the log-probabilities of the token after a prompt, from a forward of its own, without padding."""
    images = {} if image is None else {"images": [[image]]}
    made = processor(text=[beginning], **images, return_tensors="pt", add_special_tokens=False)
    further = torch.tensor([rest], dtype=torch.long)
    for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in made:
            tail = {"input_ids": further, "attention_mask": torch.ones_like(further)}.get(name, further * 0)
            made[name] = torch.cat([made[name], tail], dim=1)
    return model(**made).logits[0, -1].log_softmax(-1)


def test_questions_of_a_batch_are_answered_as_each_alone(loaded):
    model, processor = loaded
    engine = TransformersEngine(model, processor)
    images = [*tiny_pictures(3), None, None]
    texts = [TEXT + " Look." * row for row in range(5)]
    choices = ("awe", "fear", "Yes", "No")
    answers, _ = engine.choose([Question(*row) for row in zip(texts, [choices] * 5, images, strict=True)])
    tree = engine.encoder.tree(choices)
    for text, image, answer in zip(texts, images, answers, strict=True):
        before, after = render(processor, "\u2400", image is not None).split("\u2400")
        rest = [token for part in (text, after) for token in processor.tokenizer(part)["input_ids"]]
        scores = next_token(model, processor, before, rest, image)
        best = max(tree.allowed_tokens([]), key=lambda token: scores[token].item())
        chosen = tree.paths[choices.index(answer)]
        assert chosen[0] == best


def test_tokens_of_a_batch_are_scored_as_each_alone(loaded):
    model, processor = loaded
    rows = [
        Continuation(TEXT + " Look." * row, image, tuple(range(10, 10 + 3 * row)), (20, 30, 40))
        for row, image in enumerate(tiny_pictures(3))
    ]
    found = TransformersEngine(model, processor).log_probabilities(rows)
    for row, scores in zip(rows, found, strict=True):
        expected = next_token(model, processor, render(processor, row.text), list(row.prefix), row.image)
        assert scores == pytest.approx(expected[list(row.candidates)].tolist(), abs=1e-4)


def test_several_completions_are_about_the_image_of_their_row(loaded):
    """A greedy completion does not depend on how many are asked for, or about which other images."""
    model, processor = loaded
    engine, images = TransformersEngine(model, processor), tiny_pictures(3)
    options = {"temperature": 0.0, "max_tokens": 6, "seed": 0}
    many = engine.generate([TEXT] * 3, images, n=2, **options)
    alone = [engine.generate([TEXT], [image], n=1, **options)[0] for image in images]
    assert many == [row * 2 for row in alone]


def test_what_stands_for_an_image_is_never_written(loaded):
    model, processor = loaded
    made = processor(text=[render(processor, TEXT)], images=[tiny_pictures(1)], return_tensors="pt")
    assert model.config.image_token_id in made["input_ids"]
    assert model.config.image_token_id in image_token_ids(processor)

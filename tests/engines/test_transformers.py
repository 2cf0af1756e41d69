"""The Transformers engine: it writes no image tokens, and draws from a stream of its own."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.engines.opening import open_engine
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions


@pytest.fixture(scope="module")
def eager(tiny_model_dir):
    """A tiny model whose favourite token stands for an image patch."""
    processor = AutoProcessor.from_pretrained(tiny_model_dir, padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    head = model.get_output_embeddings()
    favourite = torch.zeros(head.weight.shape[0])
    favourite[processor.image_token_id] = 50.0
    head.bias = torch.nn.Parameter(favourite)
    return model, processor


@pytest.mark.parametrize(("temperature", "n"), [(0.0, 1), (1.0, 3)])
def test_image_tokens_are_never_written(eager, training_rows, temperature, n):
    model, processor = eager
    engine = TransformersEngine(model, processor)
    options = PredictionOptions(num_completions=n, temperature=temperature, max_tokens=4)
    seen = []
    decode = processor.tokenizer.batch_decode
    try:
        processor.tokenizer.batch_decode = lambda ids, **options: seen.append(ids) or decode(ids, **options)
        predictions = predict_emotions(engine, training_rows, "test", options, progress=False)
    finally:
        del processor.tokenizer.batch_decode
    assert len(predictions) == n * len(training_rows)
    assert not (seen[0] == processor.image_token_id).any()


def test_sampling_follows_its_seed_and_leaves_the_global_one_alone(tiny_model_dir, training_rows):
    with open_engine(tiny_model_dir, engine="transformers", dtype="float32") as engine:
        options = PredictionOptions(temperature=1.0, max_tokens=8)
        state = torch.random.get_rng_state()
        first, again, other = (
            [
                p.completion
                for p in predict_emotions(engine, training_rows, "test", replace(options, seed=seed), progress=False)
            ]
            for seed in (1, 1, 2)
        )
        assert torch.equal(state, torch.random.get_rng_state())
    assert first == again
    assert first != other

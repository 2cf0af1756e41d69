"""The engine on transformers: the model's own distribution, without image tokens, from a stream of its own."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from tiny_model import tiny_pictures
from training import tiny_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.engines.engine import Question
from emor3_trl.engines.opening import open_engine
from emor3_trl.engines.transformers import TransformersEngine, plain_generation
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions

LEAKS = [
    {"no_repeat_ngram_size": 1},
    {"suppress_tokens": list(range(500))},
    {"begin_suppress_tokens": list(range(100, 500))},
    {"repetition_penalty": 5.0},
    {"bad_words_ids": [[token] for token in range(100, 500)]},
    {"forced_eos_token_id": 0},
    {"min_new_tokens": 7},
    {"exponential_decay_length_penalty": [2, 1.5]},
    {"sequence_bias": [[[200], 50.0]]},
    {"do_sample": True, "top_k": 2, "temperature": 0.5},
    {"num_beams": 3},
]


def leak(model_dir, folder, options):
    """Copy a model, with more in its `generation_config.json`."""
    shutil.copytree(model_dir, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    return folder


def use(folder):
    """Return what a model writes greedily, what it samples, and what it chooses."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    engine = TransformersEngine(model, AutoProcessor.from_pretrained(folder))
    images = tiny_pictures(2)
    texts = ["which emotion?", "what is it?"]
    questions = [Question(text, ("awe", "fear", "anger"), image) for text, image in zip(texts, images, strict=True)]
    options = {"max_tokens": 8, "seed": 3}
    return (
        engine.generate(texts, images, n=1, temperature=0.0, **options),
        engine.generate(texts, images, n=2, temperature=1.0, **options),
        engine.choose(questions)[0],
    )


@pytest.mark.parametrize("options", LEAKS, ids=lambda options: next(iter(options)))
def test_a_checkpoint_s_generation_config_does_not_change_what_is_written(tiny_model_dir, tmp_path, options):
    assert use(leak(tiny_model_dir, tmp_path / "leaking", options)) == use(tiny_model_dir)


def test_a_checkpoint_s_generation_config_does_not_change_training(tiny_model_dir, tmp_path):
    weights = []
    leaking = leak(tiny_model_dir, tmp_path / "leaking", LEAKS[0] | LEAKS[2])
    for number, folder in enumerate((tiny_model_dir, leaking)):
        trainer = tiny_trainer(folder, tmp_path / str(number), use_vllm=False, max_steps=1)
        own = trainer.model.generation_config
        trainer.train()
        assert trainer.model.generation_config is own  # it is saved as it came
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_the_tokens_that_end_a_text_are_kept(tiny_model_dir):
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model.generation_config.eos_token_id = [7, 9]
    with plain_generation(model):
        assert model.generation_config.eos_token_id == [7, 9]


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


@pytest.mark.parametrize("absent", [0, 1])
def test_a_row_without_an_image_never_hides_the_image_of_another(tiny_model_dir, absent):
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir)
    engine = TransformersEngine(model, AutoProcessor.from_pretrained(tiny_model_dir))
    images = [None if row == absent else picture for row, picture in enumerate(tiny_pictures(2))]
    with pytest.raises(TypeError, match="NoneType"):
        engine.generate(["What?"] * 2, images, n=1, temperature=0.0, max_tokens=2, seed=0)

"""The vLLM engine: the same answers as the Transformers engine, whatever it did before, alone or shared by ranks."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from answering import AnswersEveryOther
from datasets import concatenate_datasets
from tiny_model import gold_completion, tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.context_length import prompt_lengths
from emor3_trl.emotions import EMOSET_8, EMOTION6, WEBEMO_7
from emor3_trl.engines.choices import QuestionEncoder
from emor3_trl.engines.engine import ChoiceCost, Question
from emor3_trl.engines.opening import load_engine, open_engine
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.engines.vllm import VLLMEngine
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions
from emor3_trl.reflection import Reflection, Reflector

LABELS = EMOSET_8.labels


def questions_of_every_kind() -> list[Question]:
    texts = ["A dog runs on the beach.", "Rain.", "A child laughs at a red balloon in the park.", "x" * 40]
    result = []
    for index, text in enumerate(texts):
        for picture in tiny_pictures(3):
            result.append(Question(f"{text}\n\nCan the text above describe the image?", ("Yes", "No"), picture))
        for space in (EMOSET_8, EMOTION6, WEBEMO_7):
            result.append(Question(f"{text} Which emotion?", space.labels))
        result.append(Question(f"{text} Which word?", ("joy", "joyful", "joyfully", "calm")[: 2 + index % 3]))
    return result


def test_vllm_and_transformers_give_the_same_answers(tiny_model_dir):
    processor = AutoProcessor.from_pretrained(tiny_model_dir)
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():  # A random model's logits are nearly flat; sharpen them so that choices differ by question.
        model.get_input_embeddings().weight.mul_(20)
    folder = tiny_model_dir.parent / (tiny_model_dir.name + "-sharp")
    model.generation_config.repetition_penalty = 1.3  # as some checkpoints ship it; a choice must not be punished
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    questions = questions_of_every_kind()
    ours, _ = TransformersEngine(model, processor, batch_size=5).choose(questions)
    llm = load_engine(str(folder), max_model_len=512)
    theirs, cost = VLLMEngine(llm, processor).choose(questions)
    assert ours == theirs
    assert len(set(ours)) > 4, "the questions are too easy to tell engines apart"
    assert cost.requests == len(questions)
    deepest = sum(QuestionEncoder(processor).tree(question.choices).depth for question in questions)
    assert len(questions) <= cost.generated_tokens <= deepest
    # Weighed in the same number of tokens, the answers are the same, and the probabilities of both engines
    weighed, weighing = VLLMEngine(llm, processor).weigh(questions)
    expected, _ = TransformersEngine(model, processor, batch_size=5).weigh(questions)
    assert [answer.answer for answer in weighed] == theirs
    assert [answer.exact for answer in weighed] == [answer.exact for answer in expected]
    assert weighing.generated_tokens == cost.generated_tokens
    for one, other in zip(weighed, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert sum(one.probabilities) == pytest.approx(1)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("own", [["\\boxed{awe}"], [gold_completion("awe")]], ids=["none-of-its-own", "some"])
def test_ranks_that_share_an_engine_ask_the_same_and_keep_their_own_answers(tiny_model_dir, monkeypatch, rank, own):
    asked: list[str] = []
    others = [Question("anything", ("No", "Yes"))]

    def gather(everyones, questions, group):
        everyones[:] = [questions, others] if rank == 0 else [others, questions]

    def choose(self, questions):
        asked.extend(question.text for question in questions)
        return [question.choices[0] for question in questions], ChoiceCost(requests=len(questions))

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: rank)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(VLLMEngine, "_choose", choose)
    engine = VLLMEngine(None, AutoProcessor.from_pretrained(tiny_model_dir), group="tensor parallel")
    (reflection,) = Reflector(engine).reflect([tiny_pictures(1)[0]], own, ["emoset_8"])
    assert "anything" in asked
    assert reflection == (Reflection("Yes", LABELS[0]) if "step1" in own[0] else Reflection())
    assert len(asked) == (3 if "step1" in own[0] else 1)


@pytest.mark.slow
def test_both_engines_write_the_same_greedy_completions(tiny_model_dir, training_rows):
    written = {}
    options = PredictionOptions(max_tokens=12, batch_size=3, score_labels=True)
    for name in ("vllm", "transformers"):
        with open_engine(tiny_model_dir, engine=name, dtype="float32", max_tokens=12) as engine:
            # Half of the completions are replaced by one that answers, so that there is an answer to score
            answering = AnswersEveryOther(engine)
            written[name] = predict_emotions(answering, training_rows, "test", options, progress=False)
        assert any(prediction.label_probabilities for prediction in written[name])
    for one, other in zip(written["vllm"], written["transformers"], strict=True):
        assert one.label_probabilities == pytest.approx(other.label_probabilities, abs=1e-5)
        assert replace(one, label_probabilities=None) == replace(other, label_probabilities=None)


def engine_that(generate, calls):
    """Return what stands for a `vllm.LLM`: it generates so, and notes which caches it is told to forget."""
    engine = SimpleNamespace(reset_encoder_cache=lambda: calls.append("encoder"))
    return SimpleNamespace(generate=generate, reset_prefix_cache=lambda: calls.append("prefix"), llm_engine=engine)


def test_no_batch_finds_what_an_earlier_one_left_in_the_engine(monkeypatch, training_rows):
    """A stopped evaluation that goes on has another past, and must not have other numbers."""
    calls: list[str] = []

    def generate(prompts, params, use_tqdm):
        calls.append("generate")
        output = SimpleNamespace(text="", token_ids=[1], finish_reason="stop")
        return [SimpleNamespace(outputs=[output]) for _ in prompts]

    monkeypatch.setattr(QuestionEncoder, "trusted_ids", lambda self, text: [1])
    engine = VLLMEngine(engine_that(generate, calls), SimpleNamespace())
    predict_emotions(engine, training_rows, "t", PredictionOptions(batch_size=4, reflect=False), progress=False)
    assert calls == ["prefix", "encoder", "generate"] * 2


def test_no_two_completions_share_a_stream_of_random_numbers(monkeypatch, training_rows):
    """The n completions of a request of vLLM have the seeds from its own upwards."""
    seeds: list[int] = []

    def generate(prompts, params, use_tqdm):
        seeds.extend(each.seed + child for each in params for child in range(each.n))
        outputs = [SimpleNamespace(text="", token_ids=[1], finish_reason="stop")] * params[0].n
        return [SimpleNamespace(outputs=outputs) for _ in prompts]

    monkeypatch.setattr(QuestionEncoder, "trusted_ids", lambda self, text: [1])
    engine = VLLMEngine(engine_that(generate, []), SimpleNamespace())
    for seed in (1, 2):
        options = PredictionOptions(num_completions=4, temperature=1.0, seed=seed, batch_size=3, reflect=False)
        predict_emotions(engine, training_rows, "t", options, progress=False)
    assert len(seeds) == len(set(seeds)) == 2 * 4 * len(training_rows)


@pytest.mark.slow
def test_vllm_draws_with_seeds_for_more_prompts_than_one_step_takes(tiny_model_dir, training_rows):
    rows = concatenate_datasets([training_rows] * 20)
    with open_engine(tiny_model_dir, engine="vllm", dtype="float32", max_tokens=4) as engine:
        prompts = sum(prompt_lengths(training_rows, engine.processor)) * 20
        assert prompts > engine.llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
        options = PredictionOptions(temperature=1.0, max_tokens=4, batch_size=len(rows), reflect=False)
        drawn = [
            predict_emotions(engine, rows, "test", replace(options, seed=seed), progress=False) for seed in (1, 1, 2)
        ]
    first, again, other = ([prediction.completion for prediction in row] for row in drawn)
    assert first == again != other

"""Predictions: scoring of completions, the two generators, and files."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from datasets import concatenate_datasets
from tiny_model import gold_completion
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.checkpoints import check_checkpoint, check_fit, fingerprint, whole_checkpoint
from emor3_trl.context_length import prompt_lengths
from emor3_trl.engines.engine import ChoiceCost, Completion, Question
from emor3_trl.engines.opening import compute_dtype, open_engine, resolve_engine
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.engines.vllm import VLLMEngine
from emor3_trl.evaluation.arguments import EvaluationArguments, in_domain_of, named_models, named_splits
from emor3_trl.evaluation.prediction import load_predictions, predict, read, save_predictions

LABELS = ["awe", "fear", "joy"]


class ScriptedEngine:
    """Writes given completions and answers every reflection question with its first choice."""

    group = None

    def __init__(self, completions: list[str]) -> None:
        self.completions = list(completions)
        self.asked: list[Question] = []

    def generate(self, texts, images, *, n, temperature, max_tokens, seed):
        written = [[self.completions.pop(0) for _ in range(n)] for _ in texts]
        return [[Completion(text, len(text.split()), finished=True) for text in row] for row in written]

    def choose(self, questions):
        self.asked += questions
        return [question.choices[0] for question in questions], ChoiceCost(requests=len(questions))


class AnswersEveryOther:
    """An engine whose every other completion is one that answers."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.processor, self.group, self.choose = engine.processor, engine.group, engine.choose
        self.log_probabilities = engine.log_probabilities

    def generate(self, texts, images, **options):
        written = self.engine.generate(texts, images, **options)
        answers = [[Completion(gold_completion("fear"), 40, finished=True)] for _ in written]
        return [answers[row] if row % 2 else written[row] for row in range(len(written))]


@pytest.mark.parametrize(
    ("style", "completion", "answer", "well_formed", "correct"),
    [
        pytest.param("set", gold_completion("awe"), "awe", True, True, id="gold"),
        pytest.param("set", gold_completion("Fear."), "fear", True, False, id="wrong-label"),
        pytest.param("set", r"\boxed{awe}", "awe", False, True, id="right-without-steps"),
        pytest.param("set", gold_completion("awe or fear"), None, True, False, id="two-labels"),
        pytest.param("set", gold_completion("disgust"), None, True, False, id="outside-the-label-space"),
        pytest.param("set", gold_completion("awe") + r" \boxed{fear}", None, False, False, id="two-boxes"),
        pytest.param("set", "", None, False, False, id="empty"),
        pytest.param("set", "\n" + gold_completion("AWE") + "\n", "awe", True, True, id="white-space-and-case"),
        pytest.param("set", gold_completion(r"\text{awe}"), "awe", True, True, id="latex-text"),
        pytest.param("set", gold_completion("'awe.'"), "awe", True, True, id="quotes-and-full-stop"),
        pytest.param("set", gold_completion("**awe**"), "awe", True, True, id="emphasis"),
        pytest.param("set", gold_completion("not awe"), None, True, False, id="negated"),
        pytest.param("set", gold_completion("awesome"), None, True, False, id="longer-word"),
        pytest.param("set", gold_completion("awe, joy"), None, True, False, id="list"),
        pytest.param("set", gold_completion(""), None, False, False, id="empty-box"),
        pytest.param("set", gold_completion("awe").replace("\\boxed", "boxed"), None, False, False, id="no-backslash"),
        pytest.param("set", gold_completion("awe")[:-1], None, False, False, id="cut-off-in-the-box"),
        pytest.param("set", gold_completion("awe").replace("</step3>", ""), "awe", False, True, id="tag-left-open"),
        pytest.param("set", gold_completion("awe") + " I am sure of it.", "awe", False, True, id="text-after"),
        pytest.param("set", "Well: " + gold_completion("awe"), "awe", False, True, id="text-before"),
        pytest.param("set", gold_completion("awe") * 2, "awe", False, True, id="said-twice"),
        pytest.param("set", gold_completion(r"\boxed{awe}"), None, False, False, id="box-in-a-box"),
        pytest.param("direct", r"\boxed{awe}", "awe", True, True, id="direct"),
        pytest.param("direct", r"It is \boxed{Joy}!", "joy", True, False, id="direct-wrong"),
        pytest.param("direct", r"\boxed{awe} or \boxed{joy}", None, False, False, id="direct-two-boxes"),
        pytest.param("think", r"<think></think>\boxed{awe}", "awe", False, True, id="think-empty"),
        pytest.param("think", r"<think>Stars.\boxed{awe}", "awe", False, True, id="think-left-open"),
        pytest.param("direct", "awe", None, False, False, id="direct-without-box"),
        pytest.param("think", r"<think>Stars.</think>\boxed{awe}", "awe", True, True, id="think"),
        pytest.param("think", gold_completion("awe"), "awe", False, True, id="set-under-think"),
    ],
)
def test_a_completion_is_read_as_the_rewards_read_it(style, completion, answer, well_formed, correct):
    row = {"id": "7", "emotion": "awe", "label_space": LABELS}
    prediction = read(row, "test", completion, style)
    assert (prediction.answer, prediction.well_formed, prediction.correct) == (answer, well_formed, correct)
    assert (prediction.trigger is not None) == (style == "set" and well_formed)


def test_predict_keeps_order_batches_and_samples(training_rows):
    rows = training_rows.select(range(3))
    texts = [gold_completion(row["emotion"]) if i else "malformed" for i, row in enumerate(rows) for _ in range(2)]
    engine = ScriptedEngine(texts)
    predictions = predict(engine, rows, "test", n=2, temperature=1.0, batch_size=2, progress=False)
    assert [(p.id, p.sample) for p in predictions] == [(str(i), s) for i in range(3) for s in range(2)]
    assert [p.correct for p in predictions] == [False, False, True, True, True, True]
    assert [p.consistency_answer for p in predictions] == [None, None, "Yes", "Yes", "Yes", "Yes"]
    assert {p.temperature for p in predictions} == {1.0}


def test_only_the_structured_prompt_is_reflected_upon(training_rows):
    engine = ScriptedEngine([r"\boxed{awe}"] * len(training_rows))
    predict(engine, training_rows, "test", prompt_style="direct", progress=False)
    assert engine.asked == []


def test_predictions_survive_their_file(tmp_path, training_rows):
    engine = ScriptedEngine([gold_completion("awe"), "caf\u00e9 \U0001f600 \\boxed{", "", "x"] * 2)
    predictions = predict(engine, training_rows, "test", progress=False)
    save_predictions(predictions, tmp_path / "a" / "predictions.parquet")
    assert load_predictions(tmp_path / "a" / "predictions.parquet") == predictions
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["predictions.parquet"]
    with pytest.raises(FileNotFoundError, match=r"evaluate\.py"):
        load_predictions(tmp_path / "none.parquet")


@pytest.mark.parametrize("torn", [b"", b'[{"id": "4", "da'])
def test_a_stopped_prediction_goes_on_where_it_was(tmp_path, training_rows, torn, capsys):
    texts = [
        gold_completion(row["emotion"]) if index % 3 else "caf\u00e9 \u2028" for index, row in enumerate(training_rows)
    ]
    whole = predict(ScriptedEngine(texts), training_rows, "test", batch_size=3, progress=False)
    journal = tmp_path / "unfinished" / "test.jsonl"
    with pytest.raises(IndexError):  # the script ends after the first batch, as a kill would
        predict(ScriptedEngine(texts[:3]), training_rows, "test", batch_size=3, progress=False, journal=journal)
    with journal.open("ab") as file:
        file.write(torn)
    rest = ScriptedEngine(texts[3:])
    resumed = predict(rest, training_rows, "test", batch_size=3, progress=False, journal=journal)
    assert resumed == whole
    assert rest.completions == []
    again = predict(ScriptedEngine([]), training_rows, "test", batch_size=3, journal=journal)
    assert again == whole
    right = sum(prediction.correct for prediction in whole) / len(whole)
    assert f"8/8 [00:00<?, ?picture/s, accuracy={right:.3f}" in capsys.readouterr().err


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
    seen = []
    decode = processor.tokenizer.batch_decode
    try:
        processor.tokenizer.batch_decode = lambda ids, **options: seen.append(ids) or decode(ids, **options)
        predictions = predict(engine, training_rows, "test", n=n, temperature=temperature, max_tokens=4, progress=False)
    finally:
        del processor.tokenizer.batch_decode
    assert len(predictions) == n * len(training_rows)
    assert not (seen[0] == processor.image_token_id).any()


def test_sampling_follows_its_seed_and_leaves_the_global_one_alone(tiny_model_dir, training_rows):
    with open_engine(tiny_model_dir, engine="transformers", dtype="float32") as engine:
        state = torch.random.get_rng_state()
        first, again, other = (
            [
                p.completion
                for p in predict(
                    engine, training_rows, "test", temperature=1.0, max_tokens=8, seed=seed, progress=False
                )
            ]
            for seed in (1, 1, 2)
        )
        assert torch.equal(state, torch.random.get_rng_state())
    assert first == again
    assert first != other


@pytest.mark.slow
def test_both_engines_write_the_same_greedy_completions(tiny_model_dir, training_rows):
    written = {}
    for engine in ("vllm", "transformers"):
        with open_engine(tiny_model_dir, engine=engine, dtype="float32", max_tokens=12) as engine:
            # Half of the completions are replaced by one that answers, so that there is an answer to score
            answering = AnswersEveryOther(engine)
            written[engine] = predict(
                answering, training_rows, "test", max_tokens=12, batch_size=3, score_labels=True, progress=False
            )
        assert any(prediction.label_probabilities for prediction in written[engine])
    for one, other in zip(written["vllm"], written["transformers"], strict=True):
        assert one.label_probabilities == pytest.approx(other.label_probabilities, abs=1e-5)
        assert replace(one, label_probabilities=None) == replace(other, label_probabilities=None)


def test_a_checkpoint_is_checked_before_it_is_loaded(tmp_path, tiny_model_dir):
    check_checkpoint(tiny_model_dir)
    check_checkpoint("Qwen/Qwen2.5-VL-3B-Instruct")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"lacks tokenizer_config\.json"):
        check_checkpoint(tmp_path / "empty")
    for missing in ("runs/nothing", str(tmp_path / "nothing"), "./nothing", "nothing"):
        with pytest.raises(FileNotFoundError, match="no model at"):
            check_checkpoint(missing)


def test_the_fingerprint_is_that_of_weights_not_of_notes(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(300_000))
    before = fingerprint(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    assert fingerprint(tmp_path) == before
    changed = bytearray(300_000)
    changed[200_000] = 1
    (tmp_path / "model.safetensors").write_bytes(changed)
    assert fingerprint(tmp_path) != before
    assert fingerprint("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"


def test_a_lora_adapter_is_evaluated_merged(tmp_path, tiny_model_dir):
    from peft import LoraConfig, get_peft_model

    base = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    check_checkpoint(tmp_path)
    check_fit(tmp_path)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    with whole_checkpoint(tmp_path) as folder:
        whole = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()[name]
    expected = adapted.merge_and_unload().state_dict()[name]
    original = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32).state_dict()[name]
    assert torch.allclose(whole, expected)
    assert not torch.allclose(whole, original)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resolve_engine("vlm"), "Unknown engine 'vlm'. Expected one of auto, vllm, transformers"),
        (lambda: compute_dtype("fp8"), "Unknown dtype 'fp8'"),
        (lambda: named_models([]), "--models names nothing"),
        (lambda: named_models(["a=x", "a=y"]), "distinct names"),
        (lambda: named_models(["x/a", "y/a"]), "write name=path"),
        (lambda: named_models([".."]), "none of them '.' or '..'"),
        (lambda: named_splits(["test", "test"], "data"), "distinct names"),
        (lambda: named_splits(["test"], ["x/a", "y/a"]), "write name=folder/split"),
        (lambda: named_splits(["mean"], "data"), "called 'mean'"),
        (lambda: in_domain_of(["a", "b"], ["c"]), "--in_domain names c. Expected some of a, b"),
        (lambda: EvaluationArguments(["m"], ["d"], "o", max_tokens=0), "max_tokens is 0"),
        (lambda: EvaluationArguments(["m"], ["d"], "o", sampled=-1), "sampled is -1"),
        (lambda: EvaluationArguments(["m"], ["d"], "o", temperature=0), "temperature is 0"),
        (lambda: EvaluationArguments(["m"], ["d"], "o", report_to=["wandv"]), "'none' or 'wandb'"),
    ],
)
def test_a_users_mistake_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_vllm_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert resolve_engine("auto") == "transformers"
    with pytest.raises(ModuleNotFoundError, match="--engine transformers"):
        resolve_engine("vllm")


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

    monkeypatch.setattr("emor3_trl.engines.vllm.render", lambda processor, text: text)
    engine = VLLMEngine(engine_that(generate, calls), SimpleNamespace())
    predict(engine, training_rows, "t", batch_size=4, reflect=False, progress=False)
    assert calls == ["prefix", "encoder", "generate"] * 2


def test_no_two_completions_share_a_stream_of_random_numbers(monkeypatch, training_rows):
    """The n completions of a request of vLLM have the seeds from its own upwards."""
    seeds: list[int] = []

    def generate(prompts, params, use_tqdm):
        seeds.extend(each.seed + child for each in params for child in range(each.n))
        outputs = [SimpleNamespace(text="", token_ids=[1], finish_reason="stop")] * params[0].n
        return [SimpleNamespace(outputs=outputs) for _ in prompts]

    monkeypatch.setattr("emor3_trl.engines.vllm.render", lambda processor, text: text)
    engine = VLLMEngine(engine_that(generate, []), SimpleNamespace())
    for seed in (1, 2):
        options = {"n": 4, "temperature": 1.0, "seed": seed, "batch_size": 3}
        predict(engine, training_rows, "t", reflect=False, progress=False, **options)
    assert len(seeds) == len(set(seeds)) == 2 * 4 * len(training_rows)


@pytest.mark.slow
def test_vllm_draws_with_seeds_for_more_prompts_than_one_step_takes(tiny_model_dir, training_rows):
    rows = concatenate_datasets([training_rows] * 20)
    with open_engine(tiny_model_dir, engine="vllm", dtype="float32", max_tokens=4) as engine:
        prompts = sum(prompt_lengths(training_rows, engine.processor)) * 20
        assert prompts > engine.llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
        options = {"temperature": 1.0, "max_tokens": 4, "batch_size": len(rows), "reflect": False, "progress": False}
        drawn = [predict(engine, rows, "test", seed=seed, **options) for seed in (1, 1, 2)]
    first, again, other = ([prediction.completion for prediction in row] for row in drawn)
    assert first == again != other

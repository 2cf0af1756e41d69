"""Cases: what a completion earns by the rewards of its model's training, which are drawn, and how long they may be."""

import operator
import shutil

import pytest
import yaml
from tiny_model import gold_completion

from emor3_trl.evaluation.prediction import load_predictions, read_completion, save_predictions
from emor3_trl.files import write_text
from emor3_trl.reflection import Reflection
from emor3_trl.report.evaluated import load_evaluations
from emor3_trl.report.page import gather_content
from emor3_trl.report.page.cases import MAX_CHARACTERS, make_cases


def test_a_perfect_completion_earns_everything(run, page):
    for case in page["cases"]:
        for own in case["models"]:
            parts = dict(zip(("accuracy", "consistency", "coherence", "format"), own["rewards"], strict=True))
            assert parts["accuracy"] == own["correct"]
            assert parts["format"] == own["wellFormed"] == ("steps" in own)
            weighted = (
                0.8 * parts["accuracy"] + 0.05 * (parts["consistency"] + parts["coherence"]) + 0.1 * parts["format"]
            )
            assert own["overall"] == pytest.approx(weighted)
    assert any(own["overall"] == 1 for case in page["cases"] for own in case["models"])


def test_rewards_fit_how_the_model_was_asked(own_run):
    row = {"id": "test-x", "emotion": "awe", "label_space": ["awe", "fear"]}
    folders = [own_run / "evaluation" / name for name in ("base", "cold_start", "emo_r3")]
    texts = [("think", r"<think>Wide.</think>\boxed{awe}"), ("direct", r"\boxed{awe}"), ("set", gold_completion("awe"))]
    for folder, (style, text) in zip(folders, texts, strict=True):
        (folder / "config.yaml").write_text(f"prompt_style: {style}\n")
        save_predictions([read_completion(row, "test", text, style, Reflection())], folder / "predictions.parquet")
    shutil.rmtree(own_run / "evaluation" / "emo_r3_cold_start")
    page = gather_content(load_evaluations([own_run]), title="runs")
    assert [[part["name"] for part in model["rewards"]] for model in page["models"]] == [
        ["accuracy", "format"],
        ["accuracy"],
        ["accuracy", "consistency", "coherence", "format"],
    ]
    think, direct, unasked = page["cases"][0]["models"]
    assert think["overall"] == direct["overall"] == 1
    assert unasked["rewards"] == [1, None, None, 1]  # evaluated without reflection: unknown, not 0
    assert unasked["overall"] is None


def test_more_cases_than_fit_are_drawn_and_counted(run, sizes):
    evaluations = load_evaluations([run])
    cases, total = make_cases(evaluations, list(sizes), limit=10)
    assert (len(cases), total) == (10, 27)
    assert cases == make_cases(evaluations, list(sizes), limit=10)[0]
    assert all(None not in case["models"] for case in cases)


def test_an_endless_completion_is_cut(own_run, sizes):
    folder = own_run / "evaluation" / "base"
    rows = load_predictions(folder / "predictions.parquet")
    long = read_completion(
        {"id": rows[0].id, "emotion": rows[0].emotion, "label_space": rows[0].label_space}, "test", "x" * 10_000
    )
    save_predictions([long, *rows[1:]], folder / "predictions.parquet")
    case = make_cases(load_evaluations([own_run]), list(sizes), limit=1_000)[0][0]
    assert len(case["models"][0]["text"]) < MAX_CHARACTERS + 50
    assert case["models"][0]["text"].endswith("(6,000 more characters)")


PAPER = {"accuracy": 0.8, "consistency": 0.05, "coherence": 0.05, "format": 0.1}
DEFAULT = "the paper's defaults: no training with such rewards is known"
TRAINED = {"reward_variant": "paper", "lambda1": 0.3, "lambda2": 0.2}


def weights(model):
    return {part["name"]: part["weight"] for part in model["rewards"]}


def evaluate_elsewhere(folder, name, model):
    """Make the evaluation `name` one of the model at another path."""
    (folder / "evaluation" / "emo_r3").rename(folder / "evaluation" / name)
    config = folder / "evaluation" / name / "config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"model": str(model)}))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        pytest.param("emo_r3", "emo_r3", id="its folder among the runs"),
        pytest.param("mine", "elsewhere/run", id="the evaluated checkpoint"),
        pytest.param("mine", "elsewhere/run/merged", id="its merged adapter"),
        pytest.param("mine", "elsewhere/run/checkpoint-40", id="one of its checkpoints"),
    ],
)
def test_completions_are_weighed_as_the_training_of_their_model_did(own_run, name, place):
    model = own_run / place
    evaluate_elsewhere(own_run, name, model)
    training = model.parent if model.name in ("merged", "checkpoint-40") else model
    write_text(training / "config.yaml", yaml.safe_dump({"learning_rate": 2e-6, **TRAINED}))
    model.mkdir(exist_ok=True)
    page = gather_content(load_evaluations([own_run]), title="runs")
    models = {model["name"]: index for index, model in enumerate(page["models"])}
    trained, base = page["models"][models[name]], page["models"][models["base"]]
    assert weights(trained) == {"accuracy": 0.5, "consistency": 0.15, "coherence": 0.15, "format": 0.2}
    assert weights(base) == PAPER
    assert trained["about"]["rewards"] == "as in its training: paper, λ₁ = 0.3, λ₂ = 0.2"
    assert base["about"]["rewards"] == DEFAULT
    for case in page["cases"]:
        own = case["models"][models[name]]
        assert own["overall"] == pytest.approx(sum(map(operator.mul, own["rewards"], weights(trained).values())))


def test_completions_are_rewarded_by_the_variant_that_their_model_was_trained_with(own_run):
    write_text(own_run / "emo_r3" / "config.yaml", yaml.safe_dump(TRAINED | {"reward_variant": "reference"}))
    row = {"id": "test-x", "emotion": "awe", "label_space": ["awe", "fear"]}
    loose = gold_completion("awe") + " or so"  # well formed to the reference, and not to the paper
    for name in ("base", "emo_r3"):
        save_predictions([read_completion(row, "test", loose)], own_run / "evaluation" / name / "predictions.parquet")
    for name in ("cold_start", "emo_r3_cold_start"):
        shutil.rmtree(own_run / "evaluation" / name)
    page = gather_content(load_evaluations([own_run]), title="runs")
    base, trained = page["cases"][0]["models"]
    assert (base["rewards"], base["overall"]) == ([1, 0, 0, 0], 0.8)
    assert weights(page["models"][1]) == {"accuracy": 0.5, "consistency": 0.3, "coherence": 0.3, "format": 0.2}
    assert (trained["rewards"], trained["overall"]) == ([1, 0, 0.5, 1], 0.85)  # what was not asked is half right there


def test_switches_of_the_training_are_told_and_left_out(own_run):
    """An evaluation asks the paper's questions, so what the page computes is not what a switched training earned."""
    switched = TRAINED | {"soft_reflection": "raw", "contrastive_consistency": True}
    write_text(own_run / "emo_r3" / "config.yaml", yaml.safe_dump(switched))
    page = gather_content(load_evaluations([own_run]), title="runs")
    told = [model["about"]["rewards"] for model in page["models"]]
    (text,) = [text for text in told if "soft_reflection" in text]
    assert text.endswith("; but by the paper's questions and answers, without its soft_reflection raw, "
                         "contrastive_consistency")  # fmt: skip


@pytest.mark.parametrize(
    ("style", "variant", "expected"),
    [
        pytest.param("think", "plain", ({"accuracy": 0.8, "format": 0.2}, "as in its training: plain, λ₂ = 0.2")),
        pytest.param("think", "paper", ({"accuracy": 0.9, "format": 0.1}, DEFAULT)),
        pytest.param("set", "plain", (PAPER, DEFAULT)),
        pytest.param("direct", "paper", ({"accuracy": 1}, "accuracy alone: only the answer was asked for")),
    ],
)
def test_rewards_of_training_count_where_they_fit_how_the_model_was_asked(own_run, style, variant, expected):
    write_text(own_run / "emo_r3" / "config.yaml", yaml.safe_dump(TRAINED | {"reward_variant": variant}))
    write_text(own_run / "evaluation" / "emo_r3" / "config.yaml", f"prompt_style: {style}\n")
    page = gather_content(load_evaluations([own_run]), title="runs")
    model = next(model for model in page["models"] if model["name"] == "emo_r3")
    assert (weights(model), model["about"]["rewards"]) == expected


NAMED = {"rewards": ["accuracy", "coherence", "no/such/own.py:brief"], "reward_weights": [0.7, 0.2, 0.1]}


def test_named_rewards_are_weighed_and_those_of_the_user_are_named_but_not_run(own_run):
    config = {"reward_variant": "paper", "lambda1": 0.1, "lambda2": 0.1} | NAMED
    write_text(own_run / "emo_r3" / "config.yaml", yaml.safe_dump(config))
    page = gather_content(load_evaluations([own_run]), title="runs")
    index, model = next((place, one) for place, one in enumerate(page["models"]) if one["name"] == "emo_r3")
    assert model["rewards"] == [
        {"name": "accuracy", "weight": 0.7},
        {"name": "coherence", "weight": 0.2},
        {"name": "brief", "weight": 0.1, "own": True},
    ]
    assert model["about"]["rewards"] == (
        "as in its training: 0.7 accuracy + 0.2 coherence + 0.1 brief; not computed again, because a report runs no "
        "file of a run: no/such/own.py:brief"
    )
    for case in page["cases"]:
        accuracy, _, brief = case["models"][index]["rewards"]
        assert accuracy == case["models"][index]["correct"]
        assert brief is case["models"][index]["overall"] is None  # unknown, not 0


@pytest.mark.parametrize(
    ("style", "names", "expected"),
    [
        pytest.param("set", ["accuracy", "consistency"], {"accuracy": 1, "consistency": 1}, id="each counts 1"),
        pytest.param("think", ["accuracy", "think_format"], {"accuracy": 1, "format": 1}, id="think"),
        pytest.param("think", ["accuracy"], {"accuracy": 1}, id="accuracy fits any"),
        pytest.param("think", ["accuracy", "format"], {"accuracy": 0.9, "format": 0.1}, id="trained otherwise"),
        pytest.param("set", ["accuracy", "think_format"], PAPER, id="asked otherwise"),
    ],
)
def test_named_rewards_count_where_they_fit_how_the_model_was_asked(own_run, style, names, expected):
    write_text(own_run / "emo_r3" / "config.yaml", yaml.safe_dump(TRAINED | {"rewards": names}))
    write_text(own_run / "evaluation" / "emo_r3" / "config.yaml", f"prompt_style: {style}\n")
    page = gather_content(load_evaluations([own_run]), title="runs")
    index, model = next((place, one) for place, one in enumerate(page["models"]) if one["name"] == "emo_r3")
    assert weights(model) == expected
    assert model["about"]["rewards"].startswith("as in its training: 1 acc") is (1 in expected.values())
    for own in (case["models"][index] for case in page["cases"]):
        if None not in own["rewards"]:
            assert own["overall"] == pytest.approx(sum(map(operator.mul, own["rewards"], expected.values())))


def test_a_reward_of_no_weight_need_not_be_known(own_run):
    write_text(own_run / "emo_r3" / "config.yaml", yaml.safe_dump(TRAINED | {"lambda1": 0.0}))
    row = {"id": "test-x", "emotion": "awe", "label_space": ["awe", "fear"]}
    wordless = gold_completion("awe").replace("A wide night sky above a small tent.", "…")
    rows = [read_completion(row, "test", gold_completion("awe")), read_completion(row | {"id": "y"}, "test", wordless)]
    for name in ("base", "emo_r3"):
        save_predictions(rows, own_run / "evaluation" / name / "predictions.parquet")
    for name in ("cold_start", "emo_r3_cold_start"):
        shutil.rmtree(own_run / "evaluation" / name)
    cases = gather_content(load_evaluations([own_run]), title="runs")["cases"]
    earned = [(completion["rewards"], completion["overall"]) for case in cases for completion in case["models"]]
    # Evaluated without reflection. Nothing is ever asked about a step 1 without a word: that earns 0.
    assert earned[:2] == [([1, None, None, 1], None), ([1, None, None, 1], 1)]
    assert earned[2:] == [([1, 0, 0, 1], 0.9), ([1, 0, 0, 1], 1)]


def test_a_configuration_of_training_that_cannot_be_read_is_named(own_run):
    write_text(own_run / "emo_r3" / "config.yaml", "a: [")
    with pytest.raises(ValueError, match=r"emo_r3/config\.yaml' cannot be read"):
        load_evaluations([own_run])

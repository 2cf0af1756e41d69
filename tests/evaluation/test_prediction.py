"""Predictions: what is read from completions, what is asked about them, and their files."""

from pathlib import Path

import pytest
from tiny_model import gold_completion

from emor3_trl.engines.engine import ChoiceCost, Completion, Question
from emor3_trl.evaluation.journal import append_to_journal, read_journal
from emor3_trl.evaluation.prediction import (
    PredictionOptions,
    load_predictions,
    predict_emotions,
    read_completion,
    save_predictions,
)

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
    prediction = read_completion(row, "test", completion, style)
    assert (prediction.answer, prediction.well_formed, prediction.correct) == (answer, well_formed, correct)
    assert (prediction.trigger is not None) == (style == "set" and well_formed)


def test_predict_keeps_order_batches_and_samples(training_rows):
    rows = training_rows.select(range(3))
    texts = [gold_completion(row["emotion"]) if i else "malformed" for i, row in enumerate(rows) for _ in range(2)]
    engine = ScriptedEngine(texts)
    predictions = predict_emotions(
        engine, rows, "test", PredictionOptions(num_completions=2, temperature=1.0, batch_size=2), progress=False
    )
    assert [(p.id, p.sample) for p in predictions] == [(str(i), s) for i in range(3) for s in range(2)]
    assert [p.correct for p in predictions] == [False, False, True, True, True, True]
    assert [p.consistency_answer for p in predictions] == [None, None, "Yes", "Yes", "Yes", "Yes"]
    assert {p.temperature for p in predictions} == {1.0}


def test_only_the_structured_prompt_is_reflected_upon(training_rows):
    engine = ScriptedEngine([r"\boxed{awe}"] * len(training_rows))
    predict_emotions(engine, training_rows, "test", PredictionOptions(prompt_style="direct"), progress=False)
    assert engine.asked == []


def test_predictions_survive_their_file(tmp_path, training_rows):
    engine = ScriptedEngine([gold_completion("awe"), "caf\u00e9 \U0001f600 \\boxed{", "", "x"] * 2)
    predictions = predict_emotions(engine, training_rows, "test", progress=False)
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
    options = PredictionOptions(batch_size=3)
    whole = predict_emotions(ScriptedEngine(texts), training_rows, "test", options, progress=False)
    journal = tmp_path / "unfinished" / "test.jsonl"
    with pytest.raises(IndexError):  # the script ends after the first batch, as a kill would
        predict_emotions(ScriptedEngine(texts[:3]), training_rows, "test", options, progress=False, journal=journal)
    with journal.open("ab") as file:
        file.write(torn)
    rest = ScriptedEngine(texts[3:])
    resumed = predict_emotions(rest, training_rows, "test", options, progress=False, journal=journal)
    assert resumed == whole
    assert rest.completions == []
    again = predict_emotions(ScriptedEngine([]), training_rows, "test", options, journal=journal)
    assert again == whole
    right = sum(prediction.correct for prediction in whole) / len(whole)
    assert f"8/8 [00:00<?, ?picture/s, accuracy={right:.3f}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param('[{"id": "x', r"test\.jsonl' cannot be read \(", id="no JSON"),
        pytest.param("twice", r"has row '0' as prediction 1, where the data set has '1'", id="rows of two evaluations"),
        pytest.param("too many", r"holds more than the 1 predictions of its data set", id="rows of a larger data set"),
    ],
)
def test_a_journal_of_other_rows_is_refused(tmp_path: Path, line: str, message: str) -> None:
    rows = [{"id": row_id, "emotion": "awe", "label_space": LABELS} for row_id in ("0", "1")]
    predictions = [read_completion(row, "test", "no steps") for row in rows]
    batches = {"twice": [predictions[:1], predictions[:1]], "too many": [predictions]}
    for batch in batches.get(line, []):
        append_to_journal(tmp_path / "test.jsonl", batch)
    if line not in batches:
        (tmp_path / "test.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_journal(tmp_path / "test.jsonl", ["0"] if line == "too many" else ["0", "1"])

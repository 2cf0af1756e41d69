"""Three completions to read: which are chosen, and how they are shown."""

from small_run import make_predictions

from emor3_trl.report.examples import choose_examples, format_example


def test_examples_are_right_changed_and_wrong():
    examples = choose_examples(make_predictions("base", "test"), make_predictions("emo_r3", "test"))
    assert [(example.kind, example.prediction.id) for example in examples] == [
        ("right", "test-0"),
        ("changed", "test-1"),
        ("wrong", "test-4"),
    ]
    shown = format_example(examples[1], width=60)
    assert shown.startswith("CHANGED: picture test-1 (test), emotion fear; before training the answer was joy")
    assert all(len(line) <= 60 for line in shown.splitlines()[1:])
    for part in ("trigger", "feeling", "conclusion", "answer"):
        assert f"\n  {part}" in shown


def test_examples_that_do_not_occur_are_left_out():
    rows = make_predictions("emo_r3_cold_start", "test")
    assert [example.kind for example in choose_examples(rows, rows)] == ["right"]


def test_a_malformed_completion_is_shown_as_it_is():
    (wrong,) = choose_examples([], [make_predictions("base", "test")[3]])
    assert wrong.kind == "wrong"
    assert "malformed  no steps" in format_example(wrong)

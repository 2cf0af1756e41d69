"""The table of a run folder: its numbers, its shape, and what is not there."""

import pytest
from small_run import ANSWERS, EMOTIONS

from emor3_trl.files import write_json
from emor3_trl.report.terminal import format_table, summarise_run


def test_the_summary_has_the_promised_shape(small_run):
    summary = summarise_run(small_run / "evaluation")
    assert list(summary) == ["base", "cold_start", "emo_r3", "emo_r3_cold_start"]
    for model, values in summary.items():
        assert next(iter(values)) == "in_domain"
        assert set(values) == {"in_domain", "twemoji", "openmoji"}
        right = sum(answer == emotion for answer, emotion in zip(ANSWERS[model], EMOTIONS, strict=True))
        for split in values.values():
            assert {"n", "accuracy", "low", "high", "format_rate"} <= set(split)
            assert split["n"] == 5
            assert split["accuracy"] == right / 5
            assert split["low"] < split["accuracy"] <= split["high"]
        assert values["in_domain"]["sampled_format_rate"] == 0.5
    assert summary["base"]["in_domain"]["format_rate"] == 0.8


def test_the_table_is_aligned_and_names_every_model_and_set(small_run):
    lines = format_table(summarise_run(small_run / "evaluation")).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["base", "cold start", "EMO-R3", "EMO-R3#"]
    starts = {line.index("[") for line in lines[2:]}
    assert len(starts) == 1
    assert "in-domain (n=5)" in lines[0]
    assert " 80.0 [37.6, 96.4]" in lines[4]


def test_a_model_that_lacks_a_set_leaves_a_gap(small_run):
    summary = summarise_run(small_run / "evaluation")
    del summary["cold_start"]["openmoji"]
    assert format_table(summary).splitlines()[3].rstrip().endswith("-")


def test_missing_evaluations_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Run recipes/evaluate\.py first"):
        summarise_run(tmp_path)
    write_json(tmp_path / "base" / "metrics.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="holds no eval/"):
        summarise_run(tmp_path)
    (tmp_path / "base" / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        summarise_run(tmp_path)

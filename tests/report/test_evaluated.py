"""Evaluated models as the report reads them: logs of training, and mistakes in one line."""

import shutil

import pytest

from emor3_trl.evaluation.prediction import load_predictions, read_completion, save_predictions
from emor3_trl.files import write_json
from emor3_trl.report.evaluated import load_evaluations, load_log_history
from emor3_trl.report.page import gather_content


def test_the_longest_log_of_a_run_is_read(tmp_path):
    for step in (2, 10):
        log = {"log_history": [{"step": s} for s in range(step)]}
        write_json(tmp_path / f"checkpoint-{step}" / "trainer_state.json", log)
    assert len(load_log_history(tmp_path)) == 10
    write_json(tmp_path / "log_history.json", [{"step": 1}])
    assert load_log_history(tmp_path) == [{"step": 1}]
    with pytest.raises(FileNotFoundError, match="Did its training start"):
        load_log_history(tmp_path / "nothing")


def spoil(folder, what):
    base = folder / "evaluation" / "base" / "predictions.parquet"
    rows = load_predictions(base)
    if what == "no evaluation":
        shutil.rmtree(folder / "evaluation")
    elif what == "no predictions":
        base.unlink()
    elif what == "broken predictions":
        base.write_bytes(b"PAR1 no more")
    elif what == "other columns":
        shutil.copy(folder / "data" / "test.parquet", base)
    elif what == "broken config":
        (base.parent / "config.yaml").write_text("a: [")
    elif what == "empty":
        save_predictions([], base)
    elif what == "other data set":
        save_predictions([row for row in rows if row.dataset == "webemo"], base)
        other = folder / "evaluation" / "cold_start" / "predictions.parquet"
        save_predictions([row for row in rows if row.dataset == "test"], other)
    else:
        changed = [read_completion({"id": f"z{row.id}", **labels(row)}, row.dataset, row.completion) for row in rows]
        if what == "other labels":
            changed = [read_completion({"id": row.id, **labels(row, 1)}, row.dataset, row.completion) for row in rows]
        save_predictions(changed, base)


def labels(row, shift=0):
    index = (row.label_space.index(row.emotion) + shift) % len(row.label_space)
    return {"emotion": row.label_space[index], "label_space": row.label_space}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no evaluation", "Run recipes/evaluate.py first"),
        ("no predictions", "There are no predictions at"),
        ("broken predictions", "cannot be read as predictions"),
        ("other columns", "cannot be read as predictions"),
        ("broken config", "config.yaml' cannot be read"),
        ("empty", "holds no predictions"),
        ("other data set", "there is nothing to compare"),
        ("other pictures", "no picture of 'test' in common"),
        ("other labels", "base and cold start: The label of picture"),
    ],
)
def test_mistakes_are_named(own_run, what, message):
    spoil(own_run, what)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        gather_content(load_evaluations([own_run]), title="runs")

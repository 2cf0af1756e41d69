"""The notebooks: their form, and that they run on other models and data than the demo's, or say why not."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from nbclient.exceptions import CellExecutionError
from notebook_runs import NOTEBOOKS, find_parameters, list_outputs, read_notebook, run_notebook
from tiny_model import tiny_pictures
from training import LABELS

from emor3_trl.data import write_split

NAMES = [path.stem for path in NOTEBOOKS]
OTHER_LABELS = ["calm", "awe", "fear"]


def write_data(folder: Path, labels: list[str], *splits: str) -> str:
    """Write six pictures for each split, all different."""
    pictures = iter(tiny_pictures(6 * len(splits)))
    for split in splits:
        rows = [
            {
                "id": f"{split}-{i}",
                "image": next(pictures),
                "emotion": labels[i % len(labels)],
                "label_space": labels,
                "source": "test",
            }
            for i in range(6)
        ]
        write_split(folder, split, rows)
    return str(folder)


def test_there_are_six_in_the_order_in_which_to_read_them():
    assert [name[0] for name in NAMES] == list("123456")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_stripped_of_output(name):
    code = [cell for cell in read_notebook(name).cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_opens_with_a_question_and_ends_with_what_was_seen(name):
    cells = read_notebook(name).cells
    assert len(cells) <= 25
    assert cells[0].cell_type == "markdown"
    title = cells[0].source.splitlines()[0]
    assert title.startswith("# ")
    assert title.endswith("?")
    *_, heading, conclusion = cells
    assert heading.source.startswith("## What was seen")
    # What was seen is computed from the run; a number in the text would be what was seen once
    assert conclusion.cell_type == "code"
    assert "Markdown(" in conclusion.source
    assert not re.search(r"\d", heading.source)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_demo_a_notebook_says_in_one_sentence_what_to_run(name, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    cells = read_notebook(name).cells
    setup = cells[cells.index(find_parameters(read_notebook(name))) + 1]
    names: dict[str, object] = {}
    exec(find_parameters(read_notebook(name)).source, names)
    with pytest.raises(SystemExit) as stopped:
        exec(setup.source, names)
    message = str(stopped.value)
    assert re.match(r"There is no runs/demo/\S+\. Run `[^`]+` first, or set [\w ,]+\.$", message), message
    assert Path.cwd() == tmp_path  # it looked from the top of the project, too


@pytest.mark.parametrize("name", NAMES[1:])
def test_what_a_model_writes_is_no_formula(name, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    cells = read_notebook(name).cells
    names: dict[str, object] = {}
    exec(find_parameters(read_notebook(name)).source, names)
    with plt.rc_context():
        with pytest.raises(SystemExit):
            exec(cells[cells.index(find_parameters(read_notebook(name))) + 1].source, names)
        figure = plt.figure()
        figure.text(0, 0, r"So $\boxed{awe}$ it is.")  # as a formula, an unknown symbol
        figure.canvas.draw()
        plt.close(figure)


def test_one_group_runs_on_another_model_and_data(tiny_model_dir, tmp_path):
    data = write_data(tmp_path / "data", LABELS, "validation")
    done = run_notebook("3_one_group", tmp_path, MODEL=str(tiny_model_dir), DATA=data, ROW=3, MAX_TOKENS=8)
    (table,) = [text for text in list_outputs(done, "text/plain") if "accuracy_reward" in text]
    for column in ("accuracy_reward", "consistency_reward", "coherence_reward", "format_reward", "advantage"):
        assert column in table
    assert len(list_outputs(done, "image/png")) >= 3
    (seen,) = list_outputs(done, "text/markdown")
    assert "nothing to learn" in seen  # the model is random: all of its completions are malformed


@pytest.mark.slow
def test_the_data_runs_on_other_data_sets(tmp_path):
    first = write_data(tmp_path / "first", LABELS, "train", "test")
    second = write_data(tmp_path / "second", OTHER_LABELS, "train", "test")
    done = run_notebook("1_the_data", tmp_path, DATA=[first, second], SPLITS=["train", "test"])
    (seen,) = list_outputs(done, "text/markdown")
    new = [label for label in OTHER_LABELS if label not in LABELS]
    assert f"are not in first: {', '.join(new)}." in seen
    assert len(list_outputs(done, "image/png")) == 3  # the pictures of each, and the label spaces


@pytest.mark.slow
def test_a_reward_by_hand_says_that_a_model_without_steps_cannot_be_asked(tiny_model_dir, tmp_path):
    data = write_data(tmp_path / "data", LABELS, "validation")
    with pytest.raises(CellExecutionError) as stopped:
        run_notebook("2_a_reward_by_hand", tmp_path, MODEL=str(tiny_model_dir), DATA=data, ROW=3, MAX_TOKENS=8)
    assert stopped.value.ename == "SystemExit"
    assert "None of the 8 completions of row 3 is well formed, so there is nothing to ask." in stopped.value.evalue

"""The notebooks run from top to bottom, and hold no output."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tiny_model import tiny_pictures
from training import LABELS

from emor3_trl.data import write_split

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_of_output(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count]


def test_one_group_runs_on_another_model_and_data(tiny_model_dir, tmp_path, monkeypatch):
    rows = [
        {"id": str(i), "image": picture, "emotion": LABELS[i % 6], "label_space": LABELS, "source": "test"}
        for i, picture in enumerate(tiny_pictures(6))
    ]
    write_split(tmp_path / "data", "validation", rows)
    notebook = nbformat.read(NOTEBOOKS[0].with_name("one_group.ipynb"), as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += f"\nMODEL, DATA, MAX_TOKENS = {str(tiny_model_dir)!r}, {str(tmp_path / 'data')!r}, 8"
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    done = NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    table = done.cells[-3].outputs[0]["data"]["text/plain"]
    for column in ("accuracy_reward", "consistency_reward", "coherence_reward", "format_reward", "advantage"):
        assert column in table

"""Notebooks for tests: read, run on other paths, and looked at."""

import os
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read_notebook(name: str) -> nbformat.NotebookNode:
    """Return a notebook by its file's name without the suffix."""
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def find_parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the one cell that is tagged `parameters`."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def run_notebook(name: str, folder: Path, **parameters: Any) -> nbformat.NotebookNode:
    """Run a notebook in a kernel of its own, and return it with its outputs.

    Args:
        name: its file's name, without the suffix.
        folder: where the kernel starts.
        parameters: values that replace those of its parameters cell.

    Raises:
        CellExecutionError: if a cell fails.
    """
    notebook = read_notebook(name)
    find_parameters(notebook).source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_CURRENT_TEST", None)  # where ipykernel sees it, sys.stdout has no file, which vLLM needs
    client = NotebookClient(notebook, timeout=300, kernel_name="python3")
    return client.execute(cwd=str(folder), env=environment)


def list_outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """Return the outputs of a kind, such as `image/png`, in their order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]

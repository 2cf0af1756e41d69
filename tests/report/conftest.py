"""What the tests of the report share: a folder of runs with evaluations, and the page about it."""

import shutil
from pathlib import Path

import pytest
from fabricated_run import fabricate
from small_run import write_small_run

from emor3_trl.report.evaluated import load_evaluations
from emor3_trl.report.page import gather_content

SIZES = {"test": 12, "emotion6": 9, "webemo": 6}


@pytest.fixture(scope="session")
def sizes() -> dict[str, int]:
    """Images by data set."""
    return dict(SIZES)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, to read only."""
    return fabricate(tmp_path_factory.mktemp("runs"), SIZES)


@pytest.fixture(scope="session")
def page(run: Path) -> dict:
    """What the page shows about `run`."""
    return gather_content(load_evaluations([run]), title="runs")


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(run, tmp_path / "own"))


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """A folder of runs whose answers can be counted by hand."""
    return write_small_run(tmp_path)

"""A grid that is stopped: the recipes that it started stop too, finished runs are kept, the same command goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recipe_commands import ENVIRONMENT, ROOT
from small_grid import write_scale, write_stand_ins

COMMAND = [sys.executable, "recipes/reproduce.py", "--scale", "configs/tiny/reproduce.yaml", "--table", "3"]
COMMAND += ["--seeds", "1", "--systems", "grpo_g8", "set_only_g8"]
LAST = Path("runs/reproduce/tiny/sketches/set_only_g8/seed1")


def start(folder: Path, *options: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *options], cwd=folder, env={**ENVIRONMENT, **variables}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 240
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place with a space in its name, where the recipe stands beside stand-ins that note their process."""
    place = tmp_path / "a grid"
    place.mkdir()
    write_scale(place)
    recipes = write_stand_ins(place)
    shutil.copy(ROOT / "recipes" / "reproduce.py", recipes)
    training = recipes / "grpo.py"
    training.write_text(training.read_text().replace(
        "steps = folder", "(folder / 'pid').write_text(str(os.getpid()))\nsteps = folder"
    ))  # fmt: skip
    return place


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_grid_stops_what_it_started_and_goes_on_later(folder: Path, number: int, code: int) -> None:
    """The signal reaches the grid alone, as `kill` or a scheduler sends it; a terminal's reaches all."""
    first = start(folder, PAUSE="0")
    wait_for(folder / LAST / "model" / "pid")
    first.communicate()
    assert first.returncode == 0
    shutil.rmtree(folder / LAST)
    grid = start(folder, PAUSE="60")
    wait_for(folder / LAST / "model" / "pid")
    pid = int((folder / LAST / "model" / "pid").read_text())
    began = time.monotonic()
    grid.send_signal(number)
    out, err = grid.communicate(timeout=120)
    assert time.monotonic() - began < 60, "it waited for the training to end"
    assert grid.returncode == code, out + err
    assert "FAILED" not in out
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    run = json.loads((folder / LAST / "cell.json").read_text())["commands"]["grpo"]
    assert run["digest"]
    assert run["exit_code"] != 0
    again = start(folder, PAUSE="0")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, out + err
    assert "1 of 2 cells are finished already" in out


def test_a_second_grid_in_the_same_folder_is_refused(folder: Path) -> None:
    first = start(folder, PAUSE="60")
    wait_for(folder / "runs/reproduce/tiny/sketches/grpo_g8/seed1/model/pid")
    second = start(folder)
    _, err = second.communicate(timeout=300)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=120)
    assert second.returncode == 2
    (line,) = err.splitlines()
    assert "Another run is writing to output_dir" in line

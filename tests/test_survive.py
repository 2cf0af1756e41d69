"""The benchmark that kills each stage, on one stage and with two kills; and that it sees what it is there to see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_commands import ENVIRONMENT, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from survive_checks import MARK, compare_folders, excuse_checkpoint, find_orphans, list_marked


def test_a_preparation_that_is_killed_twice_ends_as_one_that_was_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "survive.py"), "--stages", "prepare", "--kills", "2"]
    options = ["--photos", "8", "--no_signals", "--work", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    row = json.loads((tmp_path / "out" / "survive.json").read_text())["stages"]["prepare"]
    assert row["kills"] == 2
    assert row["runs"] >= 1
    assert row["files"] == 8 + 4
    assert row["worst_difference"] == 0
    assert [row[key] for key in ("unlike", "left_behind", "orphans", "failed")] == [[], [], [], []]


@pytest.mark.parametrize(
    ("name", "content", "worst", "fault"),
    [
        pytest.param("a.json", '{"x": [1, 2.5], "t_seconds": 9, "s": "a"}', 0.5, None, id="a number"),
        pytest.param("a.json", '{"x": [1, 2], "t_seconds": 9, "s": "b"}', 0, "s is 'b', not 'a'", id="a text"),
        pytest.param("a.json", '{"x": [1], "t_seconds": 9, "s": "a"}', 0, "x[1] is there once", id="a missing number"),
        pytest.param("a.json", '{"x": [1, 2], "t_seconds": 7, "s": "a"}', 0, None, id="a clock's number"),
        pytest.param(".a.json.7.tmp", "{}", 0, "left behind: .a.json.7.tmp", id="a temporary file"),
    ],
)
def test_a_difference_is_seen(tmp_path: Path, name: str, content: str, worst: float, fault: str | None) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.json").write_text('{"x": [1, 2], "t_seconds": 3, "s": "a"}')
    (tmp_path / "one" / name).write_text(content)
    result = compare_folders(tmp_path / "one", tmp_path / "other")
    assert result.worst == worst
    assert len(result.faults) == (fault is not None)
    assert fault is None or fault in result.faults[0]


def test_the_checkpoint_of_a_stop_may_stand_for_one_other_and_excuses_nothing_else():
    lines = ["Stopped by SIGTERM: run/checkpoint-15 is saved, and the same command goes on from it"]
    own = [f"left behind: run/checkpoint-15/{name}" for name in ("model.safetensors", "README.md")]
    dropped = [f"missing: run/checkpoint-14/{name}" for name in ("model.safetensors", "README.md")]
    other = ["run/metrics.json: loss is 'a', not 'b'"]
    assert excuse_checkpoint([*own, *dropped, *other], lines) == (other, "run/checkpoint-15 for run/checkpoint-14")
    assert excuse_checkpoint(own, lines) == ([], "run/checkpoint-15 for none")
    for faults, said in (
        ([*own, *dropped], ["Stopped by SIGTERM."]),
        ([*dropped, *other], lines),  # the stop's checkpoint is gone
        ([*own, *dropped, "missing: run/checkpoint-16/model.safetensors"], lines),
        ([fault.replace("15", "13") for fault in own], lines),
    ):
        assert excuse_checkpoint(faults, said) == (faults, "")


def test_a_process_in_a_session_of_its_own_is_an_orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("survive_checks.GRACE", 0.5)
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: "this"}, start_new_session=True)
    while not list_marked("this"):  # its environment can be read a moment after its start
        assert left.poll() is None
    assert [line.split(": ")[1] for line in find_orphans("this")] == ["sleep 60"]
    assert left.wait(10) != 0
    assert find_orphans("this") == []

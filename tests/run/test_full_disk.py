"""A disk without room: one line that names the file, and the same command goes on when there is room again."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import run_forked
from recipe_commands import ENVIRONMENT, ROOT, command, finish
from safetensors.torch import load_file
from small_run import write_small_run

from emor3_trl.files import find_full_disk, replacing, write_text
from emor3_trl.run.full_disk import explain_full_disk
from emor3_trl.run.lock import lock_folder, unlock_folder
from emor3_trl.run.recipe import UserError, run_recipe, user_errors

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def no_folders_of_earlier_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emor3_trl.run.lock._held", {})


def fail(error: Exception) -> None:
    raise error


def fail_while_handling(error: Exception) -> None:
    try:
        fail(error)
    except Exception:
        raise ConnectionResetError("Connection lost")  # noqa: B904


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(FULL, id="the system"),
        pytest.param(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), id="a quota"),
        pytest.param(OSError(errno.EFBIG, os.strerror(errno.EFBIG)), id="a limit"),
        pytest.param(RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), id="torch"),
        pytest.param(Exception("I/O error: No space left on device (os error 28)"), id="safetensors"),
    ],
)
def test_a_full_disk_is_one_line_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    write_text(tmp_path / "file.json", "old")

    def write() -> None:
        with replacing(tmp_path / "file.json") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(SystemExit, match="2"):
        run_recipe(write)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"no room on the disk for '{tmp_path}/file.json'" in said
    assert "run the same command again" in said
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file.json", "old")]


@pytest.mark.parametrize("way", ["raised", "behind another error", "in a check"])
def test_an_error_without_a_name_names_the_runs_folder(tmp_path: Path, way: str) -> None:
    lock_folder(tmp_path)
    ways = {"raised": fail, "behind another error": fail_while_handling, "in a check": user_errors()(fail)}
    try:
        with pytest.raises((OSError, UserError)) as raised:
            ways[way](FULL)
        assert f"'{tmp_path}'" in (explain_full_disk(raised.value) or "")
    finally:
        unlock_folder(tmp_path)


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    lock_folder(tmp_path)
    try:
        assert explain_full_disk(UserError("lambda1 is 2")) is None
        assert find_full_disk(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
        with pytest.raises(KeyError):
            run_recipe(lambda: fail(KeyError("emotion")))
    finally:
        unlock_folder(tmp_path)


def mount(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, 16 << 20)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int) -> None:
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free - leave, 1))


def start_on_a_full_disk(arguments: list[str], disk: Path, leave: int) -> str:
    """Start a command that finds no room, remove what fills the disk, and return the error."""
    fill(disk, leave)
    done = run_forked(arguments, disk.parent, ENVIRONMENT, timeout=300)
    (disk / "filler").unlink()
    assert done.returncode == 2, (done.stdout + done.stderr)[-3000:]
    assert "Traceback" not in done.stderr + done.stdout
    errors = [line for line in done.stderr.splitlines() if ".py: error: " in line]
    assert len(errors) == 1
    assert str(disk) in errors[0]
    assert "no room" in errors[0] or "Free some space" in errors[0]
    return errors[0]


def read_weights(folder: Path) -> dict[str, list]:
    return {name: weight.tolist() for name, weight in load_file(folder / "model.safetensors").items()}


@pytest.mark.parametrize(
    ("run", "shares"),
    [
        pytest.param(
            "grpo",
            (0, 0.5, 1.25),
            id="grpo: before it begins, in its first checkpoint, later",
            marks=pytest.mark.long,
        ),
        pytest.param("cold-start", (0.75,), id="cold start: in its first checkpoint", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_finds_no_room_goes_on_when_there_is(
    tmp_path: Path, disk: Path, tiny_model_dir: Path, run: str, shares: tuple[float, ...]
) -> None:
    """The shares are of the size of a checkpoint, for which there is room."""
    arguments = [*command(tmp_path, run, tiny_model_dir, "disk/run"), "--max_steps", "8", "--save_total_limit", "9"]
    whole = [*arguments, "--output_dir", str(tmp_path / "whole")]
    finish(whole, tmp_path)
    checkpoint = sum(file.stat().st_size for file in (tmp_path / "whole" / "checkpoint-4").rglob("*"))
    for share in shares:
        start_on_a_full_disk(arguments, disk, int(share * checkpoint))
        assert not (disk / "run" / "metrics.json").exists()
    finish(arguments, tmp_path)
    assert (disk / "run" / "metrics.json").is_file()
    assert read_weights(disk / "run") == read_weights(tmp_path / "whole")


@pytest.mark.slow
def test_an_evaluation_that_finds_no_room_goes_on_when_there_is(
    tmp_path: Path, disk: Path, tiny_model_dir: Path
) -> None:
    command(tmp_path, "grpo", tiny_model_dir, "run")  # writes the data
    arguments = [sys.executable, str(ROOT / "recipes" / "evaluate.py"), "--model", f"model={tiny_model_dir}"]
    arguments += ["--data", str(tmp_path / "data"), "--splits", "train", "--engine", "transformers"]
    arguments += ["--max_tokens", "8", "--batch_size", "2"]
    finish([*arguments, "--output_dir", str(tmp_path / "whole")], tmp_path)
    arguments += ["--output_dir", str(disk / "run")]
    for leave in (0, 4096):
        start_on_a_full_disk(arguments, disk, leave)
    finish(arguments, tmp_path)
    places = (disk / "run" / "model", tmp_path / "whole" / "model")
    assert (
        places[0].joinpath("predictions.parquet").read_bytes() == places[1].joinpath("predictions.parquet").read_bytes()
    )


def test_a_report_that_finds_no_room_names_the_file(disk: Path) -> None:
    write_small_run(disk / "run")
    arguments = [sys.executable, str(ROOT / "recipes" / "report.py"), str(disk / "run")]
    assert "report.html" in start_on_a_full_disk(arguments, disk, 40_000)
    finish(arguments, disk.parent)


def test_a_folder_that_is_gone_hides_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock_folder(folder)
    folder.rmdir()
    assert explain_full_disk(ValueError("of its own")) is None
    unlock_folder(folder)

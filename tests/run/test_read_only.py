"""An output folder that cannot be written is one line before a model loads, also for root, who ignores rights."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from downloads import write_emoset
from recipe_commands import RecipeRunner, command
from small_grid import write_scale

from emor3_trl.run.recipe import UserError, user_errors


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A disk that is mounted read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1g", "tmpfs", str(folder)], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("recipe", ["prepare_data", "cold_start", "reproduce"])
def test_a_recipe_names_what_it_cannot_write(
    tmp_path: Path, read_only: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], recipe: str,
) -> None:  # fmt: skip
    output = ["--output_dir", str(read_only / "out")]
    if recipe == "prepare_data":
        write_emoset(tmp_path / "in")
        arguments = ["--dataset", "emoset", "--source", "in", "--train", "8", "--test", "8"]
    elif recipe == "cold_start":
        arguments = command(tmp_path, "cold-start", tiny_model_dir, "unused")[2:]
    else:
        write_scale(tmp_path)
        arguments = ["--scale", "configs/tiny/reproduce.yaml", "--table", "3"]
    refused = RecipeRunner(recipe, monkeypatch, capsys)(tmp_path, *arguments, *output)
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if "error: " in line]
    assert str(read_only) in line
    assert "Choose another" in line
    assert "Traceback" not in refused.stderr


def test_any_folder_of_a_check_that_cannot_be_written_is_named(read_only: Path) -> None:
    with (
        pytest.raises(UserError, match=r"disk/new' cannot be read or written \(Read-only file system\)\. Choose"),
        user_errors(),
    ):
        (read_only / "new").mkdir()

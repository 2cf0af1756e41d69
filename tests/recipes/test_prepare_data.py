"""The recipe prepares each download as the README shows it, and data in the forms in which people have it."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from downloads import (
    write_emoset,
    write_emotion6,
    write_hub_emoset,
    write_own_folders,
    write_own_tables,
    write_webemo,
)
from made_cases import CASES
from made_cases.judging import SMALL, judge
from PIL import Image

from emor3_trl.data import load_split
from emor3_trl.run.recipe import UserError

REPOSITORY = Path(__file__).parents[2]
COMMANDS = re.findall(
    r"^    (python recipes/prepare_data\.py --dataset .*)$", (REPOSITORY / "README.md").read_text(), re.M
)
DOWNLOADS = {  # what a command reads, below the folder it is started in: who writes it, and what is taken
    "downloads/EmoSet-118K": (write_emoset, {"test": 32, "train": 32}),
    "Woleek/EmoSet-118K": (write_hub_emoset, {"test": 16, "train": 16}),
    "downloads/Emotion6": (write_emotion6, {"test": 60}),
    "downloads/WebEmo": (write_webemo, {"test": 46}),
    "photos": (write_own_folders, {"test": 2, "train": 10}),
    "photos.csv": (lambda path: write_own_tables(path.parent), {"test": 2, "train": 10}),
    "photos.jsonl": (lambda path: write_own_tables(path.parent), {"test": 2, "train": 10}),
}


def read_by(command: str) -> str:
    """Return what a command reads."""
    words = shlex.split(command)
    return words[words.index("--source" if "--source" in words else "--hub_id") + 1]


def test_the_readme_shows_a_command_for_each_download():
    assert [read_by(command) for command in COMMANDS] == list(DOWNLOADS)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=read_by)
def test_a_command_of_the_readme_prepares_its_data_set(tmp_path, monkeypatch, command):
    write, counts = DOWNLOADS[read_by(command)]
    write(tmp_path / read_by(command))
    words = [sys.executable, str(REPOSITORY / "recipes" / "prepare_data.py"), *shlex.split(command)[2:]]
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "data" / words[words.index("--dataset") + 1]
    assert f"Written to {out.relative_to(tmp_path)}" in done.stdout
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert {split: sum(count.values()) for split, count in manifest["counts"].items()} == counts
    assert Image.open(out / "contact_sheet.png").width > 1000
    for split, count in counts.items():
        rows = load_split(out, split)
        assert len(rows) == count
        assert set(rows["emotion"][:]) <= set(manifest["label_space"]["labels"])
        width, height = rows[0]["image"].size
        assert width % 28 == height % 28 == 0
        assert 262_144 <= width * height <= 1_048_576


def run_in_process(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str | None]:
    """Run the recipe; return what it printed, and the line with which it refused, or None."""
    recipe = runpy.run_path(str(REPOSITORY / "recipes" / "prepare_data.py"))
    error = None
    with pytest.MonkeyPatch.context() as context:
        context.setattr(sys, "argv", ["prepare_data.py", *words])
        try:
            recipe["main"]()
        except UserError as refusal:
            error = " ".join(str(refusal).split())
    return capsys.readouterr().out, error


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_data_as_people_have_it_are_taken_rightly_or_refused_with_the_reason(tmp_path, capsys, case):
    root = tmp_path / "in"
    root.mkdir()
    case.write(root)
    verdicts = {}
    for number, command in enumerate(case.commands):
        output = tmp_path / f"out{number}"
        words = [*shlex.split(command.options.replace("{out}", str(root))), *SMALL, "--output_dir", str(output)]
        said, error = run_in_process(words, capsys)
        verdict = judge(command, output, said, error)
        if verdict != "right":
            verdicts[command.options] = f"{verdict}: {said}{error or ''}"
    assert not verdicts

"""A file appears whole or not at all: what a reader, an error or a kill in the middle leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_model import tiny_pictures

from emor3_trl.data import write_split
from emor3_trl.data.contact_sheet import ContactSheet
from emor3_trl.evaluation.plots import plot_confusion
from emor3_trl.evaluation.prediction import save_predictions
from emor3_trl.files import replacing, write_json, write_text
from emor3_trl.report.page import write_page
from emor3_trl.report.reward_plot import plot_rewards


def test_the_new_file_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path):
    path = tmp_path / "made" / "on the way" / "file.bin"
    for content in (b"old", b"new"):
        before = path.read_bytes() if path.exists() else None
        with replacing(path) as temporary:
            temporary.write_bytes(content)
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_killed_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    program = (
        "import sys, time\n"
        "from emor3_trl.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half of the n')\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", program, str(path)], env=environment) as process:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_text_is_utf_8_whatever_the_locale_says(tmp_path):
    text = "λ₁ = 0.1, Zürich, 日本語 \u2028"
    write_text(tmp_path / "file.txt", text)
    assert (tmp_path / "file.txt").read_bytes() == text.encode()
    write_json(tmp_path / "file.json", {"text": text})
    assert json.loads((tmp_path / "file.json").read_bytes()) == {"text": text}


def confusion(path):
    plot_confusion(np.eye(2, 3, dtype=int), ["awe", "fear"], "a title", path)


def sheet(path):
    pictures = ContactSheet(["awe"])
    pictures.add("test", "awe", tiny_pictures(1)[0])
    pictures.save(path)


def split(path):
    row = {"id": "1", "image": tiny_pictures(1)[0], "emotion": "awe", "label_space": ["awe", "fear"], "source": "made"}
    write_split(path.parent, path.stem, [row])


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(confusion, id="confusion plot"),
        pytest.param(sheet, id="contact sheet"),
        pytest.param(lambda path: plot_rewards({"EMO-R3": []}, path), id="reward plot"),
        pytest.param(lambda path: save_predictions([], path), id="predictions"),
        pytest.param(split, id="split"),
        pytest.param(lambda path: write_page({"title": "t"}, path), id="page"),
    ],
)
def test_every_writer_of_a_file_leaves_the_old_one_when_it_is_stopped(tmp_path, monkeypatch, write):
    path = tmp_path / "file.parquet"
    path.write_bytes(b"old")

    def stop(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    write(path)
    assert path.read_bytes() != b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_kept(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    kept = [f".file.json.{os.getppid()}.tmp", ".file.json.of-somebody.tmp", f".other.json.{ended.pid}.tmp"]
    for name in (f".file.json.{ended.pid}.tmp", *kept):
        (tmp_path / name).write_text("half")
    write_json(tmp_path / "file.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"file.json", *kept}

"""What a preparation leaves is whole or not there, whenever it stops; what it did not write stays."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from downloads import save, write_emoset
from forking import run_forked

from emor3_trl.data import content_hash, load_split, preparation
from emor3_trl.data.output_folder import lock_folder
from emor3_trl.data.pictures import Budget
from emor3_trl.data.preparation import prepare
from emor3_trl.data.sampling import Sampling
from emor3_trl.data.sources import emoset, own

SMALL = Budget(min_pixels=784, max_pixels=28 * 28 * 12)
RECIPE = Path(__file__).parents[2] / "recipes" / "prepare_data.py"


def draw(source, folder: Path, train: int = 8, test: int = 8, overwrite: bool = False, seed: int = 0):
    return prepare(source, folder, Sampling(train, test, seed=seed), SMALL, overwrite=overwrite, progress=False)


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(RECIPE), *map(str, arguments)]
    return run_forked(command, Path.cwd(), os.environ, timeout=300)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"other files \(thesis.txt\)"):
        draw(emoset.list_candidates(write_emoset(tmp_path / "in")), tmp_path / "out")


@contextlib.contextmanager
def killed_after(changes: int, monkeypatch):
    """Stop before the change of a file that comes after so many; yield a list that tells whether it came to that."""
    left, stopped = [changes], []

    def stopping(plain):
        def change(self, *arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise SystemExit
            return plain(self, *arguments, **options)

        return change

    with monkeypatch.context() as context:
        for name in ("mkdir", "unlink", "replace", "rmdir"):
            context.setattr(Path, name, stopping(getattr(Path, name)))
        context.setattr(shutil, "rmtree", lambda *_, **__: None)  # who is killed does not tidy up
        try:
            yield stopped
        except SystemExit:
            stopped.append(True)


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "replaced"])
def test_killed_before_any_change_of_a_file_two_draws_never_mix_and_the_end_is_the_same(
    tmp_path, monkeypatch, overwrite
):
    source = emoset.list_candidates(write_emoset(tmp_path / "in", per_label=2))
    out, wholes = tmp_path / "out", {}
    for seed in (1, 2):
        draw(source, tmp_path / f"seed{seed}", seed=seed)
        wholes[seed] = hashes_in(tmp_path / f"seed{seed}")
    for changes in range(100):
        shutil.rmtree(out, ignore_errors=True)
        if overwrite:
            draw(source, out, seed=1)
        with killed_after(changes, monkeypatch) as stopped:
            draw(source, out, seed=2, overwrite=overwrite)
        found = hashes_in(out)
        assert any(found.items() <= whole.items() for whole in wholes.values())
        if (out / "manifest.json").exists():
            assert set(found) == {"train", "test"}
        draw(source, out, seed=2, overwrite=overwrite)
        assert hashes_in(out) == wholes[2]
        assert (out / "manifest.json").read_bytes() == (tmp_path / "seed2" / "manifest.json").read_bytes()
        assert not list(out.glob("*.tmp"))
        if not stopped:
            break
    assert 6 < changes < 99


def hashes_in(folder: Path) -> dict[str, str]:
    """Return the content hash of each split that is there."""
    return {path.stem: content_hash(folder, path.stem) for path in folder.glob("*.parquet")}


def test_a_new_draw_leaves_no_split_of_the_old_one(tmp_path):
    source = emoset.list_candidates(write_emoset(tmp_path / "in"))
    draw(source, tmp_path / "out")
    draw(source, tmp_path / "out", train=0, seed=1, overwrite=True)
    assert not (tmp_path / "out" / "train.parquet").exists()
    assert len(load_split(tmp_path / "out", "test")) == 8


@pytest.mark.parametrize("left_behind", [".DS_Store", "._manifest.json", "Thumbs.db", "desktop.ini"])
def test_a_folder_that_somebody_looked_into_is_still_the_one_that_was_prepared(tmp_path, capsys, left_behind):
    source = emoset.list_candidates(write_emoset(tmp_path / "in", per_label=1))
    draw(source, tmp_path / "out")
    (tmp_path / "out" / left_behind).write_bytes(b"of a file manager")
    draw(source, tmp_path / "out")
    assert "already prepared" in capsys.readouterr().out
    draw(source, tmp_path / "out", seed=1, overwrite=True)
    assert (tmp_path / "out" / left_behind).exists()


@pytest.mark.parametrize("change", ["map", "labels", "rows"])
def test_a_source_that_has_changed_is_not_taken_for_the_one_that_was_prepared(tmp_path, change):
    table, space = tmp_path / "in" / "t.csv", tmp_path / "space.yaml"
    for number in range(4):
        save(tmp_path / "in" / f"{number}.jpg", number)
    table.write_text("image,emotion\n0.jpg,happy\n1.jpg,joy\n2.jpg,fear\n3.jpg,fear\n")
    space.write_text("labels: [joy, fear, awe]\nmap: {happy: joy}\n")
    draw(own.list_candidates(table, space), tmp_path / "out", train=2, test=2)
    draw(own.list_candidates(table, space), tmp_path / "out", train=2, test=2)
    changed, was, now, words = {
        "map": (space, "happy: joy", "happy: fear", "the source offered other candidates"),
        "labels": (space, "fear, awe]", "fear]", "label_space was .*'awe'"),
        "rows": (table, "1.jpg,joy", "1.jpg,fear", "the source offered other candidates"),
    }[change]
    changed.write_text(changed.read_text().replace(was, now))
    with pytest.raises(FileExistsError, match=f"prepared otherwise: .*{words}.*--overwrite"):
        draw(own.list_candidates(table, space), tmp_path / "out", train=2, test=2)


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_preparations_do_not_write_to_one_folder(tmp_path, overwrite):
    source = emoset.list_candidates(write_emoset(tmp_path / "in", per_label=1))
    draw(source, tmp_path / "out")
    unfinished = tmp_path / "out" / "unfinished.tmp"
    with lock_folder(tmp_path / "out"):
        unfinished.mkdir()  # of the other
        with pytest.raises(FileExistsError, match="Another preparation is writing"):
            draw(source, tmp_path / "out", overwrite=overwrite)
        assert unfinished.exists()
    draw(source, tmp_path / "out", overwrite=overwrite)
    assert not unfinished.exists()


def test_what_another_preparation_wrote_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    source = emoset.list_candidates(write_emoset(tmp_path / "in", per_label=2))
    check = preparation.check_room_for

    def slow(*arguments):
        monkeypatch.setattr(preparation, "check_room_for", check)
        draw(source, tmp_path / "out", seed=1)

    monkeypatch.setattr(preparation, "check_room_for", slow)
    with pytest.raises(FileExistsError, match="seed was 1, now 2"):
        draw(source, tmp_path / "out", seed=2)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["seed"] == 1


def test_what_is_to_be_replaced_stays_when_the_new_draw_fails(tmp_path):
    source = emoset.list_candidates(write_emoset(tmp_path / "in"))
    draw(source, tmp_path / "out")
    before = content_hash(tmp_path / "out", "train")
    for one in source.pools["train"]:
        (tmp_path / "in" / one.place).unlink()
    with pytest.raises(ValueError, match="No picture of emoset train could be used"):
        draw(source, tmp_path / "out", overwrite=True, seed=1)
    assert content_hash(tmp_path / "out", "train") == before
    assert (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_a_split_that_was_written_otherwise_is_not_replaced_unasked(tmp_path):
    source = emoset.list_candidates(write_emoset(tmp_path / "in"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.parquet").write_bytes(b"my own work")
    with pytest.raises(FileExistsError, match=r"holds train.parquet, but no manifest.json.*--overwrite"):
        draw(source, tmp_path / "out")
    assert (tmp_path / "out" / "train.parquet").read_bytes() == b"my own work"
    draw(source, tmp_path / "out", overwrite=True)
    assert len(load_split(tmp_path / "out", "train")) == 8


@pytest.mark.parametrize("content", ["{", "[]", '{"seed": 3}'])
def test_a_manifest_of_something_else_is_not_taken_for_ones_own(tmp_path, content):
    source = emoset.list_candidates(write_emoset(tmp_path / "in", per_label=1))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(content)
    with pytest.raises(FileExistsError, match="prepared otherwise"):
        draw(source, tmp_path / "out")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    source = emoset.list_candidates(write_emoset(tmp_path / "in", per_label=1))
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        draw(source, tmp_path / "out")


def test_a_disk_without_room_is_told_before_any_picture_is_opened(tmp_path, monkeypatch):
    source = emoset.list_candidates(write_emoset(tmp_path / "in"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30 - 2**20, 2**20))
    monkeypatch.setattr(type(source.images), "read_image", None)
    with pytest.raises(OSError, match=r"has 1\.05 MB free, but 64 pictures of up to 1,048,576 pixels"):
        prepare(source, tmp_path / "out", Sampling(1000, 1000), progress=False)  # there are but 32 of each
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path):
    write_emoset(tmp_path / "in")
    code = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        f"sys.argv = [{str(RECIPE)!r}, '--dataset', 'emoset', '--source', {str(tmp_path / 'in')!r}, '--output_dir', "
        f"{str(tmp_path / 'out')!r}]\n"
        f"runpy.run_path({str(RECIPE)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_names_that_are_no_utf_8_are_kept_apart_and_recorded(tmp_path):
    for number, name in enumerate([b"a\xff.jpg", b"a\xfe.jpg", "é\u2028.jpg".encode()]):
        plain = save(tmp_path / "in" / ("joy" if number % 2 else "fear") / "x.jpg", number)
        plain.rename(os.fsdecode(bytes(plain.parent) + b"/" + name))
    broken = tmp_path / "in" / "joy" / os.fsdecode(b"b\xff.jpg")
    broken.write_bytes(b"nothing")
    manifest = draw(own.list_candidates(tmp_path / "in"), tmp_path / "out", train=4, test=0)
    ids = load_split(tmp_path / "out", "train")["id"][:]
    assert sorted(ids) == ["fear/a\\udcff.jpg", "fear/é\u2028.jpg", "joy/a\\udcfe.jpg"]
    stored = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(manifest))
    assert [item["id"] for item in stored["dropped"]["train"]] == ["joy/b\udcff.jpg"]

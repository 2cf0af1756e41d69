"""Train and test are drawn with a seed, share no image, and are the same however often they are prepared."""

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from downloads import photo, save, write_emoset, write_webemo
from forking import run_forked

from emor3_trl.data import content_hash, load_split, preparation
from emor3_trl.data.pictures import Budget
from emor3_trl.data.preparation import prepare
from emor3_trl.data.sampling import Sampling
from emor3_trl.data.sources import emoset, own, webemo
from emor3_trl.data.sources.candidates import FolderImages

SMALL = Budget(min_pixels=784, max_pixels=28 * 28 * 12)


RECIPE = Path(__file__).parents[2] / "recipes" / "prepare_data.py"


def draw(source, folder: Path, train: int = 8, test: int = 8, **options):
    return prepare(source, folder, Sampling(train, test, **options), SMALL, progress=False)


def test_a_split_holds_what_was_drawn_ready_for_training(tmp_path):
    source = emoset.list_candidates(write_emoset(tmp_path / "in"))
    manifest = draw(source, tmp_path / "out", train=16)
    rows = load_split(tmp_path / "out", "train")
    assert len(rows) == 16
    assert manifest["counts"]["train"] == dict.fromkeys(manifest["label_space"]["labels"], 2)  # stratified
    for row in rows:
        width, height = row["image"].size
        assert row["image"].mode == "RGB"
        assert width % 28 == height % 28 == 0
        assert 784 <= width * height <= SMALL.max_pixels
        assert f"{row['emotion']}_" in row["id"]
    assert manifest["taken"]["train"][rows[0]["id"]] == _file_hash(source, rows[0]["id"])
    assert [*manifest["taken"]["train"]] == rows["id"][:]
    assert manifest["content_hash"]["train"] == content_hash(tmp_path / "out", "train")


def _file_hash(source, name: str) -> str:
    (place,) = (one.place for pool in source.pools.values() for one in pool if one.id == name)
    return hashlib.sha256(source.images.read_image(place)).hexdigest()


def test_warnings_of_odd_pictures_are_not_shown_and_the_filters_stay(tmp_path, recwarn):
    source = emoset.list_candidates(write_emoset(tmp_path / "in", per_label=2))
    before = list(warnings.filters)
    draw(source, tmp_path / "out")
    assert warnings.filters == before
    assert not [one for one in recwarn if "PIL" in str(one.filename)]


def test_the_seed_decides_what_is_drawn_and_workers_do_not(tmp_path):
    source = emoset.list_candidates(write_emoset(tmp_path / "in"))
    hashes = {}
    for name, seed, workers in (("a", 1, 1), ("b", 1, 5), ("c", 2, 5)):
        prepare(source, tmp_path / name, Sampling(8, 8, seed=seed), SMALL, workers=workers, progress=False)
        hashes[name] = [content_hash(tmp_path / name, split) for split in ("train", "test")]
    assert hashes["a"] == hashes["b"]
    assert not set(hashes["a"]) & set(hashes["c"])


@pytest.mark.parametrize(("asked", "threads"), [(None, 3), (5, 5)])
def test_there_are_as_many_threads_as_cores_that_may_be_used(tmp_path, monkeypatch, asked, threads):
    started = []
    pool = preparation.ThreadPoolExecutor
    monkeypatch.setattr(preparation, "ThreadPoolExecutor", lambda count: started.append(count) or pool(count))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 4, 7}, raising=False)
    source = emoset.list_candidates(write_emoset(tmp_path / "in", per_label=1))
    prepare(source, tmp_path / "out", Sampling(8, 8), SMALL, workers=asked, progress=False)
    assert started == [threads]


def test_what_is_tested_on_does_not_depend_on_what_is_trained_on(tmp_path):
    source = emoset.list_candidates(write_emoset(tmp_path / "in"))
    for name, train in (("few", 8), ("many", 32), ("none", 0)):
        draw(source, tmp_path / name, train=train)
    assert len({content_hash(tmp_path / name, "test") for name in ("few", "many", "none")}) == 1
    assert not (tmp_path / "none" / "train.parquet").exists()


def test_train_and_test_share_no_picture_not_even_a_scaled_or_recompressed_one(tmp_path):
    root = tmp_path / "in"
    for number in range(12):
        save(root / ("joy" if number % 2 else "fear") / f"{number}.jpg", number)
    for number in range(12):  # the same pictures again: as they are, smaller, and compressed anew
        folder = root / ("joy" if number % 2 else "fear")
        if number % 3 == 0:
            (folder / f"copy{number}.jpg").write_bytes((folder / f"{number}.jpg").read_bytes())
        elif number % 3 == 1:
            photo(number).resize((80, 60)).save(folder / f"copy{number}.jpg")
        else:
            photo(number).save(folder / f"copy{number}.jpg", quality=60)
    manifest = draw(own.list_candidates(root), tmp_path / "out", train=24, test=6)
    seeds = {
        split: {int(Path(row["id"]).stem.removeprefix("copy")) for row in load_split(tmp_path / "out", split)}
        for split in ("train", "test")
    }
    assert seeds["test"]
    assert not seeds["train"] & seeds["test"]
    reasons = {item["reason"] for items in manifest["dropped"].values() for item in items}
    assert "is nearly the same as a picture of test" in reasons
    assert {"is the same file as a picture of test", "is the same file as a picture of train"} & reasons


@pytest.mark.parametrize("method", ["stratified", "natural"])
def test_only_pictures_that_are_drawn_are_opened(tmp_path, monkeypatch, method):
    source, opened, read = emoset.list_candidates(write_emoset(tmp_path / "in")), [], FolderImages.read_image
    monkeypatch.setattr(FolderImages, "read_image", lambda self, place: opened.append(place) or read(self, place))
    manifest = draw(source, tmp_path / "out", train=9, test=5, method=method)
    assert len(opened) == len(set(opened)) == 14
    assert sum(len(one) for one in manifest["taken"].values()) == 14


def test_a_picture_that_cannot_be_used_gives_its_place_to_the_next_of_its_label(tmp_path):
    source = emoset.list_candidates(write_emoset(tmp_path / "in", per_label=4))
    broken = [one for one in source.pools["test"] if one.emotion == "awe"][:3]
    for one in broken:
        (tmp_path / "in" / one.place).write_bytes(b"not a picture")
    manifest = draw(source, tmp_path / "out", test=8)
    assert manifest["counts"]["test"]["awe"] == 1
    assert {item["id"] for item in manifest["dropped"]["test"]} <= {one.id for one in broken}
    manifest = draw(source, tmp_path / "all", test=32)
    assert manifest["counts"]["test"]["awe"] == 1
    assert sum(manifest["counts"]["test"].values()) == 29


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(RECIPE), *map(str, arguments)]
    return run_forked(command, Path.cwd(), os.environ, timeout=300)


def test_a_second_run_reuses_what_is_there_and_other_arguments_are_refused(tmp_path):
    command = ("--dataset", "emoset", "--source", write_emoset(tmp_path / "in", 1), "--train", 8, "--test", 8)
    command = (*command, "--max_pixels", 10_000, "--min_pixels", 784, "--output_dir", tmp_path / "out")
    first = run(*command)
    assert first.returncode == 0, first.stderr
    assert "Written to" in first.stdout
    assert "already prepared" in run(*command).stdout
    again = run(*command, "--seed", 5)
    assert again.returncode == 2
    assert "seed was 0, now 5" in again.stderr
    assert "--overwrite" in again.stderr


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = run("--dataset", "emoset", "--source", tmp_path / "nowhere", "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert "nowhere/train.json" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_split_without_candidates_says_what_there_is_and_what_was_left_out(tmp_path):
    root = write_webemo(tmp_path / "webemo", per_label=1)
    for place in (root / "images").iterdir():
        place.unlink()
    with pytest.raises(ValueError, match=r"'train' \(it has test\)\. Left out are: 50 x was not fetched .*--train 0"):
        draw(webemo.list_candidates(root), tmp_path / "out")
    root = write_emoset(tmp_path / "emoset", per_label=1)
    (root / "test.json").write_text("[]")
    with pytest.raises(ValueError, match=r"'test' \(it has train, val\)\. Set --test 0"):
        draw(emoset.list_candidates(root), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_of_which_no_picture_can_be_used_says_why(tmp_path):
    source = emoset.list_candidates(write_emoset(tmp_path / "in", per_label=1))
    for one in source.pools["test"]:
        (tmp_path / "in" / one.place).unlink()
    with pytest.raises(ValueError, match=r"8 x there is no such file. One is 'image/.*jpg'"):
        draw(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_file_that_lies_under_two_emotions_is_taken_under_neither(tmp_path, capsys):
    for number in range(12):
        save(tmp_path / "in" / ("joy" if number % 2 else "fear") / f"{number}.jpg", number)
    for copied in (1, 3):
        file = tmp_path / "in" / "joy" / f"{copied}.jpg"
        (tmp_path / "in" / "fear" / f"again{copied}.jpg").write_bytes(file.read_bytes())
    manifest = draw(own.list_candidates(tmp_path / "in"), tmp_path / "out", train=20, test=4)
    ids = [row["id"] for split in ("test", "train") for row in load_split(tmp_path / "out", split)]
    assert len(ids) == 10
    assert not {"joy/1.jpg", "joy/3.jpg", "fear/again1.jpg", "fear/again3.jpg"} & set(ids)
    assert sorted(item["id"] for item in manifest["dropped"]["source"]) == [
        "fear/again1.jpg", "fear/again3.jpg", "joy/1.jpg", "joy/3.jpg",
    ]  # fmt: skip
    assert "same file under several emotions (e.g. " in capsys.readouterr().out


def test_votes_and_notes_reach_the_split_and_the_manifest(tmp_path):
    rows = ["image,emotion"]
    for number in range(8):
        save(tmp_path / "in" / f"{number}.jpg", number)
        rows += [f"{number}.jpg,joy", f"{number}.jpg,joy", f"{number}.jpg,fear"]
    (tmp_path / "in" / "t.csv").write_text("\n".join(rows))
    source = own.list_candidates(tmp_path / "in" / "t.csv")
    manifest = draw(source, tmp_path / "out", train=4, test=4)
    assert load_split(tmp_path / "out", "train")["votes"][:] == [[1 / 3, 2 / 3]] * 4
    assert manifest["notes"] == source.notes
    assert "8 of the 8 images" in source.notes[0]

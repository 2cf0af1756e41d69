"""A user's own tables and folders are read as people and programs write them, and no row is lost in silence."""

import errno
import os
from pathlib import Path

import pytest
from downloads import save, write_own_folders, write_own_tables

from emor3_trl.data.sources import own
from emor3_trl.data.sources.split_names import Reading


def test_own_pictures_in_a_folder_of_folders(tmp_path):
    source = own.list_candidates(write_own_folders(tmp_path, per_label=2))
    assert source.label_space.labels == ("anger", "joy")
    assert [one.place for one in source.pools["all"]] == [
        "Joy/0.JPG",
        "Joy/more/1.JPG",
        "anger/0.JPG",
        "anger/more/1.JPG",
    ]
    assert [(item.id, item.reason[:26]) for item in source.dropped] == [("Joy/notes.txt", "is not named like a pictur")]


def test_own_pictures_in_folders_of_splits(tmp_path):
    for number, place in enumerate(["train/joy", "Test/joy", "val/joy", "train/fear"]):
        save(tmp_path / place / "a.jpg", number)
    source = own.list_candidates(tmp_path)
    assert source.label_space.labels == ("fear", "joy")
    assert {split: [one.id for one in pool] for split, pool in source.pools.items()} == {
        "train": ["train/fear/a.jpg", "train/joy/a.jpg"], "test": ["Test/joy/a.jpg"],
    }  # fmt: skip
    assert [(item.id, item.reason) for item in source.dropped] == [("val/joy/a.jpg", "is of split 'val'")]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_own_pictures_in_a_table_with_a_label_space_in_yaml(tmp_path, kind):
    write_own_tables(tmp_path, per_label=2, columns=("file", "mood"))
    source = own.list_candidates(tmp_path / f"photos.{kind}", tmp_path / "space.yaml", Reading("file", "mood"))
    taken = [(one.place, one.emotion) for one in source.pools["all"]]
    assert taken[:4] == [
        ("photos/00.jpg", "joy"), ("photos/01.jpg", "joy"), ("photos/10.jpg", "anger"), ("photos/11.jpg", "anger"),
    ]  # fmt: skip
    reasons = [item.reason for item in source.dropped]
    assert reasons.count("'unsure' is mapped to null") == 2
    assert reasons.count("has no image or no emotion") == (kind == "csv")


def test_own_pictures_with_splits_of_their_own(tmp_path):
    (tmp_path / "t.csv").write_text("image,emotion,split\na.jpg,joy,train\nb.jpg,fear,test\nc.jpg,joy,dev\n")
    source = own.list_candidates(tmp_path / "t.csv", "emotion6")
    assert {name: len(pool) for name, pool in source.pools.items()} == {"test": 1, "train": 1}
    assert [item.reason for item in source.dropped] == ["is of split 'dev'"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "image,emotion\né.jpg,joy\n".encode("cp1252"), "t.csv is no such table in UTF-8"),
        ("t.csv", b"image,emotion\n" + b"x" * 200_000 + b",joy\n", "t.csv is no such table"),
        ("t.jsonl", b"[1]\n", "Line 1 of .*t.jsonl"),
        ("t.jsonl", b"[" * 100_000, "Line 1 of .*t.jsonl"),
        ("t.jsonl", b"", "offers no labelled picture"),
        ("t.txt", b"a.jpg joy", "Expected a folder, or a .csv"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        own.list_candidates(tmp_path / name)


def test_a_table_without_the_columns_says_which_it_has(tmp_path):
    (tmp_path / "t.csv").write_text("file,mood\na.jpg,joy\n")
    with pytest.raises(ValueError, match=r"columns file, mood, not image and emotion.*--image_column"):
        own.list_candidates(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("t.csv", "image,emotion\na.jpg,joy\nb c.jpg,fear\n", id="plain"),
        pytest.param("t.csv", "\ufeffimage;emotion\r\na.jpg;joy\r\nb c.jpg;fear\r\n", id="excel-semicolons"),
        pytest.param("t.csv", "image\temotion\na.jpg\tjoy\nb c.jpg\tfear\n", id="tabs-in-csv"),
        pytest.param("t.tsv", "\ufeffimage\temotion\na.jpg\tjoy\nb c.jpg\tfear\n", id="tsv"),
        pytest.param("t.csv", 'image, emotion\na.jpg, joy\n"b c.jpg", " Fear"\n', id="space-after-comma"),
        pytest.param("t.csv", 'note,image,emotion\n"two\nlines",a.jpg,joy\n"a ""b""",b c.jpg,FEAR\n', id="quoted"),
        pytest.param("t.csv", "image,emotion\n\na.jpg,joy,more,than,columns\n\nb c.jpg,fear", id="ragged"),
        pytest.param(
            "t.JSONL", '\ufeff{"image":"a.jpg","emotion":"joy"}\n\n{"emotion":"fear","image":"b c.jpg"}', id="jsonl"
        ),
    ],
)
def test_a_table_is_read_as_programs_write_it(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    source = own.list_candidates(tmp_path / name, "emotion6")
    assert [(one.place, one.emotion) for one in source.pools["all"]] == [("a.jpg", "joy"), ("b c.jpg", "fear")]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('image,emotion\n"a.jpg,joy\nb.jpg,fear\nc.jpg,fear\n', id="open-at-the-end"),
        pytest.param('image,emotion\n"a.jpg,joy\n"b.jpg",fear\n', id="closed-by-another"),
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path, content):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=r"t\.csv is no such table .*end with one"):
        own.list_candidates(tmp_path / "t.csv", "emotion6")


def test_a_path_of_windows_is_found_and_a_backslash_in_a_name_is_kept(tmp_path):
    save(tmp_path / "in" / "a.jpg", 1)
    save(tmp_path / "in\\b.jpg", 2)
    (tmp_path / "t.csv").write_text("image,emotion\nin\\a.jpg,joy\nin\\b.jpg,fear\n" + "x\\" * 300 + "c.jpg,joy\n")
    places = [one.place for one in own.list_candidates(tmp_path / "t.csv").pools["all"]]
    assert places == ["in/a.jpg", "in\\b.jpg", "x/" * 300 + "c.jpg"]


def test_a_row_without_a_word_has_no_emotion(tmp_path):
    (tmp_path / "t.csv").write_text('image,emotion\na.jpg,joy\nb.jpg,fear\nc.jpg,"  "\n"  ",joy\nd.jpg\n')
    source = own.list_candidates(tmp_path / "t.csv")
    assert source.label_space.labels == ("fear", "joy")
    assert [(item.id, item.reason) for item in source.dropped] == [
        (f"t.csv:{number}", "has no image or no emotion") for number in (3, 4, 5)
    ]


def test_labels_outside_the_space_are_counted_over_all_splits(tmp_path):
    rows = ["a.jpg,glad,test", "b.jpg,glad,train", "c.jpg,joy,train", *(f"{n}.jpg,word{n},test" for n in range(14))]
    (tmp_path / "t.csv").write_text("image,emotion,split\n" + "\n".join(rows))
    with pytest.raises(ValueError, match=r"'glad' 2, 'word0' 1, .* and 3 more\. "):
        own.list_candidates(tmp_path / "t.csv", "emotion6")


def test_a_row_of_no_split_is_recorded_where_others_are_of_train_and_test(tmp_path):
    table = "image,emotion,split\na.jpg,joy,train\nb.jpg,fear,test\nc.jpg,rage,\n"
    (tmp_path / "t.csv").write_text(table)
    source = own.list_candidates(tmp_path / "t.csv")
    assert sorted(source.pools) == ["test", "train"]
    assert source.label_space.labels == ("fear", "joy")
    assert [(item.id, item.reason) for item in source.dropped] == [("t.csv:3", "is of no split, and others are")]
    (tmp_path / "t.csv").write_text(table.replace(",test", ","))  # then test is drawn from the others
    assert sorted(own.list_candidates(tmp_path / "t.csv").pools) == ["all", "train"]


def test_a_link_that_leads_out_of_the_folder_is_not_listed(tmp_path):
    for place in ("in/joy/a.jpg", "in/fear/a.jpg", "in/train/joy/a.jpg", "out/secret/a.jpg"):
        save(tmp_path / place, 1)
    for link, target in {"rage": "out", "same": "in/joy", "train/rage": "out", "test": "out"}.items():
        (tmp_path / "in" / link).symlink_to(tmp_path / target)
    source = own.list_candidates(tmp_path / "in")
    offered = [one.id for pool in source.pools.values() for one in pool]
    assert offered == ["fear/a.jpg", "joy/a.jpg", "same/a.jpg", "train/joy/a.jpg"]
    reason = "is a symbolic link that leads out of the folder"
    assert [(item.id, item.reason) for item in source.dropped] == [
        (link, reason) for link in ("rage", "test", "train/rage")
    ]


def test_what_a_folder_holds_is_taken_or_recorded(tmp_path, monkeypatch):
    for number, place in enumerate(["joy/a.jpg", "fear/deep/b.jpg", "c.jpg", "joy/locked/d.jpg", "other/e.jpg"]):
        save(tmp_path / place, number)
    (tmp_path / "README").write_text("mine")
    (tmp_path / "joy" / "folder.jpg").mkdir()
    (tmp_path / "joy" / "link").symlink_to(tmp_path / "fear")
    os.mkfifo(tmp_path / "joy" / "pipe.jpg")
    for left_behind in (".DS_Store", "joy/.DS_Store", "joy/._a.jpg"):
        (tmp_path / left_behind).write_bytes(b"")
    scandir = os.scandir

    def locked(path):
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    source = own.list_candidates(tmp_path)
    assert [one.id for one in source.pools["all"]] == ["fear/deep/b.jpg", "joy/a.jpg", "joy/pipe.jpg", "other/e.jpg"]
    assert {item.id: item.reason[:26] for item in source.dropped} == {
        "README": "is not named like a pictur",
        "c.jpg": "lies in no emotion's folde",
        "joy/link": "is a symbolic link to a fo",
        "joy/locked": "cannot be opened: Permissi",
    }

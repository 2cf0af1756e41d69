"""Your own tables and folders are read as people and programs write them, and nothing of them is lost in silence."""

import errno
import os
from pathlib import Path

import pytest
from downloads import save

from emor3_trl.data.arguments import PreparationArguments
from emor3_trl.data.sources import own


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
    source = own.read(tmp_path / name, "emotion6")
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
        own.read(tmp_path / "t.csv", "emotion6")


def test_a_path_of_windows_is_found_and_a_backslash_in_a_name_is_kept(tmp_path):
    save(tmp_path / "in" / "a.jpg", 1)
    save(tmp_path / "in\\b.jpg", 2)
    (tmp_path / "t.csv").write_text("image,emotion\nin\\a.jpg,joy\nin\\b.jpg,fear\n" + "x\\" * 300 + "c.jpg,joy\n")
    places = [one.place for one in own.read(tmp_path / "t.csv").pools["all"]]
    assert places == ["in/a.jpg", "in\\b.jpg", "x/" * 300 + "c.jpg"]


def test_a_row_without_a_word_has_no_emotion(tmp_path):
    (tmp_path / "t.csv").write_text('image,emotion\na.jpg,joy\nb.jpg,fear\nc.jpg,"  "\n"  ",joy\nd.jpg\n')
    source = own.read(tmp_path / "t.csv")
    assert source.label_space.labels == ("fear", "joy")
    assert [(item.id, item.reason) for item in source.dropped] == [
        (f"t.csv:{number}", "has no image or no emotion") for number in (3, 4, 5)
    ]


def test_labels_outside_the_space_are_counted_over_all_splits(tmp_path):
    rows = ["a.jpg,glad,test", "b.jpg,glad,train", "c.jpg,joy,train", *(f"{n}.jpg,word{n},test" for n in range(14))]
    (tmp_path / "t.csv").write_text("image,emotion,split\n" + "\n".join(rows))
    with pytest.raises(ValueError, match=r"'glad' 2, 'word0' 1, .* and 3 more\. "):
        own.read(tmp_path / "t.csv", "emotion6")


def test_a_row_of_no_split_is_recorded_where_others_are_of_train_and_test(tmp_path):
    table = "image,emotion,split\na.jpg,joy,train\nb.jpg,fear,test\nc.jpg,rage,\n"
    (tmp_path / "t.csv").write_text(table)
    source = own.read(tmp_path / "t.csv")
    assert sorted(source.pools) == ["test", "train"]
    assert source.label_space.labels == ("fear", "joy")
    assert [(item.id, item.reason) for item in source.dropped] == [("t.csv:3", "is of no split, and others are")]
    (tmp_path / "t.csv").write_text(table.replace(",test", ","))  # then test is drawn from the others
    assert sorted(own.read(tmp_path / "t.csv").pools) == ["all", "train"]


def test_a_link_that_leads_out_of_the_folder_is_not_listed(tmp_path):
    for place in ("in/joy/a.jpg", "in/fear/a.jpg", "in/train/joy/a.jpg", "out/secret/a.jpg"):
        save(tmp_path / place, 1)
    for link, target in {"rage": "out", "same": "in/joy", "train/rage": "out", "test": "out"}.items():
        (tmp_path / "in" / link).symlink_to(tmp_path / target)
    source = own.read(tmp_path / "in")
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
    source = own.read(tmp_path)
    assert [one.id for one in source.pools["all"]] == ["fear/deep/b.jpg", "joy/a.jpg", "joy/pipe.jpg", "other/e.jpg"]
    assert {item.id: item.reason[:26] for item in source.dropped} == {
        "README": "is not named like a pictur",
        "c.jpg": "lies in no emotion's folde",
        "joy/link": "is a symbolic link to a fo",
        "joy/locked": "cannot be opened: Permissi",
    }


@pytest.mark.parametrize("output", ["pictures", "pictures/out", "link/out"])
def test_an_output_folder_within_the_pictures_is_refused(tmp_path, output):
    save(tmp_path / "pictures" / "joy" / "a.jpg", 1)
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    with pytest.raises(ValueError, match=r"lies in source .*Choose an --output_dir beside it"):
        PreparationArguments("own", str(tmp_path / "pictures"), output_dir=str(tmp_path / output))
    PreparationArguments("own", str(tmp_path / "pictures"), output_dir=str(tmp_path / "pictures2"))

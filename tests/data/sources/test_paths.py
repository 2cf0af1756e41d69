"""A path means a file as other systems, disks and folders write it, and no file outside the folders is found."""

import os
import unicodedata

import pytest
from downloads import save

from emor3_trl.data.sources.paths import ImagePaths, walk_files


@pytest.fixture
def table(tmp_path):
    """Return the folder of a table, beside a folder of images and a file that is in neither."""
    for number, place in enumerate(
        ["table/in/a.jpg", "table/Größe.jpg", "images/x/b.jpg", "images/x/c.PNG", "secret.jpg"]
    ):
        save(tmp_path / place, number)
    return tmp_path / "table"


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("in/a.jpg", "in/a.jpg"),
        (" in/a.jpg ", "in/a.jpg"),
        ("./in//a.jpg", "in/a.jpg"),
        ("in\\a.jpg", "in/a.jpg"),
        ("'in/a.jpg'", "in/a.jpg"),
        ("in%2Fa.jpg", "in/a.jpg"),
        ("IN/A.JPG", "in/a.jpg"),
        (unicodedata.normalize("NFD", "Größe.jpg"), "Größe.jpg"),
        ("in/../in/a.jpg", "in/a.jpg"),
        ("no.jpg", "no.jpg"),
        ("../secret.jpg", "../secret.jpg"),
        ("a\0b.jpg", "a\0b.jpg"),
    ],
)
def test_a_path_is_found_below_the_tables_folder(table, place, path):
    (found,) = ImagePaths(table, None, "t").find_all([place])
    assert found == path


@pytest.mark.parametrize(
    "place",
    ["x/b.jpg", "{root}/images/x/b.jpg", "../images/x/b.jpg", "D:\\data\\x\\b.jpg", "/home/me/x/b.jpg", "b.jpg", "b"],
)
def test_a_path_is_found_below_the_folder_that_the_user_named(table, place):
    images = table.parent / "images"
    finder = ImagePaths(table, images, "t")
    (found,) = finder.find_all([place.format(root=table.parent)])
    assert os.path.realpath(images / found) == str(images / "x" / "b.jpg")


def test_first_folders_are_left_out_only_where_all_paths_share_them(table):
    finder = ImagePaths(table, None, "t")
    assert finder.find_all(["/data/in/a.jpg", "/data/Größe.jpg"]) == ["in/a.jpg", "Größe.jpg"]
    assert "paths begin with '/data'" in finder.notes[0]
    other = ImagePaths(table, None, "t")  # these could be two images
    assert other.find_all(["/one/in/a.jpg", "/two/in/a.jpg"]) == ["/one/in/a.jpg", "/two/in/a.jpg"]
    assert not other.notes


def test_a_name_that_several_files_have_means_none(table):
    images = table.parent / "images"
    save(images / "y" / "b.jpg", 9)
    assert ImagePaths(table, images, "t").find_all(["b.jpg"]) == ["b.jpg"]


def test_nothing_outside_is_found(table):
    os.symlink(table.parent / "secret.jpg", table / "link.jpg")
    finder = ImagePaths(table, table / "in", "t")
    assert finder.find_all(["../secret.jpg", str(table.parent / "secret.jpg")]) == [
        "../secret.jpg", str(table.parent / "secret.jpg"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("../images/x/b.jpg", "--image_folder {root}/images/x"),
        ("{root}/images/x/b.jpg", "--image_folder {root}/images/x"),
        ("x/b.jpg", "--image_folder {root}/images"),
        ("b", "has a suffix that the path lacks"),
        ("nowhere.jpg", "Name the folder of the images with --image_folder"),
    ],
)
def test_advice_names_the_folder_that_is_meant(table, place, words):
    advice = ImagePaths(table, None, "t").advise([place.format(root=table.parent)])
    assert words.format(root=table.parent) in advice


def test_hidden_files_and_thumbnails_are_not_walked(tmp_path):
    for place in ("a.jpg", ".b.jpg", "@eaDir/a.jpg/t.jpg", "thumbs/a.jpg", "x/c.jpg"):
        save(tmp_path / place, 1)
    assert list(walk_files(tmp_path)) == ["a.jpg", "x/c.jpg"]

"""Folders are taken for emotions only if they look like them; tables, levels and links beside them are named."""

import pytest
from downloads import save

from emor3_trl.data.sources import own
from emor3_trl.data.sources.folder_names import is_hidden, is_thumbnail_of, is_thumbnails
from emor3_trl.data.sources.levels import find_holding, find_levels
from emor3_trl.data.sources.split_names import Reading


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["images/joy/a.jpg", "images/fear/a.jpg"], "Did you mean --source .*/images"),
        (["a/b/joy/a.jpg", "a/b/fear/a.jpg"], "Did you mean --source .*/a/b"),
        (["archive/train/1/a.jpg", "archive/train/2/b.jpg", "archive/test/1/c.jpg", "archive/test/2/c.jpg"], "archive"),
        (["joy_1.jpg", "fear_2.jpg"], "2 images .* lie in no folder of an emotion.*names of 2 begin like emotions"),
        (["images/a.jpg"], "do not look like emotions: 'images' 1. No table of labels was found"),
        (["2024/a.jpg", "2025/b.jpg"], "are numbers: '2024' 1"),
        (["joy/a.jpg", "fear/b.jpg", "ground_truth/c.jpg"], "'ground truth' 1.*ground truth: null"),
    ],
)
def test_folders_that_are_no_emotions_are_refused_with_what_is_meant(tmp_path, places, words):
    for number, place in enumerate(places):
        save(tmp_path / place, number)
    with pytest.raises(ValueError, match=words):
        own.list_candidates(tmp_path)


def test_a_folder_too_low_and_archives_are_named(tmp_path):
    for place in ("joy/a.jpg", "fear/a.jpg"):
        save(tmp_path / "in" / place, 1)
    with pytest.raises(ValueError, match=r"Did you mean --source .*/in \?"):
        own.list_candidates(tmp_path / "in" / "joy")
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "photos.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"holds archives: 'photos.zip'. Unpack them"):
        own.list_candidates(tmp_path / "zipped")


def test_links_lead_only_where_the_user_says(tmp_path):
    for emotion in ("joy", "fear"):
        save(tmp_path / "disk" / emotion / "a.jpg", 1)
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / emotion).symlink_to(tmp_path / "disk" / emotion)
    save(tmp_path / "in" / "anger" / "a.jpg", 3)
    (tmp_path / "in" / "anger" / "b.jpg").symlink_to(tmp_path / "disk" / "joy" / "a.jpg")
    save(tmp_path / "in" / "awe" / "a.jpg", 4)
    source = own.list_candidates(tmp_path / "in")
    assert [candidate.id for candidate in source.pools["all"]] == ["anger/a.jpg", "awe/a.jpg"]
    assert "3 symbolic links of" in source.notes[-1]
    assert f"--image_folder {tmp_path / 'disk'}" in source.notes[-1]
    source = own.list_candidates(tmp_path / "in", None, Reading(image_folder=tmp_path / "disk"))
    places = [candidate.id for candidate in source.pools["all"]]
    assert places == ["anger/a.jpg", "anger/b.jpg", "awe/a.jpg", "fear/a.jpg", "joy/a.jpg"]
    assert all(source.images.read_image(place) for place in places)


def test_a_download_of_the_hub_is_read_through_its_links_and_nothing_else(tmp_path):
    repository = tmp_path / "datasets--a--b"
    snapshot = repository / "snapshots" / "1" / "data"
    save(repository / "blobs" / "1f", 1, format="JPEG")
    for number, emotion in enumerate(("joy", "fear")):
        (snapshot / emotion).mkdir(parents=True)
        (snapshot / emotion / "a.jpg").symlink_to(repository / "blobs" / "1f")
        (snapshot / emotion / "b.jpg").symlink_to(save(tmp_path / f"secret{number}.jpg", 2))
    source = own.list_candidates(snapshot)
    assert [candidate.id for candidate in source.pools["all"]] == ["fear/a.jpg", "joy/a.jpg"]
    assert source.images.read_image("joy/a.jpg")[:2] == b"\xff\xd8"


def test_names_of_systems_and_thumbnails_are_known():
    assert all(map(is_hidden, (".DS_Store", "._a.jpg", "__MACOSX", "@eaDir", "$RECYCLE.BIN")))
    assert all(map(is_thumbnails, ("thumbs", "Thumbnails", "_thumb", ".@__thumb")))
    assert not any(map(is_thumbnails, ("thumbs up", "joy")))
    names = {"a.jpg", "a_thumb.jpg", "a-150x150.jpg", "tn_a.jpg", "b_small.jpg", "1920x1080.jpg"}
    assert {name for name in names if is_thumbnail_of(name, names)} == {"a_thumb.jpg", "a-150x150.jpg", "tn_a.jpg"}


def test_levels_are_found_nearest_and_likeliest_first(tmp_path):
    for folder in ("annotations", "images"):
        for emotion in ("joy", "fear"):
            (tmp_path / folder / emotion).mkdir(parents=True)
    knows = {"joy", "fear"}.__contains__
    assert [level.name for level in find_levels(tmp_path, knows)] == ["images", "annotations"]
    assert find_levels(tmp_path / "images" / "joy", knows) == [tmp_path / "images"]
    assert find_holding(tmp_path, ["joy"]) == tmp_path / "annotations"
    assert find_holding(tmp_path / "nowhere", ["joy"]) is None

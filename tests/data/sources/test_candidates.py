"""Nothing outside a source's folder is opened, and what cannot be read is named."""

import contextlib
import os

import pytest
from downloads import save, write_emoset, write_webemo
from hypothesis import given, settings
from hypothesis import strategies as st

from emor3_trl.data.sources import emoset, emotion6, hub, own, webemo
from emor3_trl.data.sources.candidates import Dropped, FolderImages, Unusable, describe_dropped
from emor3_trl.emotions import EMOSET_8


def test_lists_that_an_editor_saved_with_a_byte_order_mark_are_read(tmp_path):
    for name, write, read in (
        ("train.json", write_emoset, emoset.list_candidates),
        ("train25.txt", write_webemo, webemo.list_candidates),
    ):
        root = write(tmp_path / name)
        save(root / "elsewhere" / "first.jpg", 1)
        first = (root / name).read_text().split(" ")[0]
        (root / "images.csv").write_text(f"url,path\n{first},elsewhere/first.jpg\n")
        before = read(root).pools
        (root / name).write_text("\ufeff" + (root / name).read_text())
        assert read(root).pools == before


@pytest.mark.parametrize(
    ("spoil", "read", "words"),
    [
        pytest.param(
            lambda p: (p / "train.json").unlink(), emoset.list_candidates, "There is no .*train.json", id="missing"
        ),
        pytest.param(lambda p: (p / "test.json").write_text("[["), emoset.list_candidates, "is not JSON", id="cut-off"),
        pytest.param(
            lambda p: (p / "test.json").write_text("{}"), emoset.list_candidates, "not a list of rows", id="no-list"
        ),
        pytest.param(
            lambda p: (p / "test.json").write_text('[["happy", "a.jpg"], ["happy", "b.jpg"], ["glad", "c.jpg"]]'),
            emoset.list_candidates,
            "outside the label space 'emoset_8'.*'happy' 2, 'glad' 1",
            id="labels-outside",
        ),
        pytest.param(lambda p: None, emotion6.list_candidates, "There is no .*images/anger", id="not-emotion6"),
        pytest.param(lambda p: None, webemo.list_candidates, "There is no .*category.txt", id="not-webemo"),
        pytest.param(lambda p: None, lambda p: own.list_candidates(p / "no"), "There is no", id="nothing-there"),
        pytest.param(
            lambda p: None, lambda p: own.list_candidates(p / "info.json"), "Row 1 of|Line 1 of", id="odd-table"
        ),
        pytest.param(
            lambda p: None, lambda p: own.list_candidates(p / "image", "happy_3"), "Unknown label space", id="space"
        ),
        pytest.param(
            lambda p: None, lambda p: hub.list_candidates(str(p / "no"), EMOSET_8), "cannot be loaded", id="hub"
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, spoil, read, words):
    write_emoset(tmp_path, per_label=1)
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read(tmp_path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"outside")
    root = tmp_path / "root"
    save(root / "in.jpg", 1)
    (root / "link-in.jpg").symlink_to(root / "in.jpg")
    (root / "link-out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.jpg")
    (root / "folder.jpg").mkdir()
    (root / "locked.jpg").write_bytes(b"x")
    (root / "locked.jpg").chmod(0)
    return FolderImages(root)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("../secret.jpg", "its path leads out"),
        ("a/../../secret.jpg", "its path leads out"),
        ("/etc/hostname", "its path leads out"),
        ("link-out.jpg", "symbolic link leads out"),
        ("up/secret.jpg", "symbolic link leads out"),
        ("loop.jpg", "cannot be opened|no such file"),
        ("pipe.jpg", "is not a file"),
        ("folder.jpg", "is not a file|cannot be opened"),
        ("gone.jpg", "no such file"),
        ("a\0b.jpg", "its path is broken"),
        ("\ud800.jpg", "its path is broken"),
        ("x" * 300 + ".jpg", "cannot be opened"),
    ],
)
def test_nothing_outside_the_folder_is_read_and_nothing_that_is_no_file(folder, place, reason):
    with pytest.raises(Unusable, match=reason):
        folder.read_image(place)


@pytest.mark.parametrize("place", ["in.jpg", "./in.jpg", "x/../in.jpg", "link-in.jpg"])
def test_what_is_inside_is_read(folder, place):
    (folder.root / "x").mkdir()
    assert folder.read_image(place)[:2] == b"\xff\xd8"
    assert folder.read_image(str(folder.root / place))[:2] == b"\xff\xd8"  # as many a table writes it


def test_a_file_that_may_not_be_read_is_dropped(folder):
    root = os.geteuid() == 0
    if root:  # who may read everything, so somebody else tries
        os.seteuid(65534)
    try:
        with pytest.raises(Unusable, match="cannot be opened: Permission denied"):
            folder.read_image("locked.jpg")
    finally:
        if root:
            os.seteuid(0)


@given(parts=st.lists(st.sampled_from(["..", ".", "a", "root", "/", "up", "secret.jpg", "in.jpg"]), max_size=6))
@settings(deadline=None)
def test_no_path_reads_the_file_outside(tmp_path_factory, parts):
    base = tmp_path_factory.getbasetemp() / "paths"
    if not base.exists():
        (base / "root" / "a").mkdir(parents=True)
        (base / "secret.jpg").write_bytes(b"outside")
        (base / "root" / "in.jpg").write_bytes(b"inside")
        (base / "root" / "up").symlink_to(base)
    with contextlib.suppress(Unusable):
        assert FolderImages(base / "root").read_image("/".join(parts)) == b"inside"


def test_another_folder_that_the_user_named_is_read_and_nothing_beside_it(folder, tmp_path):
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "a.jpg").write_bytes(b"named")
    (folder.root / "to-named.jpg").symlink_to(tmp_path / "named" / "a.jpg")
    (tmp_path / "named" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    images = FolderImages(folder.root, (tmp_path / "named",), {"t.csv:1 image": b"embedded"})
    for place in ("to-named.jpg", str(tmp_path / "named" / "a.jpg"), "../named/a.jpg"):
        assert images.read_image(place) == b"named"
    for place in ("../secret.jpg", str(tmp_path / "named" / "out.jpg"), "../named/../secret.jpg", "link-out.jpg"):
        with pytest.raises(Unusable, match="leads out of the folder"):
            images.read_image(place)
    assert images.read_image("t.csv:1 image") == b"embedded"


def test_what_was_dropped_is_counted_by_reason_with_an_example():
    dropped = [Dropped("a", "is tied"), Dropped("b", "is small"), Dropped("c", "is tied")]
    assert describe_dropped(dropped) == "2 x is tied (e.g. a); 1 x is small (e.g. b)"
    assert describe_dropped(dropped, 1) == "2 x is tied (e.g. a); and 1 more reasons"

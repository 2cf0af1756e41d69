"""WebEmo's links, labels and images are read as they are downloaded and fetched."""

import pytest
from downloads import save, write_webemo

from emor3_trl.data.sources import webemo


def test_webemo_takes_25_labels_to_seven_groups_and_leaves_out_dead_links(tmp_path):
    source = webemo.list_candidates(write_webemo(tmp_path))
    test = source.pools["test"]
    assert {one.emotion for one in test} == {"love", "joy", "confusion", "sadness", "anger", "fear", "surprise"}
    assert all(source.images.read_image(one.place) for one in test)
    reasons = [item.reason for item in source.dropped]
    assert reasons.count("was not fetched (many links are dead)") == 2 * 5
    shared = [item.id for item in source.dropped if "shares its file name" in item.reason]
    assert len(shared) == 3 + 2  # one is in images.csv; and one file cannot be of a URL of each split
    assert {"train25.txt:53", "test25.txt:53"} <= set(shared)
    zest = [one for one in test if one.place == "elsewhere/b.jpg"]
    assert [one.emotion for one in zest] == ["joy"]  # label 24, two digits


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("http://a.org/p.jpg 24", "images/p.jpg"),
        ("http://a.org/p.jpg\t24", "images/p.jpg"),
        ("http://a.org/p.jpg?x=1#here 24 ", "images/p.jpg"),
        ("http://[a.org/x/p.jpg 24", "images/p.jpg"),
        ("http://a.org/%70.jpg 24", "images/p.jpg"),
        ("http://a.org/" + "x" * 5000 + ".jpg 24", None),
        ("http://a.org/.. 24", None),
        ("http://a.org/..%2f..%2fsecret.jpg 24", None),
        ("http://a.org/a%00b.jpg 24", None),
        ("http://a.org/ 24", None),
    ],
)
def test_webemo_finds_a_picture_by_the_last_part_of_its_url(tmp_path, line, place):
    write_webemo(tmp_path, per_label=1)
    save(tmp_path / "images" / "p.jpg", 1)
    save(tmp_path.parent / "secret.jpg", 1)
    (tmp_path / "test25.txt").write_text("\n" + line + "\n" + line + "\n")  # a URL may come twice
    source = webemo.list_candidates(tmp_path)
    assert [one.place for one in source.pools["test"]] == ([place] * 2 if place else [])
    if place is None:
        assert {item.id for item in source.dropped} > {"test25.txt:2", "test25.txt:3"}


@pytest.mark.parametrize(
    "line", ["{name} {group}", "{group} {name}", "{index} {name},{group}", "{index}: {name} ({group})"]
)
def test_webemo_reads_the_categories_however_they_are_set(tmp_path, line):
    write_webemo(tmp_path, per_label=1)
    before = webemo.list_candidates(tmp_path).pools
    pairs = [row.split() for row in (tmp_path / "category.txt").read_text().splitlines()]
    written = [line.format(index=index, name=name.title(), group=group) for index, (name, group) in enumerate(pairs)]
    (tmp_path / "category.txt").write_text("\n".join(written))
    assert webemo.list_candidates(tmp_path).pools == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("category.txt", "boredom joyless\n", "Line 1 of .*category.txt.*one of the 25 labels"),
        ("test25.txt", "http://a.org/p.jpg 25\n", "Line 1 of .*test25.txt.*label of 0 to 24"),
        ("test25.txt", "http://a.org/p.jpg\n", "Line 1 of .*test25.txt.*label of 0 to 24"),
        ("category.txt", "affection love\n" * 24, "category.txt names 24 labels.*the 25, in order"),
        ("images.csv", "a,b\n1,2\n", "images.csv.*Expected url and path"),
        (
            "images.csv",
            'url,path\nhttp://a.org/p.jpg,"p.jpg\nhttp://a.org/q.jpg,q.jpg\n',
            "images.csv is no such table",
        ),
        ("images.csv", b"url,path\nhttp://a.org/\xff.jpg,p.jpg\n", "images.csv is no such table"),
    ],
)
def test_a_line_of_webemo_that_cannot_be_read_is_shown(tmp_path, name, content, words):
    write_webemo(tmp_path, per_label=1)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=words):
        webemo.list_candidates(tmp_path)

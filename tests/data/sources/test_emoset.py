"""EmoSet is read as it is downloaded, oddities included."""

import json

import pytest
from downloads import write_emoset

from emor3_trl.data.sources import emoset


@pytest.mark.parametrize("with_id", [False, True], ids=["without-id", "with-id"])
def test_emoset_is_read_with_and_without_ids(tmp_path, with_id):
    source = emoset.list_candidates(write_emoset(tmp_path, per_label=2, with_id=with_id))
    assert {name: len(pool) for name, pool in source.pools.items()} == {"train": 16, "val": 16, "test": 16}
    first = source.pools["train"][0]
    assert first.emotion == "amusement"
    assert first.place == "image/amusement/amusement_00001.jpg"
    assert source.images.read_image(first.place)[:2] == b"\xff\xd8"


def test_emoset_without_validation_or_with_a_row_that_names_no_picture(tmp_path):
    write_emoset(tmp_path, per_label=1)
    (tmp_path / "val.json").unlink()
    rows = json.loads((tmp_path / "test.json").read_text())
    (tmp_path / "test.json").write_text(json.dumps([*rows, ["awe", 7]]))
    source = emoset.list_candidates(tmp_path)
    assert sorted(source.pools) == ["test", "train"]
    assert [item.reason for item in source.dropped] == ["names no picture"]

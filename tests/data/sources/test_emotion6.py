"""Emotion6 is read as it is downloaded: by its folders, or by its votes."""

import pytest
from downloads import write_emotion6

from emor3_trl.data.sources import emotion6


def test_emotion6_takes_the_folder_for_the_label(tmp_path):
    source = emotion6.list_candidates(write_emotion6(tmp_path))
    assert len(source.pools["all"]) == 60
    assert all(one.id.startswith(one.emotion) for one in source.pools["all"])
    assert source.sizes == {"train": None, "test": 594}


def test_emotion6_by_votes_leaves_out_neutral_and_tied_pictures(tmp_path):
    source = emotion6.list_candidates(write_emotion6(tmp_path), label_from="votes")
    by_id = {one.id: one.emotion for one in source.pools["all"]}
    assert by_id["anger/2.jpg"] == "disgust"  # most people said otherwise than the folder
    assert by_id["anger/4.jpg"] == "anger"
    reasons = {item.id: item.reason for item in source.dropped}
    assert reasons["joy/1.jpg"] == "was seen as neutral by most"
    assert reasons["joy/3.jpg"] == "is tied in the votes"
    assert len(by_id) == 60 - 12


def test_votes_are_read_with_and_without_their_header_and_a_byte_order_mark(tmp_path):
    write_emotion6(tmp_path)
    whole = emotion6.list_candidates(tmp_path, "votes").pools
    text = (tmp_path / "ground_truth.txt").read_text()
    for changed in (text.split("\n", 1)[1], "\ufeff" + text.replace("\n", "\r\n")):
        (tmp_path / "ground_truth.txt").write_text(changed, newline="")
        source = emotion6.list_candidates(tmp_path, "votes")
        assert source.pools == whole
        assert not [item for item in source.dropped if "no line" in item.reason]


@pytest.mark.parametrize("line", ["joy/9.jpg\t1", "joy/9.jpg\t1\t1" + "\tnan" * 7])
def test_a_line_of_votes_that_cannot_be_read_is_shown(tmp_path, line):
    write_emotion6(tmp_path, per_label=1)
    with (tmp_path / "ground_truth.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"Line 8 of .*seven shares"):
        emotion6.list_candidates(tmp_path, "votes")


def test_emotion6_keeps_the_shares_of_its_six_labels(tmp_path):
    source = emotion6.list_candidates(write_emotion6(tmp_path), label_from="votes")
    shares = {candidate.id: candidate.votes for candidate in source.pools["all"]}
    assert shares["anger/4.jpg"] == pytest.approx((0.7 / 0.95, *[0.05 / 0.95] * 5))
    assert all(sum(votes) == pytest.approx(1) for votes in shares.values())
    assert all(candidate.votes is None for candidate in emotion6.list_candidates(tmp_path).pools["all"])

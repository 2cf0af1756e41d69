"""Tables are read into columns, and what shifts cells is refused or left out."""

import json

import pytest

from emor3_trl.data.sources import own
from emor3_trl.data.sources.tables import read_table

COLUMNS = {"image": ["a.jpg", "b.jpg"], "emotion": ["joy", "fear"]}


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "sep=;\r\nimage;emotion\r\na.jpg;joy\r\nb.jpg;fear\r\n"),
        ("t.csv", "image|emotion\na.jpg|joy\nb.jpg|fear\n"),
        ("t.csv", "image\temotion\na.jpg\tjoy\nb.jpg\tfear\n".encode("utf-16")),
        ("t.csv", "image , emotion,,\na.jpg,joy,,\nb.jpg,fear\n"),
        ("t.json", json.dumps([{"image": "a.jpg", "emotion": "joy"}, {"image": "b.jpg", "emotion": "fear"}])),
        ("t.jsonl", json.dumps([{"image": "a.jpg", "emotion": "joy"}, {"image": "b.jpg", "emotion": "fear"}])),
        ("t.json", '{"image": "a.jpg", "emotion": "joy"}\n{"image": "b.jpg", "emotion": "fear"}\n'),
        ("t.json", json.dumps(COLUMNS)),
        ("t.json", json.dumps({key: dict(enumerate(cells)) for key, cells in COLUMNS.items()})),
        ("t.json", json.dumps({"columns": list(COLUMNS), "data": [["a.jpg", "joy"], ["b.jpg", "fear"]]})),
        ("t.json", json.dumps({"a": {"image": "a.jpg", "emotion": "joy"}, "b": {"image": "b.jpg", "emotion": "fear"}})),
        ("t.json", json.dumps({"a.jpg": "joy", "b.jpg": "fear"})),
        ("t.json", json.dumps({"info": {}, "rows": [dict(zip(COLUMNS, row)) for row in zip(*COLUMNS.values())]})),  # noqa: B905
    ],
)
def test_a_table_is_read_into_columns(tmp_path, name, content):
    table = read(tmp_path, name, content)
    assert {key: list(cells) for key, cells in table.columns.items()} == COLUMNS
    assert table.ids == [f"{name}:1", f"{name}:2"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "a.jpg,joy\nb.jpg,fear\n", "has no header: its first row is 'a.jpg', 'joy'"),
        ("t.csv", "0,1,2\n", "has no header"),
        ("t.csv", "image,emotion,emotion\na,joy,fear\n", "has the column 'emotion' 2 times"),
        ("t.csv", "image,emotion\na,b,joy\nc,d,joy\n", "2 of the 2 rows .* have more cells than its header"),
        ("t.json", '{"a": {"b": 1}, "c": [1]}', "one JSON object with the keys 'a', 'c'"),
        ("t.json", '[{"image": "a.jpg"', "Line 1 of .*t.json"),
        ("t.xlsx", b"PK", "Save it as CSV"),
        ("t.zip", b"PK", "Unpack it"),
    ],
)
def test_what_is_no_table_is_refused_with_what_it_is(tmp_path, name, content, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, name, content)


@pytest.mark.parametrize(
    ("row", "taken"),
    [
        ("c.jpg,joy,,", True),
        ("c.jpg,joy,a note", True),
        ("cake, big.jpg,joy", False),
        ("c.jpg,joy, fear", False),
        ("c.jpg,well, joy", False),
    ],
)
def test_a_row_with_more_cells_than_the_header_is_never_shifted(tmp_path, row, taken):
    (tmp_path / "t.csv").write_text(f"image,emotion\na.jpg,joy\nb.jpg,fear\n{row}\n")
    source = own.list_candidates(tmp_path / "t.csv")
    assert [candidate.place for candidate in source.pools["all"]] == ["a.jpg", "b.jpg", *(["c.jpg"] if taken else [])]
    assert [(item.id, item.reason) for item in source.dropped] == (
        [] if taken else [("t.csv:3", "has more cells than the header")]
    )

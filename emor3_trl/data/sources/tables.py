"""Tables as people and programs write them: CSV and TSV with any separator and header, JSON lines, JSON arrays.

A table is read into columns. What shifts cells (a comma that is not quoted, a header with a name twice) is refused or
left out, never guessed.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emor3_trl.data.sources.candidates import MAX_FILE_BYTES, SUFFIXES
from emor3_trl.data.sources.cells import is_encoded
from emor3_trl.data.sources.columns import is_usual, is_usual_image
from emor3_trl.data.sources.folder_names import is_image_name
from emor3_trl.data.sources.messages import build_error, join_examples, quote, shorten
from emor3_trl.data.sources.split_names import find_kind

SEPARATED, OBJECTS = (".csv", ".tsv"), (".json", ".jsonl", ".ndjson")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2")
MAX_CELL = 131_072  # characters of a cell that is no image
TABLE_SUFFIXES = (*SEPARATED, *OBJECTS)
_BYTE_ORDER_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_WRITE_ONE = "Write a CSV with the header image,emotion: a path and a label in each row."

_ADVICE = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), "Save it as CSV in UTF-8."),
    **dict.fromkeys(ARCHIVES, "Unpack it, and give the folder."),
}


@dataclass
class Table:
    """A table by columns.

    Args:
        where: what it is, for messages.
        ids: name of each row.
        columns: the cells of each column; None where a row has no such cell.
        surplus: cells beyond the header, by the number of the row.
        notes: what was understood of it.
    """

    where: str
    ids: list[str]
    columns: dict[str, Sequence[Any]]
    surplus: dict[int, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_table(path: Path, name: str) -> Table:
    """Read a table.

    Args:
        path: a .csv, .tsv, .json, .jsonl or .ndjson file.
        name: what its rows are called, as in "photos.csv:3".

    Raises:
        ValueError: if it is no such table, with what it is.
    """
    is_packed = path.suffix.lower() == ".gz"
    suffix = (Path(path.stem) if is_packed else path).suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise build_error(
            f"--source is {quote(path, 150)}. Expected a folder, or a .csv, .tsv, .json, .jsonl or .parquet file.",
            _ADVICE.get(path.suffix.lower(), _WRITE_ONE),
        )
    where = shorten(path, 100)
    try:
        with gzip.open(path) if is_packed else path.open("rb") as file:
            mark = file.read(4)
        encoding = next((name for start, name in _BYTE_ORDER_MARKS.items() if mark.startswith(start)), "utf-8-sig")
        with (gzip.open if is_packed else open)(path, "rt", newline="", encoding=encoding) as file:
            if suffix in SEPARATED:
                return _read_separated(file, name, where, "\t" if suffix == ".tsv" else None)
            return _read_objects(file, name, where, suffix == ".json")
    except UnicodeDecodeError as error:
        raise build_error(f"{where} is no such table in UTF-8 ({shorten(error, 120)}).", "Save it as UTF-8.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise build_error(f"{where} is damaged ({shorten(error, 120)}).", "Download it again.") from error
    except csv.Error as error:
        raise build_error(
            f"{where} is no such table ({shorten(error, 120)}).", "Cells that begin with a quote end with one."
        ) from error


def _read_separated(file: Any, name: str, where: str, delimiter: str | None) -> Table:
    first = file.readline()
    if first.lower().startswith("sep=") and len(first.strip()) in (4, 5):  # how a spreadsheet tells the separator
        delimiter = first.rstrip("\r\n")[4:] or delimiter
        first, begin = file.readline(), len(first)
    else:
        begin = 0
    file.seek(0)
    # Excel writes semicolons where numbers have commas
    delimiter = delimiter if delimiter and delimiter in first else max(",;\t|", key=first.count)
    if begin:
        file.readline()
    # A quote that is not closed would swallow rows, so reading is strict
    mark = "'" if first.startswith("'") else '"'
    csv.field_size_limit(MAX_FILE_BYTES)  # a cell may hold an image
    rows = csv.reader(file, delimiter=delimiter, quotechar=mark, strict=True, skipinitialspace=True)
    header = [cell.strip() for cell in next((row for row in rows if row), [])]
    while header and not header[-1]:
        header.pop()
    _check_header(header, where)
    table = Table(where, [], {column: [] for column in header})
    cells: list[list[str | None]] = [[] for _ in header]
    longest: list[str] = []
    for number, row in enumerate(filter(None, rows)):
        if any(len(cell) > MAX_CELL and not is_encoded(cell) for cell in row):  # a quote that is not closed, mostly
            raise csv.Error(f"row {number + 1} has a cell of more than {MAX_CELL:,} characters")
        if any(cell.strip() for cell in row[len(header) :]):
            table.surplus[number] = row[len(header) :]
            longest = row
        table.ids.append(f"{name}:{number + 1}")
        for place, column in enumerate(cells):
            column.append(row[place] if place < len(row) else None)
    table.columns = dict(zip(header, cells, strict=True))
    if 2 * len(table.surplus) > len(table.ids):  # the header or the separator is at fault
        raise build_error(
            f"{len(table.surplus):,} of the {len(table.ids):,} rows of {where} have more cells than its header "
            f"({join_examples(header, 4)}), for instance {join_examples(longest, 4)}.",
            f"Cells that hold {quote(delimiter)} stand in quotes, and each column has a name.",
        )
    return table


def _check_header(header: Sequence[str], where: str) -> None:
    """Raise if the first row is no header, or names a column twice."""
    cells = [cell for cell in header if cell]
    data = [cell for cell in cells if len(cell) > 100 or any(map(is_image_name, cell.split()))]
    if data or (cells and 2 * sum(cell.replace(".", "").isdecimal() for cell in cells) > len(cells)):
        raise build_error(
            f"{where} has no header: its first row is {join_examples(cells, 4, 40)}.",
            "Write one as its first line, such as image,emotion.",
        )
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if twice:
        raise build_error(f"{where} has the column {quote(twice[0])} {cells.count(twice[0])} times.", "Rename them.")


def _read_objects(file: Any, name: str, where: str, whole: bool) -> Table:
    """Read JSON lines, a JSON array, or what pandas writes."""
    start = file.read(4096).lstrip()[:1]
    file.seek(0)
    if start == "[" or (whole and start == "{"):
        try:
            content = json.load(file)
        except (ValueError, RecursionError):
            content = None
        file.seek(0)
        if isinstance(content, list) and all(isinstance(row, dict) for row in content):
            return _from_rows(content, name, where)
        if isinstance(content, dict):
            return _from_rows([content], name, where) if _is_row(content) else _from_mapping(content, name, where)
    return _from_rows(list(_read_lines(file, where)), name, where)


def _is_row(content: Mapping[str, Any]) -> bool:
    """Return whether an object is the one row of a file of JSON lines."""
    return not any(isinstance(value, dict | list) for value in content.values()) and not _maps_files(content)


def _maps_files(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(
        key.lower().endswith(SUFFIXES) and isinstance(value, str | int) for key, value in content.items()
    )


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _is_files(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, str) and is_image_name(x) for x in value)


def add_inner_columns(table: Table) -> Table:
    """Add the keys of objects in the cells as columns: "emotion" of {"meta": {"emotion": "joy"}}."""
    for name, cells in list(table.columns.items()):
        sample = [cell for cell in cells[:20] if cell is not None]
        if not sample or not all(isinstance(cell, Mapping) and not {"bytes", "path"} & set(cell) for cell in sample):
            continue
        for key in dict.fromkeys(key for cell in cells if isinstance(cell, Mapping) for key in cell):
            inner = f"{name}.{key}" if key in table.columns else str(key)
            table.columns[inner] = [cell.get(key) if isinstance(cell, Mapping) else None for cell in cells]
    return table


def _read_lines(lines: Iterable[str], where: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise build_error(
                    f"Line {number} of {where} is {quote(line, 80)}. Expected one JSON object per line, or one array "
                    "of objects."
                )
            yield row


def _from_rows(rows: Sequence[Mapping[str, Any]], name: str, where: str) -> Table:
    header = dict.fromkeys(key for row in rows for key in row)
    ids = [f"{name}:{number}" for number in range(1, len(rows) + 1)]
    return Table(where, ids, {key: [row.get(key) for row in rows] for key in header})


def _from_mapping(content: Mapping[str, Any], name: str, where: str) -> Table:
    """Return the table of one JSON object: columns, rows by a key or split, labels by file, or rows under one key."""
    values = list(content.values())
    if (
        len(values) == 1
        and isinstance(values[0], dict)
        and all(isinstance(value, list) for value in values[0].values())
    ):
        return _from_mapping(values[0], name, where)
    if len(values) > 1 and all(map(find_kind, content)) and all(map(_is_rows, values)):
        return _from_rows([{"split": key, **row} for key, rows in content.items() for row in rows], name, where)
    if all(map(_is_files, values)) and not any(map(is_usual_image, content)):
        return _from_rows(
            [{"image": path, "emotion": key} for key, paths in content.items() for path in paths], name, where
        )
    if _maps_files(content):
        return _from_rows([{"image": key, "emotion": value} for key, value in content.items()], name, where)
    if {"columns", "data"} <= set(content) and isinstance(content["columns"], list):  # pandas: orient="split"
        return _from_rows([dict(zip(content["columns"], row, strict=False)) for row in content["data"]], name, where)
    if all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        rows = [dict(zip(content, cells, strict=True)) for cells in zip(*values, strict=True)]
        if len(content) > 1:  # columns
            return _from_rows(rows, name, where)
    tables = [value for value in values if _is_rows(value)]
    if len(tables) == 1:
        return _from_rows(tables[0], name, where)
    if values and all(isinstance(value, dict) for value in values):
        if not any(is_usual(key) for key in content):  # rows by a key
            return _from_rows(values, name, where)
        keys = dict.fromkeys(key for value in values for key in value)
        return _from_rows([{column: content[column].get(key) for column in content} for key in keys], name, where)
    raise build_error(
        f"{where} is one JSON object with the keys {join_examples(content, 6, 30)}. Expected a list of objects.",
        _WRITE_ONE,
    )

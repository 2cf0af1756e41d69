"""Tables of spreadsheets, JSON in its forms, images in the table itself."""

import base64
import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from made_cases.basics import (
    FOUR,
    KEPT,
    MAPPED,
    OWN,
    TWELVE,
    Case,
    Command,
    draw_photo,
    encode,
    save_photos,
    write_lines,
    write_table,
)


def write_spreadsheets(out: Path) -> None:
    """Write tables as spreadsheets and pandas do."""
    rows = save_photos(out, name="Bilder/Größe {number}.jpg")
    split = ["Test" if number > 7 else "Train" for number in range(12)]
    full = [(place, emotion, part) for (place, emotion), part in zip(rows, split, strict=True)]

    def write(name: str, lines: Iterable[str], encoding: str = "utf-8", end: str = "\n") -> None:
        (out / name).write_bytes("".join(line + end for line in lines).encode(encoding))

    write("german.csv", ["Image;Emotion;Split", *map(";".join, full)], "utf-8-sig", "\r\n")
    usage = {"Train": "Training", "Test": "PrivateTest"}
    write("usage.csv", ["image,emotion,Usage", *(f"{p},{e},{usage[s]}" for p, e, s in full)])
    write("spaces.csv", ["image , emotion, split ", *(f"{p} , {e} , {s} " for p, e, s in full)])
    write("utf16.csv", ["image\temotion\tsplit", *map("\t".join, full)], "utf-16", "\r\n")
    write("sep.csv", ["sep=;", "image;emotion", *(f"{p};{e}" for p, e in rows)], end="\r\n")
    write("cp1252.csv", ["image,emotion", *(f"{p},{e}" for p, e in rows)], "cp1252")
    write("shifted.csv", ["image,emotion", "Bilder/cake, big.jpg,joy", *(f"{p},{e}" for p, e in rows)])
    write("notes.csv", ["image,note,emotion", *(f"{p},well, so,{e}" for p, e in rows)])
    write("trailing.csv", ["image,emotion", *(f"{p},{e},," for p, e in rows)])
    write("headless.csv", [f"{p},{e}" for p, e in rows])
    write("twice.csv", ["image,emotion,emotion", *(f"{p},{e},{e}" for p, e in rows)])
    write("pipes.csv", ["image|emotion", *(f"{p}|{e}" for p, e in rows)])
    write("several.csv", ["image,label,category", *(f"{p},{e},{e}" for p, e in rows)])
    (out / "book.xlsx").write_bytes(b"PK\x03\x04" + bytes(100))
    composed = [(unicodedata.normalize("NFD", place), emotion) for place, emotion in rows]
    write("apple.csv", ["image,emotion", *(f"{p},{e}" for p, e in composed)])
    write("capitals.csv", ["image,emotion", *(f"{p.upper()},{e}" for p, e in rows)])


SPREADSHEETS = Case(
    "tables of spreadsheets",
    write_spreadsheets,
    (
        Command(OWN + "/german.csv --image_column Image --emotion_column Emotion", KEPT, "column 'Split' is kept to"),
        Command(OWN + "/german.csv", KEPT, "column 'Split' is kept to"),
        Command(OWN + "/usage.csv", KEPT, "column 'Usage' is kept to"),
        Command(OWN + "/usage.csv --split_column none", TWELVE),
        Command(OWN + "/spaces.csv", KEPT),
        Command(OWN + "/utf16.csv", KEPT),
        *(Command(OWN + f"/{name}.csv", TWELVE) for name in ("sep", "trailing", "pipes", "apple", "capitals")),
        Command(OWN + "/cp1252.csv", None, "no such table in UTF-8"),
        Command(OWN + "/shifted.csv", TWELVE, "1 x has more cells than the header"),
        Command(OWN + "/notes.csv", None, "12 of the 12 rows .* have more cells than its header"),
        Command(OWN + "/headless.csv", None, "has no header"),
        Command(OWN + "/twice.csv", None, "has the column 'emotion' 2 times"),
        Command(OWN + "/several.csv", None, "'label', 'category', which could all be meant.*--emotion_column"),
        Command(OWN + "/several.csv --emotion_column category", TWELVE),
        Command(OWN + "/book.xlsx", None, "Expected a folder, or a .csv"),
    ),
)


def write_json_forms(out: Path) -> None:
    """Write JSON as people and pandas do: arrays, columns, rows by a key, labels by file."""
    rows = [{"image": place, "emotion": emotion} for place, emotion in save_photos(out, name="pictures/{number}.jpg")]
    forms: dict[str, object] = {
        "array": rows,
        "columns": {key: {str(n): row[key] for n, row in enumerate(rows)} for key in ("image", "emotion")},
        "lists": {key: [row[key] for row in rows] for key in ("image", "emotion")},
        "split": {"columns": ["image", "emotion"], "data": [list(row.values()) for row in rows]},
        "index": {f"id{number}": row for number, row in enumerate(rows)},
        "files": {row["image"]: row["emotion"] for row in rows},
        "under": {"version": 1, "data": rows},
        "none": {"version": 1, "about": "nothing"},
    }
    for name, content in forms.items():
        (out / f"{name}.json").write_text(json.dumps(content, indent=1))
    write_lines(out / "lines.json", rows)
    (out / "array.jsonl").write_text(json.dumps(rows))
    (out / "cut.json").write_text(json.dumps(rows)[:-30])
    table = pa.Table.from_pylist([{"file_name": row["image"], "label": row["emotion"]} for row in rows])
    pq.write_table(table, out / "paths.parquet")
    write_table(out / "literal.csv", ["images", "emotion"], [([row["image"]], row["emotion"]) for row in rows])


JSON_FORMS = Case(
    "JSON and Parquet",
    write_json_forms,
    (
        *(
            Command(OWN + f"/{name}", TWELVE)
            for name in (
                *("array.json", "columns.json", "lists.json", "split.json", "index.json", "files.json", "under.json"),
                *("lines.json", "array.jsonl", "paths.parquet", "literal.csv"),
            )
        ),
        Command(OWN + "/none.json", None, "columns version, about, not image and emotion"),
        Command(OWN + "/cut.json", None, "Line 1 of .*cut.json"),
    ),
)


def write_embedded(out: Path) -> None:
    """Write tables that hold the images themselves: grey values as FER2013, and base64."""
    faces, urls = [], []
    for number in range(12):
        values = draw_photo(6_000 + number, FOUR[number % 4], (48, 48)).convert("L").tobytes()
        usage = ("Training", "PublicTest", "PrivateTest")[(number > 7) + (number > 9)]
        faces.append((number % 4, " ".join(map(str, values)), usage))
        encoded = base64.b64encode(encode(6_100 + number, FOUR[number % 4])).decode()
        urls.append({"image": f"data:image/jpeg;base64,{encoded}", "emotion": FOUR[number % 4]})
    write_table(out / "faces.csv", ["emotion", "pixels", "Usage"], faces)
    write_lines(out / "urls.jsonl", urls)
    mapping = ", ".join(f"{index}: {emotion}" for index, emotion in enumerate(FOUR))
    (out / "space.yaml").write_text(f"labels: [{', '.join(FOUR)}]\nmap: {{{mapping}}}\n")


EMBEDDED = Case(
    "images in the table itself",
    write_embedded,
    (
        Command(OWN + "/faces.csv", None, "are numbers: '"),
        Command(
            OWN + "/faces.csv --image_column pixels" + MAPPED, {"test": 2, "train": 8}, "2 x is of split 'publictest'"
        ),
        Command(OWN + "/urls.jsonl", TWELVE),
    ),
)

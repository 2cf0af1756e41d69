"""Further forms: packed and encoded tables, nested rows, splits by file, flags, annotators in columns."""

import base64
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from made_cases.basics import (
    FOUR,
    KEPT,
    OWN,
    SPACE,
    TWELVE,
    Case,
    Command,
    encode,
    save,
    save_photos,
    write_lines,
    write_table,
)


def write_forms(out: Path) -> None:
    """Write rows of other trainers and programs whose image or emotion stands elsewhere."""
    rows = save_photos(out, name="p/{number}.jpg")
    encoded = [base64.b64encode((out / place).read_bytes()).decode() for place, _ in rows]
    labels = [emotion for _, emotion in rows]
    pairs = list(zip(encoded, labels, strict=True))
    write_lines(out / "base64.jsonl", [{"images": [text], "answer": label} for text, label in pairs])
    pq.write_table(pa.table({"image": encoded, "emotion": labels}), out / "base64.parquet")
    lists = [[encode(number, label)] for number, label in enumerate(labels)]
    pq.write_table(pa.table({"image": lists, "emotion": labels}), out / "list.parquet")
    write_lines(out / "verl.jsonl", [{"images": [{"image": p}], "reward_model": {"ground_truth": e}} for p, e in rows])
    csv_text = "image,emotion\n" + "".join(f"{p},{e}\n" for p, e in rows)
    (out / "packed.csv.gz").write_bytes(gzip.compress(csv_text.encode()))
    (out / "cut.csv.gz").write_bytes(gzip.compress(csv_text.encode())[:60])
    (out / "commas.tsv").write_text(csv_text)
    (out / "quoted.csv").write_text("'','Kind'\n" + "".join(f"'{p}','{e}'\n" for p, e in rows))
    (out / "spaces.csv").write_text("".join(f"{p} 0 1 2 3\n" for p, _ in rows))
    listed = [{"image": p, "emotion": e} for p, e in rows]
    (out / "splits.json").write_text(json.dumps({"data": {"train": listed[:8], "test": listed[8:]}}))
    (out / "emotions.json").write_text(json.dumps({e: [p for p, f in rows if f == e] for e in FOUR}))
    write_table(out / "other.csv", ["input", "felt"], rows)
    write_table(out / "number.csv", ["image", "path", "emotion"], [(n, *row) for n, row in enumerate(rows)])
    write_table(out / "urls.csv", ["image_url", "emotion"], [(f"http://a.b/{p}", e) for p, e in rows])


FORMS = Case(
    "rows whose image or emotion stands elsewhere",
    write_forms,
    (
        *(
            Command(OWN + f"/{name}", TWELVE)
            for name in (
                *("base64.jsonl", "base64.parquet", "list.parquet", "verl.jsonl", "packed.csv.gz", "commas.tsv"),
                *("quoted.csv", "emotions.json"),
            )
        ),
        Command(OWN + "/other.csv", TWELVE, "from column 'input', the emotion from 'felt'"),
        Command(OWN + "/number.csv", TWELVE, "from column 'path'"),
        Command(OWN + "/splits.json", KEPT),
        Command(OWN + "/cut.csv.gz", None, "is damaged"),
        Command(OWN + "/spaces.csv", None, "has no header"),
        Command(OWN + "/urls.csv", None, "nothing is downloaded"),
    ),
)


def write_columns(out: Path) -> None:
    """Write votes and splits as spreadsheets and programs write them, and labels of several emotions."""
    rows = save_photos(out, name="p/{number}.jpg")

    def other(emotion: str) -> str:
        return FOUR[(FOUR.index(emotion) + 1) % 4]

    def count(name: str, names: list[str], most: object, least: object, delimiter: str = ",") -> None:
        counted = [(p, *(most if x == e else least for x in FOUR)) for p, e in rows]
        write_table(out / name, ["image", *names], counted, delimiter)

    count("decimal.csv", list(FOUR), "0,7", "0,1", ";")
    count("flags.csv", [f"is_{e}" for e in FOUR], True, False)
    count("probabilities.csv", [f"prob_{e}" for e in FOUR], 0.7, 0.1)
    names = [f"emotion{number}" for number in (1, 2, 3)]
    write_table(out / "annotators.csv", ["image", *names], [(p, e, e, other(e)) for p, e in rows])
    for name, form in (("spaces", "{} {}"), ("tags", "#{} #{}"), ("weights", "{}:0.8,{}:0.2")):
        write_table(out / f"{name}.csv", ["image", "emotion"], [(p, form.format(e, other(e))) for p, e in rows])
    for name, train in (("train", 1), ("test", 0), ("is_valid", 0)):
        cells = [(p, e, train if n < 8 else 1 - train) for n, (p, e) in enumerate(rows)]
        write_table(out / f"{name}.csv", ["image", "label", name], cells)


COLUMNS = Case(
    "votes, annotators and splits in columns",
    write_columns,
    (
        *(Command(OWN + f"/{name}.csv", TWELVE, "counts votes") for name in ("decimal", "flags", "probabilities")),
        Command(OWN + "/annotators.csv", None, "several columns of emotions.*are votes"),
        Command(OWN + "/annotators.csv --emotion_column emotion1,emotion2,emotion3", TWELVE),
        *(Command(OWN + f"/{name}.csv", None, "name several emotions") for name in ("spaces", "tags", "weights")),
        *(Command(OWN + f"/{name}.csv", KEPT, "says which rows are") for name in ("train", "test", "is_valid")),
    ),
)


def write_disks(out: Path) -> None:
    """Write folders with loops, smaller copies, splits in names, and tables in other folders."""
    for number in range(12):
        emotion = FOUR[number % 4]
        save(out / "loop" / emotion / f"{number}.png", number, emotion)
        save(out / "small" / emotion / f"{number}.jpg", number, emotion)
        save(out / "small" / emotion / "100px" / f"{number}.jpg", number, emotion)
        split = "train" if number < 8 else "test"
        save(out / "names" / f"images_{split}" / emotion / f"{number}.png", number, emotion)
        save(out / "lists" / split / f"{number}.png", number, emotion)
        save(out / "apart" / "images" / f"{number}.png", number, emotion)
    os.symlink(".", out / "loop" / "again")
    rows = [(f"{number}.png", FOUR[number % 4]) for number in range(12)]
    write_table(out / "lists" / "train_labels.csv", ["filename", "emotion"], rows[:8])
    write_table(out / "lists" / "test_labels.csv", ["filename", "emotion"], rows[8:])
    write_table(out / "apart" / "annotations" / "all.csv", ["filename", "emotion"], rows)
    snapshot = out / "hub" / "datasets--a--b" / "snapshots" / "1a2b"
    blobs = snapshot.parents[1] / "blobs"
    (snapshot / "images").mkdir(parents=True)
    blobs.mkdir()
    for number, (_, emotion) in enumerate(rows):
        (blobs / f"{number}").write_bytes(encode(number, emotion))
        (snapshot / "images" / f"{number}.jpg").symlink_to(f"../../../blobs/{number}")
    write_lines(blobs / "rows", [{"file_name": f"images/{n}.jpg", "label": e} for n, (_, e) in enumerate(rows)])
    (snapshot / "metadata.jsonl").symlink_to("../../blobs/rows")


DISKS = Case(
    "loops, smaller copies, splits in names",
    write_disks,
    (
        Command(OWN + "/loop", TWELVE, "a symbolic link to a folder around it"),
        Command(OWN + "/small", TWELVE, "a folder of smaller copies"),
        Command(OWN + "/names", KEPT),
        Command(OWN + "/lists", KEPT),
        Command(OWN + "/apart", None, "'annotations/all.csv' beside them may say"),
        Command(OWN + "/hub/datasets--a--b/snapshots/1a2b", TWELVE),
        Command("--dataset own --hub_id {out}/hub/datasets--a--b/snapshots/1a2b" + SPACE, TWELVE),
    ),
)

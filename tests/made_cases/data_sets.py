"""Folders and data sets: metadata, Parquet, WebDataset, splits, years of photos, other scripts, hostile files."""

import io
import json
import tarfile
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from downloads import write_emoset, write_emotion6

from made_cases.basics import (
    FOUR,
    KEPT,
    OWN,
    SPACE,
    TWELVE,
    Case,
    Command,
    draw_photo,
    encode,
    save,
    save_photos,
    write_lines,
    write_table,
)


def write_image_folders(out: Path) -> None:
    """Write folders with metadata, as `datasets` reads them, and tables beside the images of each split."""
    for kind in ("csv", "jsonl", "parquet"):
        rows = [
            {"file_name": place, "label": emotion}
            for place, emotion in save_photos(out / kind, name="pictures/{number}.jpg")
        ]
        if kind == "csv":
            write_table(out / kind / "metadata.csv", ["file_name", "label"], [tuple(row.values()) for row in rows])
        elif kind == "jsonl":
            write_lines(out / kind / "metadata.jsonl", rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), out / kind / "metadata.parquet")
    for split, count, seed in (("train", 8, 1), ("test", 4, 2), ("valid", 4, 3)):
        rows = save_photos(out / "splits" / split, count, seed)
        write_table(out / "splits" / split / "metadata.csv", ["file_name", "label"], rows)
        hot = [(place, *(int(label == emotion) for label in FOUR)) for place, emotion in rows]
        save_photos(out / "hot" / split, count, seed)
        write_table(out / "hot" / split / "_classes.csv", ["filename", *(" " + label for label in FOUR)], hot)
        listed = [(f"images/{split}_{place}", emotion) for place, emotion in rows]
        save_photos(out / "lists" / "images", count, seed, split + "_{number}.jpg")
        write_table(out / "lists" / f"{split}.csv", ["image", "emotion"], listed)
    save_photos(out / "two", 4)
    for name in ("metadata.csv", "metadata.jsonl"):
        (out / "two" / name).write_text("file_name,label\n")


IMAGE_FOLDERS = Case(
    "folders with tables of labels",
    write_image_folders,
    (
        *(Command(OWN + f"/{kind}", TWELVE, f"metadata.{kind}") for kind in ("csv", "jsonl", "parquet")),
        *(Command(f"--dataset own --hub_id {{out}}/{kind}" + SPACE, TWELVE) for kind in ("csv", "jsonl")),
        *(Command(OWN + f"/{name}", KEPT) for name in ("splits", "hot", "lists")),
        Command(OWN + "/two", None, "holds 'metadata.csv', 'metadata.jsonl'.*Name it"),
    ),
)


def write_datasets(out: Path) -> None:
    """Write what `datasets` reads: folders of images, WebDataset, Arrow, Parquet with and without its features."""
    for split, count in (("train", 8), ("valid", 4), ("test", 4)):
        for number in range(count):
            seed = 7_000 + 100 * len(split) + number
            save(out / "folders" / split / FOUR[number % 4].title() / f"{number}.jpg", seed, FOUR[number % 4])
    for name in ("cls", "json"):
        (out / name).mkdir()
        with tarfile.open(out / name / "train-000.tar", "w") as tar:
            for number in range(12):
                emotion = FOUR[number % 4]
                label = {"cls": emotion.encode(), "json": json.dumps({"emotion": emotion}).encode()}[name]
                for suffix, content in (("jpg", encode(7_500 + number, emotion)), (name, label)):
                    info = tarfile.TarInfo(f"{number:04d}.{'txt' if suffix == 'cls' else suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(FOUR))})
    rows = [{"image": {"bytes": encode(7_700 + n, FOUR[n % 4]), "path": None}, "label": n % 4} for n in range(12)]
    dataset = Dataset.from_list(rows, features=features)
    DatasetDict({"train": dataset.select(range(8)), "test": dataset.select(range(8, 12))}).save_to_disk(out / "arrow")
    plain = pa.Table.from_pylist([{"image": encode(7_800 + n, FOUR[n % 4]), "emotion": FOUR[n % 4]} for n in range(12)])
    pq.write_table(plain, out / "bytes.parquet")
    numbered = Features({"image": ImageFeature(), "label": Value("int64")})
    (out / "numbers").mkdir()
    Dataset.from_list(rows, features=numbered).to_parquet(out / "numbers" / "train.parquet")


DATASETS = Case(
    "what `datasets` reads",
    write_datasets,
    (
        Command("--dataset own --hub_id {out}/folders" + SPACE, KEPT),
        Command(OWN + "/folders", KEPT, "4 x is of split 'valid'"),
        *(Command(f"--dataset own --hub_id {{out}}/{name}" + SPACE, TWELVE) for name in ("cls", "json")),
        *(Command(OWN + f"/{name}", TWELVE) for name in ("cls", "json", "bytes.parquet")),
        Command(OWN + "/arrow", KEPT),
        Command("--dataset own --hub_id {out}/numbers" + SPACE, None, "outside the label space.*A number does not say"),
        Command("--dataset own --hub_id {out}/nothing" + SPACE, None, "cannot be loaded"),
    ),
)


def write_splits(out: Path) -> None:
    """Write data with splits of other names, of one kind only, or in a column of another name."""
    for number in range(12):
        emotion, late = FOUR[number % 4], number > 7
        for root, split in (
            ("val", "val" if late else "train"),
            ("only_train", "train"),
            ("only_test", "test"),
            ("dev", "dev" if late else "training"),
        ):
            save(out / root / split / emotion / f"{number}.jpg", 8_000 + number, emotion)
        save(out / ("test" if late else "train") / f"{number}.jpg", 8_100 + number, emotion)
    places = [("test" if number > 7 else "train") + f"/{number}.jpg" for number in range(12)]
    columns = {
        "letters": ("split", ["AB"[number > 7] for number in range(12)]),
        "fold": ("fold", [number % 3 for number in range(12)]),
        "flag": ("is_test", [int(number > 7) for number in range(12)]),
        "set": ("subset_name", ["testing" if number > 7 else "training" for number in range(12)]),
        "paths": ("note", ["x"] * 12),
    }
    for name, (column, values) in columns.items():
        rows = [(place, FOUR[n % 4], value) for n, (place, value) in enumerate(zip(places, values, strict=True))]
        rows = [(f"../{out.name}/{place}", *rest) for place, *rest in rows] if name == "never" else rows
        write_table(out / f"{name}.csv", ["image", "emotion", column], rows)


SPLITS = Case(
    "splits of other names",
    write_splits,
    (
        Command(OWN + "/val", KEPT, "has no split for testing: its validation split is taken"),
        Command(OWN + "/val --test 2", {"test": 2, "train": 8}),
        Command(OWN + "/dev", KEPT, "'training' 8, 'dev' 4"),
        Command(OWN + "/dev --test_split dev --test 4", KEPT),
        Command(OWN + "/dev --test_split validation --test 4", KEPT),
        Command(OWN + "/dev --test_split other", None, "--test_split is 'other', but .* has the splits"),
        Command(OWN + "/only_train", TWELVE, "The only split"),
        Command(OWN + "/only_test --train 0 --test 12", {"test": 12}, "The only split"),
        Command(OWN + "/letters.csv", None, "has the splits 'a' 8, 'b' 4.*--train_split"),
        Command(OWN + "/letters.csv --train_split A --test_split B", KEPT),
        Command(OWN + "/letters.csv --split_column none", TWELVE),
        Command(OWN + "/fold.csv --split_column none", TWELVE),
        Command(OWN + "/fold.csv", KEPT, "column 'fold' .* is not used.*--split_column"),
        Command(OWN + "/flag.csv", KEPT, "column 'is_test' says"),
        Command(OWN + "/set.csv", KEPT, "column 'subset_name' is kept to"),
        Command(OWN + "/paths.csv", KEPT, "folders in its paths are kept to"),
        Command(OWN + "/set.csv --split_column nothing", None, "--split_column is 'nothing'"),
    ),
)


def write_photos(out: Path) -> None:
    """Write folders as years leave them: thumbnails, HEIC, what systems leave behind, names in other spellings."""
    heic = b"\0\0\0\x18ftypheic" + bytes(60)
    for number in range(12):
        emotion = FOUR[number % 4]
        folder = out / emotion.title()
        save(folder / f"IMG {number}.JPG", 9_000 + number, emotion, format="JPEG")
        save(folder / "@eaDir" / f"IMG {number}.JPG" / "SYNO_THUMB_M.jpg", 9_000 + number, emotion)
        (folder / "thumbs").mkdir(exist_ok=True)
        draw_photo(9_000 + number, emotion, (32, 24)).save(folder / f"IMG {number}-150x150.JPG", "JPEG")
        draw_photo(9_000 + number, emotion).resize((30, 22)).save(folder / "thumbs" / f"IMG {number}.jpg")
    for name, content in (
        ("phone.HEIC", heic),
        ("phone.jpg", heic),
        ("empty.jpg", b""),
        ("page.jpg", b"<html>404</html>"),
    ):
        (out / "Joy" / name).write_bytes(content)
    (out / "Joy" / "pointer.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (out / ".DS_Store").write_bytes(b"\0")


PHOTOS = Case(
    "folders of photos",
    write_photos,
    (Command(OWN, {"test": 3, "train": 9}, "12 x is a smaller copy.*4 x is a folder of thumbnails.*HEIC image"),),
)


def write_spellings(out: Path) -> None:
    """Write labels in other scripts, composed and decomposed, in full width and in capitals."""
    for number in range(12):
        emotion = ("Ärger", "Überraschung", "Freude")[number % 3]
        form = "NFC" if number < 6 else "NFD"
        folder = unicodedata.normalize(form, emotion) + ("" if number < 6 else " ")
        save(out / "folders" / folder / f"{number}.jpg", 9_500 + number, FOUR[number % 3])
    rows = save_photos(out, name="pictures/{number}.jpg")
    wide = {"anger": "ＡＮＧＥＲ", "fear": "fear\u200b", "joy": "\xa0Joy ", "sadness": "Sadness."}
    write_table(out / "wide.csv", ["image", "emotion"], [(place, wide[emotion]) for place, emotion in rows])


SPELLINGS = Case(
    "spellings",
    write_spellings,
    (
        Command(OWN + "/folders", TWELVE, "", ("freude", "ärger", "überraschung")),
        Command(OWN + "/wide.csv", TWELVE),
    ),
)


def write_hostile(out: Path) -> None:
    """Write what would print megabytes, or never end."""
    rows = save_photos(out, 4, name="{number}.jpg")
    levels = ['a0: &a0 ["x", "x", "x", "x", "x", "x", "x", "x", "x"]']
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 8)]
    (out / "bomb.yaml").write_text("\n".join([*levels, "name: *a7", "labels: [*a7, joy]", "map: {happy: joy}"]))
    (out / "map.yaml").write_text("\n".join([*levels, "labels: [anger, fear, joy]", "map: *a7"]))
    (out / "many.yaml").write_text("labels: [" + ", ".join(f"w{n}" for n in range(5000)) + "]")
    write_table(out / "t.csv", ["image", "emotion"], rows)
    write_table(out / "long.csv", ["image", "emotion"], [(place, "x" * 100_000) for place, _ in rows])
    write_table(out / "columns.csv", [f"column {n}" for n in range(3000)], [["x"] * 3000])
    write_lines(out / "deep.jsonl", [{"image": "0.jpg", "emotion": {"a": [["joy"] * 1000] * 1000}}])
    (out / "nested.json").write_text("[" * 100_000)
    write_table(out / "paths.csv", ["image", "emotion"], [("p" * 90_000 + place, emotion) for place, emotion in rows])
    write_table(out / "secret.csv", ["image", "emotion"], [("/etc/passwd", "joy"), ("../../../etc/shadow", "fear")])


HOSTILE = Case(
    "hostile files",
    write_hostile,
    (
        Command(OWN + "/t.csv --label_space {out}/bomb.yaml", None, "bomb.yaml holds"),
        Command(OWN + "/t.csv --label_space {out}/map.yaml", None, "`map` of .*map.yaml"),
        Command(OWN + "/t.csv --label_space {out}/many.yaml", None, "has 5,000 labels"),
        Command(OWN + "/long.csv", None, "are sentences"),
        Command(OWN + "/columns.csv", None, "has the columns column 0"),
        Command(OWN + "/deep.jsonl", None, "offers no labelled picture"),
        Command(OWN + "/nested.json", None, "Line 1 of .*nested.json"),
        Command(OWN + "/paths.csv", None, "No picture of own"),
        Command(OWN + "/secret.csv", None, "leads out of the folder"),
    ),
)


def write_paper_sets(out: Path) -> None:
    """Write EmoSet and Emotion6 as they are unpacked, copied and written again."""
    write_emoset(out / "nested" / "EmoSet-118K", 2)
    for name in ("windows", "numbers", "no_info"):
        root = write_emoset(out / name, 2)
        for split in ("train", "val", "test"):
            rows = json.loads((root / f"{split}.json").read_text())
            order = json.loads((root / "info.json").read_text())["emotion"]["label2idx"]
            for row in rows:
                if name == "windows":
                    row[1] = row[1].replace("/", "\\")
                else:
                    row[0] = order[row[0]]
            (root / f"{split}.json").write_text(json.dumps(rows))
        if name == "no_info":
            (root / "info.json").unlink()
    write_emoset(out / "pictures", 2)
    for split in ("train", "val", "test"):
        (out / "pictures" / f"{split}.json").unlink()
    write_emotion6(out / "outer" / "Emotion6", 10)
    root = write_emotion6(out / "capitals", 10)
    for folder in list((root / "images").iterdir()):
        folder.rename(folder.with_name(folder.name.title()))


EIGHT = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
SIX = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
EMOSET = "--dataset emoset --train 8 --test 8 --source {out}"
PAPER_SETS = Case(
    "the paper's data sets",
    write_paper_sets,
    (
        Command(EMOSET + "/nested", None, "Did you mean --source .*nested/EmoSet-118K"),
        Command(EMOSET + "/windows", {"test": 8, "train": 8}, "", EIGHT, "name"),
        Command(EMOSET + "/numbers", {"test": 8, "train": 8}, "info.json", EIGHT, "name"),
        Command(EMOSET + "/no_info", None, "holds numbers for labels.*info.json"),
        Command(EMOSET + "/pictures", None, "--dataset own --source .*pictures/image --label_space emoset_8"),
        Command(OWN + "/pictures", None, "Did you mean --source .*pictures/image"),
        Command(OWN + "/pictures/image", {"test": 9, "train": 39}, "", EIGHT, "name"),
        Command(
            "--dataset emotion6 --source {out}/outer --train 12 --test 12",
            None,
            "Did you mean --source .*outer/Emotion6",
        ),
        Command(
            "--dataset emotion6 --source {out}/outer/Emotion6/images --train 6",
            None,
            "Did you mean --source .*Emotion6",
        ),
        Command(
            "--dataset emotion6 --source {out}/capitals --train 12 --test 12",
            {"test": 12, "train": 12},
            "",
            SIX,
            "name",
        ),
        Command(
            "--dataset emotion6 --label_from folder_and_votes --source {out}/capitals --train 12 --test 12",
            {"test": 12, "train": 12},
            "",
            SIX,
            "name",
        ),
        Command(
            "--dataset emotion6 --label_from votes --source {out}/capitals --train 12 --test 12",
            {"test": 12, "train": 12},
            "",
            SIX,
            "nothing",
        ),
    ),
)

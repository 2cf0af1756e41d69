"""Writes small copies of the data sets as people download them, oddities included."""

import csv
import json
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from emor3_trl.data.sources.emotion6 import VOTES
from emor3_trl.data.sources.webemo import GROUPS
from emor3_trl.emotions import EMOSET_8, EMOTION6

EMOSET_ORDER = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")  # info.json's


def photo(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Return a picture that no other seed looks like."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def save(path: Path, seed: int, **options) -> Path:
    """Save a photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(seed).save(path, **options)
    return path


def write_emoset(root: Path, per_label: int = 4, with_id: bool = False) -> Path:
    """Write EmoSet: three lists, with or without an id behind the label, annotations for some."""
    seed = 0
    for split in ("train", "val", "test"):
        rows = []
        for label in EMOSET_8.labels:
            for _ in range(per_label):
                seed += 1
                name = f"{label}_{seed:05d}"
                save(root / "image" / label / f"{name}.jpg", seed)
                paths = [f"image/{label}/{name}.jpg", f"annotation/{label}/{name}.json"]
                rows.append([label, *([f"{name}.jpg"] if with_id else []), *paths])
        (root / f"{split}.json").write_text(json.dumps(rows))
    info = {"emotion": {"label2idx": {label: index for index, label in enumerate(EMOSET_ORDER)}}}
    (root / "info.json").write_text(json.dumps(info))
    annotation = root / "annotation" / "awe" / "awe_1.json"
    annotation.parent.mkdir(parents=True)
    annotation.write_text(json.dumps({"brightness": 0.4, "object": ["sky"]}))
    return root


def write_emotion6(root: Path, per_label: int = 10) -> Path:
    """Write Emotion6: folders of labels, and a table of votes with a header, a tie and neutral winners."""
    lines = ["[filename]\t[valence]\t[arousal]\t" + "\t".join(f"[prob. {vote}]" for vote in VOTES)]
    for place, label in enumerate(EMOTION6.labels):
        for number in range(1, per_label + 1):
            save(root / "images" / label / f"{number}.jpg", 1000 * (place + 1) + number)
            winner = {1: "neutral", 2: EMOTION6.labels[(place + 1) % 6]}.get(number, label)
            shares = dict.fromkeys(VOTES, 0.05) | {winner: 0.7}
            if number == 3:
                shares |= {winner: 0.4, "neutral": 0.4}
            values = "\t".join(f"{shares[vote]:.6f}" for vote in VOTES)
            lines.append(f"{label}/{number}.jpg\t4.5\t5.2\t{values}")
    (root / "ground_truth.txt").write_text("\n".join(lines) + "\n")
    return root


def write_webemo(root: Path, per_label: int = 2) -> Path:
    """Write WebEmo: 25 labels with two-digit ids, dead links, URLs with one file name, one of them in a table."""
    names = sorted(name for group in GROUPS.values() for name in group)
    group_of = {name: group for group, members in GROUPS.items() for name in members}
    root.mkdir(parents=True, exist_ok=True)
    (root / "category.txt").write_text("\n".join(f"{name} {group_of[name]}" for name in names) + "\n")
    seed = 5000
    for split in ("train", "test"):
        lines = []
        for label, name in enumerate(names):
            for number in range(per_label):
                seed += 1
                lines.append(f"https://thumbs.example.org/{name}/p{seed}.jpg?x=1 {label}")
                if number or label % 5:  # the others are dead
                    save(root / "images" / f"p{seed}.jpg", seed)
        lines += [f"http://a.example.org/same{split}.jpg 3", f"http://b.example.org/same{split}.jpg 24"]
        save(root / "images" / f"same{split}.jpg", seed + 1000)
        lines += [f"http://{split}.example.org/both.jpg 7"]
        (root / f"{split}25.txt").write_text("\n".join(lines) + "\n")
    save(root / "images" / "both.jpg", seed + 2000)
    with (root / "images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["url", "path"])
        save(root / "elsewhere" / "b.jpg", 9999)
        rows.writerow(["http://b.example.org/sametest.jpg", "elsewhere/b.jpg"])
    return root


def write_hub_emoset(root: Path, rows: int = 16) -> Path:
    """Write EmoSet's copy on the Hub: Parquet files of three splits, labels as numbers in info.json's order."""
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=EMOSET_ORDER), "image_id": Value("string")})
    for place, split in enumerate(("train", "validation", "test")):
        pictures = [photo(100 * place + number) for number in range(rows)]
        content = [{"image": one, "label": row % 8, "image_id": str(row)} for row, one in enumerate(pictures)]
        (root / "data").mkdir(parents=True, exist_ok=True)
        Dataset.from_list(content, features=features).to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return root


def write_own_folders(root: Path, per_label: int = 6) -> Path:
    """Write a folder of folders, with what systems and people leave in one."""
    for place, label in enumerate(("Joy", "anger")):
        for number in range(per_label):
            save(root / label / ("", "more")[number % 2] / f"{number}.JPG", 8000 + 100 * place + number)
    (root / "Joy" / "._0.JPG").write_bytes(b"of another system")
    (root / "Joy" / "notes.txt").write_text("not a picture")
    save(root / "__MACOSX" / "Joy" / "0.jpg", 1)
    save(root / "Joy" / ".thumbnails" / "0.jpg", 1)
    return root


def write_own_tables(root: Path, per_label: int = 6, columns: tuple[str, str] = ("image", "emotion")) -> Path:
    """Write photos.csv and photos.jsonl, their pictures and space.yaml, which knows the table's words."""
    words = {"happy": "joy", "ANGRY": "anger", "unsure": None}
    rows = []
    for place, word in enumerate(words):
        for number in range(per_label):
            name = f"photos/{place}{number}.jpg"
            save(root / name, 9000 + 100 * place + number)
            rows.append((name, word))
    with (root / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows, ("photos/no.jpg", "joy"), ("", "joy")])
    objects = [{**dict(zip(columns, row, strict=True)), "note": "two\u2028lines"} for row in rows]
    lines = [json.dumps(row, ensure_ascii=False) for row in objects]
    (root / "photos.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "space.yaml").write_text(
        "name: mine\nlabels: [joy, anger]\nmap:\n  happy: joy\n  angry: anger\n  unsure: null\n"
    )
    return root

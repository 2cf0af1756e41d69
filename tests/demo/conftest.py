"""What the tests of the demo share: its processor, and a few drawn pictures."""

import pytest
from PIL import Image
from transformers import Qwen2_5_VLProcessor

from emor3_trl.demo.drawings import Drawing
from emor3_trl.demo.pictures import choose_drawing, draw
from emor3_trl.demo.processor import build_demo_processor
from emor3_trl.demo.worlds import WORLDS


@pytest.fixture(scope="session")
def processor() -> Qwen2_5_VLProcessor:
    """The demo's processor."""
    return build_demo_processor()


@pytest.fixture(scope="session")
def pictures() -> list[tuple[Image.Image, Drawing]]:
    """Four pictures of each world."""
    drawings = [choose_drawing(world, 0, "train", index) for world in WORLDS for index in range(4)]
    return [(draw(drawing), drawing) for drawing in drawings]


@pytest.fixture(scope="session")
def drawings() -> list[Drawing]:
    """Drawings of each world; every look is there several times."""
    return [choose_drawing(world, 3, "train", index) for world in WORLDS for index in range(84)]

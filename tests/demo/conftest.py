"""What the tests of the demo share: its processor, and a few drawn people."""

import pytest
from PIL import Image
from transformers import Qwen2_5_VLProcessor

from emor3_trl.demo.pictures import Peep, choose_peep, draw_peep
from emor3_trl.demo.processor import build_demo_processor


@pytest.fixture(scope="session")
def processor() -> Qwen2_5_VLProcessor:
    """The demo's processor."""
    return build_demo_processor()


@pytest.fixture(scope="session")
def people() -> list[tuple[Image.Image, Peep]]:
    """Eight drawn people."""
    peeps = [choose_peep(0, "train", index) for index in range(8)]
    return [(draw_peep(peep), peep) for peep in peeps]

"""A contact sheet: a few of the pictures that were taken, by split and emotion, to look at before training."""

import io
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PER_LABEL, SIDE, GAP, MARGIN = 10, 112, 6, 110


class ContactSheet:
    """Collects the first pictures of each split and emotion.

    Args:
        labels: the emotions, one row each.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self._thumbnails: dict[tuple[str, str], list[Image.Image]] = defaultdict(list)

    def add(self, split: str, emotion: str, data: bytes) -> None:
        """Take a picture file, if there is room in its row."""
        row = self._thumbnails[split, emotion]
        if len(row) < PER_LABEL:
            with Image.open(io.BytesIO(data)) as image:
                image.thumbnail((SIDE, SIDE))
                row.append(image.convert("RGB"))

    def save(self, path: Path) -> None:
        """Draw the sheet as a PNG."""
        splits = list(dict.fromkeys(split for split, _ in self._thumbnails))
        rows = [(split, label) for split in splits for label in self.labels]
        step = SIDE + GAP
        sheet = Image.new("RGB", (MARGIN + PER_LABEL * step, 30 * len(splits) + len(rows) * step), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
        top = 0
        for split in splits:
            draw.text((GAP, top + 8), split, "black", font)
            top += 30
            for label in self.labels:
                draw.text((GAP, top + SIDE // 2 - 8), label, "black", font)
                for column, thumbnail in enumerate(self._thumbnails[split, label]):
                    sheet.paste(thumbnail, (MARGIN + column * step, top + (SIDE - thumbnail.height) // 2))
                top += step
        temporary = path.with_name(f"{path.name}.tmp")
        sheet.save(temporary, "PNG")
        os.replace(temporary, path)

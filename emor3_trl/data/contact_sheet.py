"""A contact sheet: a few of the images that were taken, by split and emotion, to look at before training."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from emor3_trl.files import replacing

PER_LABEL, SIDE, GAP, HEADING = 10, 112, 6, 30  # images, then pixels
MAX_ROWS = 40  # the first so many labels of a split are shown


class ContactSheet:
    """Collects the first images of each split and emotion.

    Args:
        labels: the emotions, one row each.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels[:MAX_ROWS])
        self._thumbnails: dict[tuple[str, str], list[Image.Image]] = defaultdict(list)

    def add(self, split: str, emotion: str, image: Image.Image) -> None:
        """Add an image or its thumbnail, if its row has room."""
        row = self._thumbnails[split, emotion]
        if emotion in self.labels and len(row) < PER_LABEL:
            row.append(image.copy())
            row[-1].thumbnail((SIDE, SIDE))

    def save(self, path: Path) -> None:
        """Draw the sheet as a PNG."""
        splits = list(dict.fromkeys(split for split, _ in self._thumbnails))
        step, font = SIDE + GAP, ImageFont.load_default(13)
        margin = 2 * GAP + round(max(font.getlength(label) for label in self.labels))
        height = len(splits) * (HEADING + len(self.labels) * step)
        sheet = Image.new("RGB", (margin + PER_LABEL * step, height), "white")
        draw = ImageDraw.Draw(sheet)
        top = 0
        for split in splits:
            draw.text((GAP, top + 8), split, "black", font)
            top += HEADING
            for label in self.labels:
                draw.text((GAP, top + SIDE // 2 - 8), label, "black", font)
                for column, thumbnail in enumerate(self._thumbnails[split, label]):
                    left = margin + column * step + (SIDE - thumbnail.width) // 2
                    sheet.paste(thumbnail, (left, top + (SIDE - thumbnail.height) // 2))
                top += step
        with replacing(path) as temporary:
            sheet.save(temporary, "PNG", compress_level=1)

"""Which images are the same: equal files, or one image that was scaled or compressed again.

Two images are nearly the same if their difference hashes (64 bits) differ in at most four bits, and their colours, on
a grid of 8 x 8, differ nowhere by much. The hash alone cannot tell plain images, or small marks on white, apart.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from emor3_trl.data.sources.candidates import Unusable

HASH_BITS = 4  # of 64 that may differ
MIN_STEP = 2  # grey levels that count as darker, so that compression flips no bit of a flat area
COLOUR_DISTANCE = 32  # levels of 0 to 255 by which a cell may differ; compressing 118 images again changed none by 23


@dataclass(frozen=True)
class Look:
    """What nearly equal images share.

    Args:
        hash: 64 bits, whether each cell of an 8 x 9 grid is darker than its right neighbour.
        colours: RGB of an 8 x 8 grid, 192 bytes.
    """

    hash: int
    colours: bytes


def compute_look(image: Image.Image) -> Look:
    """Return the look of an RGB image. A thumbnail has the same look, and is faster."""
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = np.packbits(cells[:, :-1] + MIN_STEP < cells[:, 1:]).tobytes()
    return Look(int.from_bytes(bits, "big"), image.resize((8, 8), Image.Resampling.BOX).tobytes())


class SeveralEmotions(Unusable):
    """A file that was taken under another emotion.

    Args:
        first: id of the candidate that was taken.
    """

    def __init__(self, first: str, reason: str) -> None:
        super().__init__(reason)
        self.first = first


class TakenImages:
    """Remembers the images that were taken, so that no file is taken twice and no two splits share an image."""

    def __init__(self) -> None:
        self._contents: dict[bytes, tuple[str, str, str]] = {}  # split, id, emotion
        self._looks: list[Look] = []  # of the current split
        self._split = ""
        self._earlier_splits: list[tuple[str, np.ndarray, np.ndarray]] = []  # split, hashes (N,), colours (N, 192)

    def begin_split(self, split: str) -> None:
        """Start a split. From now on the images of earlier splits are refused, and nearly equal ones too."""
        if self._looks:
            hashes = np.array([look.hash for look in self._looks], dtype=np.uint64)
            colours = np.frombuffer(b"".join(look.colours for look in self._looks), np.uint8).reshape(len(hashes), -1)
            self._earlier_splits.append((self._split, hashes, colours))
        self._split, self._looks = split, []

    def add(self, content: bytes, look: Look, name: str = "", emotion: str = "") -> None:
        """Take an image.

        Args:
            content: SHA-256 of its file.
            look: its look.
            name, emotion: of its candidate.

        Raises:
            SeveralEmotions: if its file was taken before, under another emotion.
            Unusable: if its file was taken before, or an image of another split is nearly the same.
        """
        if content in self._contents:
            split, first, first_emotion = self._contents[content]
            if emotion != first_emotion:
                raise SeveralEmotions(first, "is the same file as one under another emotion")
            raise Unusable(f"is the same file as a picture of {split}")
        for split, hashes, colours in self._earlier_splits:
            alike = np.bitwise_count(hashes ^ np.uint64(look.hash)) <= HASH_BITS
            if alike.any():
                difference = colours[alike].astype(np.int16) - np.frombuffer(look.colours, np.uint8)
                if np.abs(difference).max(axis=1).min() <= COLOUR_DISTANCE:
                    raise Unusable(f"is nearly the same as a picture of {split}")
        self._contents[content] = self._split, name, emotion
        self._looks.append(look)

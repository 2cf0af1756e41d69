"""Which pictures are the same: equal files, or the same picture scaled or compressed anew.

Two pictures are nearly the same if their difference hashes (64 bits) differ in at most four and their colours, on a
grid of 8 x 8, nowhere by much. The hash alone holds plain pictures, and small marks on white, for one.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from emor3_trl.data.sources.candidates import Unusable

HASH_BITS = 4  # of 64 that may differ
MIN_STEP = 2  # grey levels that count as darker, so that compression flips no bit of a flat area
COLOUR_DISTANCE = 32  # levels of 0 to 255 by which a cell may differ; of 118 pictures compressed anew, none did by 23


@dataclass(frozen=True)
class Look:
    """What nearly equal pictures share.

    Args:
        hash: 64 bits, whether each cell of an 8 x 9 grid is darker than its right neighbour.
        colours: RGB of an 8 x 8 grid, 192 bytes.
    """

    hash: int
    colours: bytes


def look_of(image: Image.Image) -> Look:
    """Return the look of an RGB picture; of a thumbnail it is the same, and found sooner."""
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = np.packbits(cells[:, :-1] + MIN_STEP < cells[:, 1:]).tobytes()
    return Look(int.from_bytes(bits, "big"), image.resize((8, 8), Image.Resampling.BOX).tobytes())


class Taken:
    """What is known of the pictures that were taken: no file is taken twice, and no two splits share a picture."""

    def __init__(self) -> None:
        self._contents: dict[bytes, str] = {}
        self._looks: list[Look] = []  # of the split under way
        self._split = ""
        self._finished: list[tuple[str, np.ndarray, np.ndarray]] = []  # split, hashes (N,), colours (N, 192)

    def begin(self, split: str) -> None:
        """Start a split; pictures of those before it are refused from now on, also nearly equal ones."""
        if self._looks:
            hashes = np.array([look.hash for look in self._looks], dtype=np.uint64)
            colours = np.frombuffer(b"".join(look.colours for look in self._looks), np.uint8).reshape(len(hashes), -1)
            self._finished.append((self._split, hashes, colours))
        self._split, self._looks = split, []

    def add(self, content: bytes, look: Look) -> None:
        """Take a picture.

        Args:
            content: SHA-256 of its file.
            look: its look.

        Raises:
            Unusable: if its file was taken before, or a picture of another split is nearly the same.
        """
        if content in self._contents:
            raise Unusable(f"is the same file as a picture of {self._contents[content]}")
        for split, hashes, colours in self._finished:
            alike = np.bitwise_count(hashes ^ np.uint64(look.hash)) <= HASH_BITS
            if alike.any():
                difference = colours[alike].astype(np.int16) - np.frombuffer(look.colours, np.uint8)
                if np.abs(difference).max(axis=1).min() <= COLOUR_DISTANCE:
                    raise Unusable(f"is nearly the same as a picture of {split}")
        self._contents[content] = self._split
        self._looks.append(look)

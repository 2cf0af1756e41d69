"""What a downloaded data set offers: candidates, of which some are drawn; and how a candidate's picture is read.

Nothing here opens a picture. A data set's module (`emoset`, `emotion6`, `webemo`, `own`, `hub`) lists its candidates
as a `Source`; `preparation` draws among them.
"""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from emor3_trl.emotions import LabelSpace

MAX_FILE_BYTES = 200 * 2**20
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture that may be drawn.

    Args:
        id: unique in its source.
        place: where its picture is: a path below the source's root, or a row of a split on the Hub.
        emotion: a label of the source's label space.
    """

    id: str
    place: str
    emotion: str


@dataclass(frozen=True)
class Dropped:
    """A row that was not taken, and why."""

    id: str
    reason: str


class Pictures(Protocol):
    """Reads pictures."""

    def read(self, place: str) -> bytes:
        """Return a picture's file.

        Raises:
            Unusable: with the reason.
        """


@dataclass
class Source:
    """A downloaded data set.

    Args:
        name: goes into each row.
        label_space: its emotions.
        pools: candidates by split; a data set without splits has one pool, "all".
        pictures: reads their pictures.
        sizes: how many the paper draws for train and test; None takes what is left.
        dropped: rows that offer no picture.
    """

    name: str
    label_space: LabelSpace
    pools: dict[str, list[Candidate]]
    pictures: Pictures
    sizes: dict[str, int | None]
    dropped: list[Dropped] = field(default_factory=list)


class Unusable(Exception):  # noqa: N818 - data, not a fault of the program
    """A picture that is not taken; the message is the reason in the manifest."""


@dataclass(frozen=True)
class FolderPictures:
    """Pictures in files below a folder; nothing outside of it is ever read, and nothing that is no file."""

    root: Path

    def read(self, place: str) -> bytes:
        """Return a file's bytes.

        Raises:
            Unusable: if the path or a symbolic link leads out of the folder, or it is not a readable file.
        """
        root = os.path.realpath(self.root)
        if "\0" in place or os.path.isabs(place):
            raise Unusable("its path is absolute, so it leaves the folder" if "\0" not in place else "a broken path")
        lexical = os.path.normpath(place)
        if lexical == ".." or lexical.startswith("../"):
            raise Unusable("its path leaves the folder")
        path = os.path.realpath(os.path.join(root, place))
        if os.path.commonpath([root, path]) != root:
            raise Unusable("a symbolic link leads out of the folder")
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe nobody writes to must not stop us
        except FileNotFoundError:
            raise Unusable("there is no such file") from None
        except OSError as error:
            raise Unusable(f"cannot be opened: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("is not a file")
            if status.st_size > MAX_FILE_BYTES:
                raise Unusable(f"is larger than {MAX_FILE_BYTES // 2**20} MiB")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)


def labelled(rows: Sequence[tuple[str, str, str]], space: LabelSpace, where: str) -> list[Candidate]:
    """Return rows of (id, place, written label) as candidates.

    Raises:
        ValueError: if a label is outside the label space, with the count of each.
    """
    candidates, unknown = [], Counter[str]()
    meant: dict[str, str | None] = {}
    for name, place, written in rows:
        if written not in meant:
            meant[written] = space.normalise(written)
        emotion = meant[written]
        if emotion is None:
            unknown[written] += 1
        else:
            candidates.append(Candidate(name, place, emotion))
    if unknown:
        counts = ", ".join(f"'{label}' {count}" for label, count in unknown.most_common(12))
        raise ValueError(
            f"{where} holds labels outside the label space '{space.name}' ({', '.join(space.labels)}): {counts}. "
            "Give another --label_space, or a YAML with `map:` from these to its labels (map one to null to drop it)."
        )
    return candidates


def need(path: Path, what: str) -> Path:
    """Return `path`.

    Raises:
        FileNotFoundError: if it does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}. Expected {what}.")
    return path

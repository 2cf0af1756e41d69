"""What a downloaded data set offers: candidates, of which some are drawn, and how a candidate's image is read.

A data set's module (`emoset`, `emotion6`, `webemo`, `own`, `hub`) lists its candidates as a `Source`, and opens no
image. `preparation` draws among them.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from emor3_trl.emotions import LabelSpace, canonical

MAX_FILE_BYTES = 200 * 2**20
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that may be drawn.

    Args:
        id: unique in its source.
        place: where its image is: a path below the source's root, or a row of a split on the Hub.
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


class ImageReader(Protocol):
    """Reads images."""

    def read_image(self, place: str) -> bytes:
        """Return the bytes of an image's file.

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
        images: reads their images.
        sizes: how many the paper draws for train and test; None takes what is left.
        dropped: rows that offer no image.
    """

    name: str
    label_space: LabelSpace
    pools: dict[str, list[Candidate]]
    images: ImageReader
    sizes: dict[str, int | None]
    dropped: list[Dropped] = field(default_factory=list)

    def candidates_hash(self) -> str:
        """Return a SHA-256 of the id, place and emotion of each candidate."""
        digest = hashlib.sha256()
        for name, pool in self.pools.items():
            for candidate in pool:
                line = "\0".join((name, candidate.id, candidate.place, candidate.emotion)) + "\n"
                digest.update(line.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class Unusable(Exception):  # noqa: N818 - data, not a fault of the program
    """An image that is not taken. The message is the reason in the manifest."""


@dataclass(frozen=True)
class FolderImages:
    """Images in files below a folder. Nothing outside of it is ever opened, and nothing that is no file."""

    root: Path

    def read_image(self, place: str) -> bytes:
        """Return a file's bytes.

        Args:
            place: a path relative to the folder, or an absolute one that lies in it.

        Raises:
            Unusable: if the path or a symbolic link leads out of the folder, or it is not a readable file.
        """
        root = os.path.realpath(self.root)
        try:
            path = os.path.realpath(os.path.join(root, place))
        except ValueError:  # a null byte, or half a surrogate pair
            raise Unusable("its path is broken") from None
        if not _within(path, root):
            is_link = _within(os.path.normpath(os.path.join(root, place)), root)
            raise Unusable(f"{'a symbolic link leads' if is_link else 'its path leads'} out of the folder")
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to must not block
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
                return file.read(MAX_FILE_BYTES)
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)


def _within(path: str, root: str) -> bool:
    return os.path.commonpath([root, path]) == root


def label_rows(
    rows: Sequence[tuple[str, str, str]],
    space: LabelSpace,
    where: str,
    spelled: Mapping[str, str | None] | None = None,
) -> tuple[list[Candidate], list[Dropped]]:
    """Return rows of (id, place, written label) as candidates, and those whose label is mapped to None.

    Args:
        rows: id, place and written label.
        space: the labels.
        where: what the rows are of, for the error.
        spelled: labels of other spellings, in canonical form, or None for what shall be left out.

    Raises:
        ValueError: if a label is outside the label space, with the count of each.
    """
    candidates, dropped, unknown = [], [], Counter[str]()
    meant: dict[str, str | None] = {}
    for name, place, written in rows:
        if written not in meant:
            key = canonical(written)
            meant[written] = spelled[key] if spelled and key in spelled else space.normalise(written)
        emotion = meant[written]
        if emotion is not None:
            candidates.append(Candidate(name, place, emotion))
        elif spelled and canonical(written) in spelled:
            dropped.append(Dropped(name, f"'{written}' is mapped to null"))
        else:
            unknown[written] += 1
    if unknown:
        counts = ", ".join(f"'{label}' {count}" for label, count in unknown.most_common(12))
        counts += f" and {len(unknown) - 12} more" if len(unknown) > 12 else ""
        raise ValueError(
            f"{where} holds labels outside the label space '{space.name}' ({', '.join(space.labels)}): {counts}. "
            "With --dataset own, --label_space takes a YAML whose `map:` leads from these to labels, or to null to "
            "drop them."
        )
    return candidates, dropped


def require_path(path: Path, what: str) -> Path:
    """Return `path`.

    Raises:
        FileNotFoundError: if it does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}. Expected {what}.")
    return path

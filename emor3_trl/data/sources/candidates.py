"""What a downloaded data set offers: candidates, of which some are drawn, and how a candidate's image is read.

A data set's module (`emoset`, `emotion6`, `webemo`, `own`, `hub`) lists its candidates as a `Source`, and opens no
image. `preparation` draws among them.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from emor3_trl.data.sources.messages import shorten
from emor3_trl.emotions import LabelSpace

MAX_FILE_BYTES = 200 * 2**20
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that may be drawn.

    Args:
        id: unique in its source.
        place: where its image is: a path below the source's root, or a row of a split on the Hub.
        emotion: a label of the source's label space.
        votes: share of each label of the label space, in its order, where people voted.
    """

    id: str
    place: str
    emotion: str
    votes: tuple[float, ...] | None = None


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
        notes: what was understood of the data where it could be understood otherwise; the run prints them.
        advise: says what to do if none of the images can be used.
    """

    name: str
    label_space: LabelSpace
    pools: dict[str, list[Candidate]]
    images: ImageReader
    sizes: dict[str, int | None]
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    advise: Callable[[], str] = lambda: "Check --source."

    def candidates_hash(self) -> str:
        """Return a SHA-256 of the id, place, emotion and votes of each candidate."""
        digest = hashlib.sha256()
        for name, pool in self.pools.items():
            for candidate in pool:
                parts = [name, candidate.id, candidate.place, candidate.emotion, *map(repr, candidate.votes or ())]
                digest.update(("\0".join(parts) + "\n").encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def describe_dropped(dropped: list[Dropped], count: int = 5) -> str:
    """Return how often each reason occurs, with an example, as in "3 x has no label (e.g. t.csv:7)"."""
    reasons = Counter(item.reason for item in dropped)
    examples = {item.reason: item.id for item in reversed(dropped)}
    listed = [
        f"{number:,} x {reason} (e.g. {shorten(examples[reason])})" for reason, number in reasons.most_common(count)
    ]
    return "; ".join(listed) + (f"; and {len(reasons) - count} more reasons" if len(reasons) > count else "")


class Unusable(Exception):  # noqa: N818 - data, not a fault of the program
    """An image that is not taken. The message is the reason in the manifest."""


@dataclass(frozen=True)
class FolderImages:
    """Images in files below a folder. Nothing outside of it is ever opened, and nothing that is no file.

    Args:
        root: the folder. Relative paths start here.
        others: folders beside it that paths and symbolic links may lead to, because the user named them.
        embedded: bytes of images that stand in a table itself, by place.
    """

    root: Path
    others: tuple[Path, ...] = ()
    embedded: Mapping[str, bytes] = field(default_factory=dict)

    def list_roots(self) -> list[str]:
        """Return the real folders that images may lie in: the root, those that were named, and the root's own blobs.

        `hf download` writes snapshots/<revision>/… as links into blobs/ of one folder.
        """
        roots = [os.path.realpath(root) for root in (self.root, *self.others)]
        for parent in Path(os.path.abspath(self.root), "_").parents:
            blobs = parent.parent / "blobs"
            if parent.name == "snapshots" and blobs.is_dir() and not blobs.is_symlink():
                roots.append(os.path.realpath(blobs))
        return roots

    def read_image(self, place: str) -> bytes:
        """Return a file's bytes.

        Args:
            place: a path relative to the folder, or an absolute one that lies in it.

        Raises:
            Unusable: if the path or a symbolic link leads out of the folder, or it is not a readable file.
        """
        if place in self.embedded:
            return self.embedded[place]
        roots = self.list_roots()
        try:
            path = os.path.realpath(os.path.join(roots[0], place))
        except ValueError:  # a null byte, or half a surrogate pair
            raise Unusable("its path is broken") from None
        if not any(lies_within(path, root) for root in roots):
            is_link = lies_within(os.path.normpath(os.path.join(roots[0], place)), roots[0])
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
                return file.read(status.st_size)  # of more, that much memory would be set aside
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)


def lies_within(path: str | Path, root: str | Path) -> bool:
    """Return whether a real path is a folder or lies in it."""
    return os.path.commonpath([root, path]) == str(root)


def require_path(path: Path, what: str, advice: str = "") -> Path:
    """Return `path`.

    Args:
        path: a file or folder.
        what: what was expected.
        advice: what may be meant instead.

    Raises:
        FileNotFoundError: if it does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no {shorten(path, 150)}. Expected {what}. {advice}".strip())
    return path

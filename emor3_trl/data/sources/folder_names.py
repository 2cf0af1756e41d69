"""Names of folders and files that are no data: what systems, network drives and picture viewers leave behind."""

import os
import re

from emor3_trl.data.sources.candidates import SUFFIXES

_SYSTEM = ("__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "lost+found", "system volume information")
_SMALLER = re.compile(r"(.+)[_-](?:thumb(?:nail)?|small|preview|\d{2,4}x\d{2,4})|(?:thumb(?:nail)?|tn)[_-](.+)")
_THUMBNAILS = re.compile(r"[_@.-]*thumb(?:nail)?s?[_-]*", re.I)


def is_hidden(name: str) -> bool:
    """Return whether systems leave it behind, as .DS_Store, ._photo.jpg, __MACOSX/ or @eaDir/."""
    return name.startswith(".") or name.lower().startswith(_SYSTEM)


def is_thumbnails(name: str) -> bool:
    """Return whether a folder is called after thumbnails."""
    return _THUMBNAILS.fullmatch(name) is not None


def is_smaller(name: str) -> bool:
    """Return whether a folder is called after smaller copies, as small/ or 150px/."""
    return re.fullmatch(r"(?:small|preview|resized)s?|\d{2,4}(?:px|x\d{2,4})", name.lower()) is not None


def is_thumbnail_of(name: str, names: set[str]) -> bool:
    """Return whether an image is called after the thumbnail of another one, as photo-150x150.jpg beside photo.jpg.

    Args:
        name: its name.
        names: the names in its folder, in lower case.
    """
    stem, suffix = os.path.splitext(name.lower())
    match = _SMALLER.fullmatch(stem)
    return match is not None and f"{match[1] or match[2]}{suffix}" in names


def is_image_name(name: str) -> bool:
    """Return whether a file is named like an image."""
    return name.lower().endswith(SUFFIXES)

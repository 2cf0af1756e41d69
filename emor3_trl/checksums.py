"""Checksums beside what is saved: a file that changed since then is named, and never used as if it had not."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import xxhash

from emor3_trl.files import write_json

CHECKSUMS = "checksums.json"
# What a model is loaded from, and what its training ended with; how it decodes (generation_config.json) users may edit
MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "*processor_config.json",
    "token*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "chat_template*", "trainer_state.json",
)  # fmt: skip
RENEWED = frozenset({CHECKSUMS, "README.md"})  # an evaluation adds its metrics to a model's card


def write_checksums(folder: str | Path, patterns: Iterable[str] = ("**/*",)) -> None:
    """Write `checksums.json`: size and XXH3 of each file, read once more from the system's cache.

    Args:
        folder: where they are, and where it is written.
        patterns: of the files; a file that is not listed may change.
    """
    folder = Path(folder)
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    listed = {path.relative_to(folder).as_posix(): path for path in paths if path.name not in RENEWED}
    files = {name: [path.stat().st_size, _digest(path)] for name, path in sorted(listed.items())}
    write_json(folder / CHECKSUMS, {"algorithm": "xxh3_128", "files": files})


def find_missing(folder: str | Path) -> str | None:
    """Return what tells that a listed file is not there, without reading one; None without `checksums.json`."""
    folder = Path(folder)
    files = _read_checksums(folder)
    if isinstance(files, str):
        return files
    missing = next((name for name in files if not (folder / name).is_file()), None)
    return f"{missing} missing" if missing else None


def find_changed(folder: str | Path) -> str | None:
    """Return what tells that a listed file is missing or changed since it was saved; reads each of them whole.

    Returns:
        The first one's name with what is wrong; None if all are as they were, or there is no `checksums.json`.
    """
    folder = Path(folder)
    missing, files = find_missing(folder), _read_checksums(folder)
    if missing or isinstance(files, str):
        return missing
    for name, (size, _) in files.items():
        if (folder / name).stat().st_size != size:
            return f"{name} is not whole (it had {size:,} bytes when it was saved)"
    changed = (name for name, (_, digest) in files.items() if _digest(folder / name) != digest)
    other = next(changed, None)
    return f"{other} is not as it was saved (its checksum differs)" if other else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def _read_checksums(folder: Path) -> dict[str, tuple[int, str]] | str:
    """Return size and checksum of each listed file, none where there is no list; a text if the list is damaged."""
    file = folder / CHECKSUMS
    if not file.is_file():
        return {}
    try:
        listed = json.loads(file.read_bytes())["files"]
        return {str(name): (int(size), str(digest)) for name, (size, digest) in listed.items()}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        return f"{CHECKSUMS} is not whole ({error})"

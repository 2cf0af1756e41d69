"""A label space as a user gives it: by its name, or in a YAML file with `name`, `labels` and `map`."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from emor3_trl.data.sources.candidates import require_path
from emor3_trl.data.sources.messages import build_error, quote, shorten
from emor3_trl.emotions import LabelSpace, canonical

MAX_LABELS = 200
_EXPECTED = "Expected `name: …`, `labels: [joy, anger, …]` and, if spellings differ, `map: {happy: joy, …}`."


def read_label_space(space: str | Path) -> tuple[LabelSpace, dict[str, str | None]]:
    """Return a label space by its name or from a YAML file, and what the file's `map` says of other spellings.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no such name, it is no such file, or `map` leads to no label.
    """
    if not str(space).endswith((".yaml", ".yml")):
        return LabelSpace.of(str(space)), {}
    path = require_path(Path(space), "a label space's name or a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise build_error(f"{shorten(path, 100)} is not YAML ({shorten(error, 150)}).", _EXPECTED) from error
    if not isinstance(content, Mapping) or not isinstance(content.get("labels"), list):
        raise build_error(f"{shorten(path, 100)} is not a label space.", _EXPECTED)
    name, labels, spellings = content.get("name", path.stem), content["labels"], content.get("map") or {}
    if not isinstance(spellings, Mapping):
        raise build_error(f"`map` of {shorten(path, 100)} is {quote(spellings)}.", _EXPECTED)
    words = (name, *labels, *spellings, *(label for label in spellings.values() if label is not None))
    odd = [word for word in words if isinstance(word, bool) or not isinstance(word, str | int)]
    if odd:
        raise build_error(
            f"{shorten(path, 100)} holds {quote(odd[0])}, which YAML does not read as a word.",
            'Quote it, as in "no" or "null".',
        )
    if len(labels) > MAX_LABELS:
        raise build_error(f"{shorten(path, 100)} has {len(labels):,} labels. Expected at most {MAX_LABELS}.")
    known = LabelSpace(shorten(name), tuple(map(str, labels)))
    spelled: dict[str, str | None] = {}
    for word, label in spellings.items():
        meaning, key = _read_meaning(word, label, known, path), canonical(str(word))
        if spelled.setdefault(key, meaning) != meaning:
            raise build_error(
                f"{shorten(path, 100)} maps {quote(key)} to {quote(spelled[key])} and to {quote(meaning)}."
            )
    return known, spelled


def _read_meaning(word: object, label: object, space: LabelSpace, path: Path) -> str | None:
    """Return the label that `map` leads to, or None if the word is left out."""
    if label is None:
        return None
    meaning = space.normalise(str(label))
    if meaning is None:
        allowed = shorten(", ".join(space.labels), 120)
        raise build_error(f"{shorten(path, 100)} maps {quote(word)} to {quote(label)}, which is none of {allowed}.")
    return meaning

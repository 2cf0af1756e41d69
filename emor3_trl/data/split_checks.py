"""What a row of a split must hold: an emotion of its label space, an id of its own, votes that fit, and an image."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from emor3_trl.emotions import LabelSpace

VOTES = "votes"  # an optional column


def check_labels(rows: Sequence[Mapping[str, Any]], path: Path, seen: dict[str, int] | None = None) -> None:
    """Raise for the first row whose emotion is not in its label space, or whose id came before; add ids to `seen`."""
    if not rows:
        raise ValueError(f"{path} has no rows. Prepare the data again; a split needs at least one.")
    spaces: dict[tuple[str, ...], LabelSpace] = {}
    seen = {} if seen is None else seen
    for number, row in enumerate(rows, start=len(seen)):
        name, labels = row["id"], tuple(row["label_space"] or ())
        if not isinstance(name, str) or name in seen:
            first = f" of row {seen[name]}" if name in seen else ""
            raise ValueError(f"The id {name!r}{first} comes again in row {number} of {path}. Expected unique strings.")
        seen[name] = number
        if labels not in spaces:
            try:
                spaces[labels] = LabelSpace("of the row", labels)
            except ValueError as error:
                raise ValueError(f"Row {number} of {path} has no usable label space. {error}") from error
        if row["emotion"] not in labels:
            label = spaces[labels].normalise(row["emotion"])
            hint = f"Write it as '{label}'" if label else "Map it to one of these, or give the row another label space"
            outside = Counter(
                repr(other["emotion"]) for other in rows if other["emotion"] not in (other["label_space"] or ())
            )
            counts = ", ".join(f"{emotion} {count}" for emotion, count in outside.most_common(10))
            raise ValueError(
                f"Unknown emotion {row['emotion']!r} in row {number} (id '{name}') of column 'emotion' in {path}. "
                f"Expected one of {', '.join(labels)}. {hint}, and prepare the data again. Outside their label "
                f"space are {outside.total()} of {len(rows)} rows: {counts}."
            )


def check_votes(rows: Sequence[Mapping[str, Any]], expected: bool, path: Path) -> None:
    """Raise for the first row whose votes are not a share of each label, or that has votes where others have none."""
    for row in rows:
        votes, labels = row.get(VOTES) or [], row["label_space"]
        shares = len(votes) == len(labels) and min(votes) >= 0 and abs(sum(votes) - 1) < 1e-3
        if bool(votes) != expected or (votes and not shares):
            raise ValueError(
                f"The votes of row '{row['id']}' of {path} are {str(row.get(VOTES))[:80]}. Expected, in all rows or in "
                f"none, one share for each of its {len(labels)} labels, none below 0, that sum to 1."
            )


def check_images(table: pa.Table, numbers: Sequence[int], path: Path, decode: bool) -> None:
    """Raise for the first image that Pillow cannot read; headers and checksums alone are read unless `decode`."""

    def find_fault(row: int) -> str | None:
        stored = table["image"][row].as_py() or {}
        try:
            with Image.open(io.BytesIO(stored["bytes"])) as image:
                image.load() if decode else image.verify()
        except Exception as error:  # Pillow's plug-ins raise almost anything for a broken file
            return f"{type(error).__name__}: {error}"
        return None

    # Pillow lets go of the interpreter lock while it decodes
    with ThreadPoolExecutor() as pool:
        for row, fault in enumerate(pool.map(find_fault, range(table.num_rows))):
            if fault:
                raise ValueError(
                    f"The picture in row {numbers[row]} (id '{table['id'][row].as_py()}') of {path} cannot be read "
                    f"({fault}). Replace or remove its file, and prepare the data again."
                )

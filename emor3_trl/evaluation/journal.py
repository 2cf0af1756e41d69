"""The journal of an evaluation: each finished batch of predictions on a line, so that a stopped one goes on."""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emor3_trl.files import naming

if TYPE_CHECKING:
    from datasets import Dataset


def append_to_journal(journal: Path, batch: Sequence[Any]) -> None:
    """Add a finished batch to a journal, as one line: a checksum, and its `Prediction`s as JSON."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(prediction) for prediction in batch])
    with naming(journal), journal.open("a", encoding="utf-8") as file:
        file.write(f"{zlib.crc32(text.encode()):08x} {text}\n")
        file.flush()
        os.fsync(file.fileno())


def _read_batch(line: bytes) -> list[dict[str, Any]]:
    checksum, _, text = line.partition(b" ")
    if f"{zlib.crc32(text):08x}".encode() != checksum:
        raise ValueError("a line is not as it was written")
    return list(json.loads(text))


def read_journal(journal: Path, ids: Sequence[str], num_completions: int = 1) -> list[dict[str, Any]]:
    """Return the rows of a journal's whole batches, and cut off what a stop left of the next one.

    Args:
        journal: the file, which need not exist.
        ids: those of the data set's rows, in their order.
        num_completions: completions per image.

    Raises:
        ValueError: if the journal cannot be read, or its rows are not the first ones of the data set.
    """
    if not journal.is_file():
        return []
    whole, _, torn = journal.read_bytes().rpartition(b"\n")
    if torn:
        with journal.open("r+b") as file:
            file.truncate(len(whole) + 1 if whole else 0)
    expected = [(row_id, sample) for row_id in ids for sample in range(num_completions)]
    try:
        rows = [row for line in whole.splitlines() for row in _read_batch(line)]
        if len(rows) > len(expected):
            raise ValueError(f"it holds more than the {len(expected)} predictions of its data set")
        for place, row in enumerate(rows):
            row_id, sample = expected[place]
            if (row["id"], row["sample"]) != (row_id, sample):
                raise ValueError(f"it has row '{row['id']}' as prediction {place}, where the data set has '{row_id}'")
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(
            f"'{journal}' cannot be read ({error}), so the evaluation cannot go on from it. Delete the file and start "
            "again: its rows are predicted anew."
        ) from error
    return rows


def check_journals(
    folder: Path, datasets: "Mapping[str, Dataset]", sampled: int = 0, pictures: int | None = None, seed: int = 0
) -> None:
    """Check, before a model loads, that each journal in a folder is of its data set's rows; see `read_journal`.

    Args:
        folder: with `<data set>.jsonl` and `<data set>.sampled.jsonl`.
        datasets: by name.
        sampled: drawn completions per image.
        pictures, seed: see `draw_rows`.
    """
    for name, dataset in datasets.items():
        read_journal(folder / f"{name}.jsonl", dataset["id"])
        if sampled:
            read_journal(folder / f"{name}.sampled.jsonl", draw_rows(dataset, pictures, seed)["id"], sampled)


def draw_rows(dataset: "Dataset", pictures: int | None, seed: int) -> "Dataset":
    """Return the rows that several completions are drawn for: all, shuffled, or at most so many of them."""
    return dataset.shuffle(seed=seed).select(range(min(pictures or len(dataset), len(dataset))))

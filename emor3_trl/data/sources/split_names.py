"""Which rows are for training and which for testing: what people call their splits, and what the user says of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emor3_trl.data.sources.messages import build_error, join_counts, quote

_KINDS = {
    "train": {"train", "training", "trn", "trainset", "trainingset", "traindata", "trainsplit"},
    "test": {"test", "testing", "tst", "testset", "testingset", "testdata", "testsplit", "privatetest", "holdout"},
    "val": {
        *("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation", "publictest"),
        *("valset", "validset", "validationset", "devset", "evalset", "valdata", "validationdata", "valsplit"),
    },
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words}
_AROUND = {"image", "images", "img", "imgs", "photos", "pictures", "pics", "faces", "data", "set", "dataset", "split"}
_AROUND |= {"label", "labels", "annotation", "annotations", "list"}


@dataclass(frozen=True)
class Reading:
    """What a user says about their own data.

    Args:
        image_column: column of the images.
        emotion_column: column of the emotions; several, joined by commas, count votes; None takes the usual one.
        split_column: column of the split, "none" for no split; None takes one that holds names of splits.
        train_split, test_split: which split of the source train and test are drawn from.
        image_folder: folder that images may lie in, besides the source's own.
    """

    image_column: str = "image"
    emotion_column: str | None = None
    split_column: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    image_folder: Path | None = None


def find_kind(name: str) -> str | None:
    """Return "train", "test" or "val" for the name of a split, or None for any other name.

    >>> find_kind("Training"), find_kind("PrivateTest"), find_kind("dev "), find_kind("joy")
    ('train', 'test', 'val', None)
    >>> find_kind("images_train"), find_kind("test_masks"), find_kind("train and test")
    ('train', None, None)
    """
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word]
    kinds = [_KIND_OF[word] for word in words if word in _KIND_OF]
    if len(kinds) == 1 and len(words) > 1 and set(words) <= _AROUND | set(_KIND_OF):
        return kinds[0]
    return _KIND_OF.get(re.sub(r"[\s_.-]+", "", name.lower()))


def find_kind_within(name: str) -> str | None:
    """Return "train", "test" or "val" for the name of a table that holds one of these words, as "my_train_list"."""
    kinds = {_KIND_OF.get(word) for word in re.split(r"[\W\d_]+", name.lower())} - {None}
    return find_kind(name) or (kinds.pop() if len(kinds) == 1 else None)


def assign_splits(
    counts: Mapping[str | None, int], reading: Reading, where: str
) -> tuple[dict[str | None, str | None], list[str]]:
    """Return "train", "test", "all" or None (not drawn from) for each split as it is written, and notes.

    Validation data serve as test where there is no test, and a source of one split is drawn from as a whole.

    Args:
        counts: rows of each split as written; None counts the rows of no split.
        reading: holds the splits that the user named.
        where: what the rows are of, for messages.

    Raises:
        ValueError: if no split is train or test, or the user named one that is not there.
    """
    names = [name for name in counts if name is not None]
    listed = join_counts({name: counts[name] for name in names})
    chosen = {
        kind: _find_named(kind, getattr(reading, f"{kind}_split"), names, listed, where) for kind in ("train", "test")
    }
    kinds = {name: find_kind(name) for name in names}
    notes = []
    if len(names) == 1 and None not in counts and not any(chosen.values()):
        only = f"The only split of {where} is {quote(names[0])}: train and test are drawn from it."
        return {names[0]: "all"}, [only]
    splits: dict[str | None, str | None] = {}
    for name in names:
        named = next((kind for kind, names_of in chosen.items() if name in names_of), None)
        kind = kinds[name]
        splits[name] = named or (kind if kind in chosen and not chosen[kind] else None)
    if names and "test" not in splits.values() and None not in counts:
        for name in (name for name in names if kinds[name] == "val" and splits[name] is None):
            splits[name] = "test"
        if "test" in splits.values() and "train" in splits.values():
            notes.append(f"{where} has no split for testing: its validation split is taken for it ({listed}).")
    if names and not set(splits.values()) & {"train", "test"} and None not in counts:
        raise build_error(
            f"{where} has the splits {listed}. None of them is for training or testing.",
            "Name them with --train_split and --test_split.",
        )
    drawn = set(splits.values())
    if None in counts:  # they belong to no split; where train and test are given, nothing is drawn from them
        splits[None] = None if {"train", "test"} <= drawn else "all"
    elif names and "train" not in drawn:
        notes.append(f"{where} has no split for training ({listed}): none is drawn.")
    return splits, notes


def _find_named(kind: str, wanted: str | None, names: list[str], listed: str, where: str) -> list[str]:
    """Return the splits that the user named for train or test."""
    if wanted is None:
        return []
    kind_of_wanted = find_kind(wanted)
    matching = (
        [name for name in names if name == wanted]
        or [name for name in names if name.strip().lower() == wanted.strip().lower()]
        or [name for name in names if kind_of_wanted and find_kind(name) == kind_of_wanted]
    )
    if not matching:
        raise build_error(
            f"--{kind}_split is {quote(wanted)}, but {where} has "
            + (f"the splits {listed}." if names else "no splits."),
            "--split_column names the column that holds them." if not names else "",
        )
    return matching

"""From rows as they were read to candidates: which split a row is of, and which one emotion an image has.

Every rule that could have been another one leaves a note, which the run prints: a validation split that serves as test,
several labels of one image, labels that no one knows.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from emor3_trl.data.sources.candidates import SUFFIXES, Candidate, Dropped, ImageReader, Source, describe_dropped
from emor3_trl.data.sources.labels import (
    MAP_HINT,
    LabelReader,
    Votes,
    collect_label_space,
    refuse_unknown,
)
from emor3_trl.data.sources.messages import build_error, join_examples, quote
from emor3_trl.data.sources.split_names import Reading, assign_splits
from emor3_trl.emotions import LabelSpace


@dataclass(slots=True)
class Row:
    """A row as it was read.

    Args:
        id: unique in its source.
        place: where its image is.
        label: the label as it is written; empty where there are votes.
        votes: votes by label as written, where the row counts them.
        split: the split as it is written, or None.
    """

    id: str
    place: str
    label: str
    votes: Mapping[str, float] | None = None
    split: str | None = None


@dataclass
class Listing:
    """What a folder, a table or a data set of the Hub lists.

    Args:
        where: what was read, for messages.
        rows: its rows.
        images: reads their images.
        dropped: rows that offer no image.
        notes: what was understood of it.
        what: what the labels are there, for messages: "labels" or "folders".
        advise: says what to do if none of the images can be used.
        keeps_splits: keep splits that nothing is drawn from as pools.
    """

    where: str
    rows: list[Row]
    images: ImageReader
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    what: str = "labels"
    advise: Callable[[], str] = lambda: "Check --source."
    keeps_splits: bool = False


def build_source(
    listing: Listing,
    reading: Reading,
    space: LabelSpace | None = None,
    spelled: Mapping[str, str | None] | None = None,
    name: str = "own",
    sizes: Mapping[str, int | None] | None = None,
) -> Source:
    """Return the candidates of a listing.

    Args:
        listing: the rows.
        reading: what the user said about them.
        space: the label space; None takes the labels that occur.
        spelled: labels of other spellings, in canonical form, or None for what is left out.
        name: what the rows' source is called.
        sizes: how many are drawn unless the user says otherwise (see `Source`).

    Raises:
        ValueError: if a label is outside the label space, labels do not look like emotions, or nothing is offered.
    """
    notes, dropped = list(listing.notes), list(listing.dropped)
    if not listing.rows:
        also = f" Left out are {describe_dropped(dropped, 3)}." if dropped else ""
        raise build_error(f"{listing.where} offers no labelled picture ({', '.join(SUFFIXES)}).{also}")
    splits, split_notes = assign_splits(Counter(row.split for row in listing.rows), reading, listing.where)
    rows = []
    for row in listing.rows:
        split = splits[row.split]
        if split is not None:
            rows.append(replace(row, split=split))
        elif listing.keeps_splits and row.split is not None:
            rows.append(row)
        else:
            reason = "is of no split, and others are" if row.split is None else f"is of split '{row.split}'"
            dropped.append(Dropped(row.id, reason))
    notes += split_notes
    if splits.get(None) == "all" and {"train", "test"} & set(splits.values()):
        missing = "test" if "train" in splits.values() else "train"
        count = sum(row.split == "all" for row in rows)
        notes.append(
            f"{count:,} rows of {listing.where} are of no split, and others are: {missing} is drawn from them."
        )
    if space is None:
        space, label_notes = collect_label_space(_count_labels(rows), listing.where, listing.what)
        notes += label_notes
    candidates, left_out, vote_notes = read_emotions(rows, LabelReader(space, spelled), listing.where)
    notes, dropped = notes + vote_notes, dropped + left_out
    pools: dict[str, list[Candidate]] = {split: [] for split in sorted({str(row.split) for row in rows})}
    for split, candidate in candidates:
        pools[split].append(candidate)
    if not candidates:
        raise build_error(
            f"{listing.where} offers no labelled picture. Left out are {describe_dropped(dropped, 3)}.", MAP_HINT
        )
    source_sizes = dict(sizes or {"train": None, "test": None})
    return Source(name, space, pools, listing.images, source_sizes, dropped, notes, listing.advise)


def _count_labels(rows: Sequence[Row]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update([row.label] if row.votes is None else row.votes.keys())
    return counts


@dataclass(slots=True)
class _Ballot:
    """The votes on one image."""

    row: Row
    votes: Votes
    rows: int = 1


def read_emotions(
    rows: Sequence[Row], reader: LabelReader, where: str
) -> tuple[list[tuple[str, Candidate]], list[Dropped], list[str]]:
    """Return the candidates with their split, the rows that name no one emotion, and notes.

    Rows of one image are votes on it. The label with the most votes is taken; ties are left out. Where there are votes,
    each candidate keeps the share of each label.

    Raises:
        ValueError: if a label is outside the label space, with the count of each.
    """
    ballots: dict[str, _Ballot] = {}
    dropped: list[Dropped] = []
    unknown: Counter[str] = Counter()
    has_votes = False
    for row in rows:
        votes = _count_votes(row, reader, unknown)
        if votes is None:
            continue
        if not votes:
            dropped.append(Dropped(row.id, f"has no emotion ({quote(row.label)})" if row.label else "has no vote"))
            continue
        has_votes = has_votes or row.votes is not None or len(votes) > 1 or sum(votes.values()) > 1
        ballot = ballots.get(row.place)
        if ballot is None:
            ballots[row.place] = _Ballot(row, votes)
            continue
        ballot.votes = Counter(ballot.votes) + Counter(votes)
        ballot.rows += 1
        if row.split == "test":  # an image that is listed in both is of test
            ballot.row.split = "test"
    if unknown:
        raise refuse_unknown(unknown, reader.space, where)
    several = [ballot for ballot in ballots.values() if ballot.rows > 1]
    has_votes = has_votes or any(len(ballot.votes) > 1 for ballot in several)
    candidates = []
    for place, ballot in ballots.items():
        emotion, reason = _decide(ballot)
        if emotion is None:
            dropped.append(Dropped(ballot.row.id, reason))
        else:
            shares = _compute_shares(ballot.votes, reader.space) if has_votes else None
            candidates.append((str(ballot.row.split), Candidate(ballot.row.id, place, emotion, shares)))
    return candidates, dropped, _describe_votes(ballots, several, reader, where)


def _count_votes(row: Row, reader: LabelReader, unknown: Counter[str]) -> Votes | None:
    """Return the votes of a row, or None where a label is unknown, which is counted."""
    if row.votes is None:
        votes = reader.read_label(row.label)
        if votes is None:
            unknown[row.label] += 1
        return votes
    total: Counter[str | None] = Counter()
    for label, weight in row.votes.items():
        if not label:  # votes for no emotion
            total[None] += weight  # type: ignore[assignment]  # shares are fractions
            continue
        meaning = reader.read_label(label)
        if meaning is None:
            unknown[label] += 1
            return None
        for emotion in meaning:
            total[emotion] += weight  # type: ignore[assignment]  # shares are fractions
    return {emotion: weight for emotion, weight in total.items() if weight > 0}


def _decide(ballot: _Ballot) -> tuple[str | None, str]:
    """Return the emotion with the most votes, or None and why there is none."""
    most = max(ballot.votes.values()) if len(ballot.votes) > 1 else None
    winners = [emotion for emotion, weight in ballot.votes.items() if most is None or weight == most]
    if len(winners) > 1:
        return None, "is tied between " + " and ".join(
            sorted(f"{winner or 'what `map` leaves out'}" for winner in winners)
        )
    if winners[0] is None:
        single = ballot.rows == 1 and ballot.row.label
        return (
            None,
            f"{quote(ballot.row.label)} is mapped to null" if single else "most of its votes are for no emotion",
        )
    return winners[0], ""


def _compute_shares(votes: Mapping[str | None, float], space: LabelSpace) -> tuple[float, ...]:
    weights = [float(votes.get(label, 0)) for label in space.labels]
    return tuple(weight / sum(weights) for weight in weights)


def _describe_votes(
    ballots: Mapping[str, _Ballot], several: Sequence[_Ballot], reader: LabelReader, where: str
) -> list[str]:
    notes = []
    disagreeing = [ballot for ballot in several if len(ballot.votes) > 1]
    if disagreeing:
        notes.append(
            f"{len(several):,} of the {len(ballots):,} images of {where} stand in several rows, {len(disagreeing):,} "
            f"under several emotions (e.g. {join_examples(ballot.row.place for ballot in disagreeing)}): the most "
            "frequent emotion is taken, ties are left out."
        )
    elif several:
        examples = join_examples(ballot.row.place for ballot in several)
        notes.append(f"{len(several):,} images of {where} stand in several rows (e.g. {examples}): taken once.")
    cells = [ballot for ballot in ballots.values() if ballot.rows == 1 and len(ballot.votes) > 1 and ballot.row.label]
    if cells:
        examples = join_examples(ballot.row.label for ballot in cells)
        notes.append(
            f"{len(cells):,} rows of {where} name several emotions (e.g. {examples}): the most frequent is taken, ties "
            "are left out. `map:` of a --label_space settles them otherwise."
        )
    if reader.unwrapped:
        (answer, label), *_ = reader.unwrapped.items()
        notes.append(f"{len(reader.unwrapped):,} answers hold more than a label: {quote(answer)} is read as {label!r}.")
    return notes

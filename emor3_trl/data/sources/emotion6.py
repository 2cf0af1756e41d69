"""Emotion6 as it is downloaded: `images/<emotion>/N.jpg` and `ground_truth.txt`.

The folder is the label (paper, Sec. 4.1: six classes). `ground_truth.txt` has a header line, then file name, valence,
arousal and the shares of anger, disgust, fear, joy, sadness, surprise and neutral, separated by tabs. With
`label_from="votes"` the largest share is the label, and an image that is mostly neutral, or tied, is left out. With
"folder_and_votes" the folder stays the label. Both keep the shares of the six labels, which sum to 1 without the
neutral share: they say which emotion was seen where one was seen.
"""

from pathlib import Path

from emor3_trl.data.sources.candidates import SUFFIXES, Candidate, Dropped, FolderImages, Source, require_path
from emor3_trl.data.sources.folder_names import is_hidden
from emor3_trl.data.sources.levels import find_holding
from emor3_trl.data.sources.messages import build_error, quote, shorten
from emor3_trl.emotions import EMOTION6

SIZES = {"train": None, "test": 594}  # 30% of 1,980, the rest is for training
VOTES = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
_EXPECTED = "Emotion6's folder with images/<emotion>/N.jpg as --source"


def list_candidates(folder: str | Path, label_from: str = "folder", image_folder: Path | None = None) -> Source:
    """List the candidates of Emotion6.

    Args:
        folder: the folder that holds `images/` (and `ground_truth.txt`).
        label_from: "folder", "votes" for the label that most people gave, or "folder_and_votes" for the folder's label
            with the votes beside it.
        image_folder: a folder that links may lead to.

    Raises:
        FileNotFoundError: if a label's folder or `ground_truth.txt` is missing.
        ValueError: if a line of `ground_truth.txt` cannot be read.
    """
    folder = Path(folder)
    shares = {}
    if label_from != "folder":
        shares = _read_shares(require_path(folder / "ground_truth.txt", "Emotion6's table of votes", _advise(folder)))
    candidates: list[Candidate] = []
    dropped = []
    for label in EMOTION6.labels:
        images = require_path(_find_folder(_find_folder(folder, "images"), label), _EXPECTED, _advise(folder))
        names = [path.name for path in images.iterdir() if path.name.lower().endswith(SUFFIXES)]
        for name in sorted(filter(lambda name: not is_hidden(name), names), key=lambda name: (len(name), name)):
            key, place = f"{label}/{name}", images.relative_to(folder).as_posix() + f"/{name}"
            if label_from == "folder":
                candidates.append(Candidate(key, place, label))
                continue
            emotion, reason = _decide(shares.get(key.lower()), None if label_from == "votes" else label)
            if emotion is None:
                dropped.append(Dropped(key, reason))
            else:
                candidates.append(Candidate(key, place, emotion, _normalise(shares[key.lower()])))
    others = () if image_folder is None else (image_folder,)
    return Source("emotion6", EMOTION6, {"all": candidates}, FolderImages(folder, others), dict(SIZES), dropped)


def _advise(folder: Path) -> str:
    for names in (["images/anger", "images/joy"], ["anger", "joy"]):
        other = find_holding(folder, names)
        if other is not None:
            return f"Did you mean --source {other if '/' in names[0] else other.parent} ?"
    return ""


def _find_folder(folder: Path, name: str) -> Path:
    """Return a folder by its name, which may be written in capitals."""
    if not (folder / name).exists() and folder.is_dir():
        return next((path for path in folder.iterdir() if path.name.lower() == name), folder / name)
    return folder / name


def _decide(shares: tuple[float, ...] | None, folder: str | None) -> tuple[str | None, str]:
    """Return the folder's label, or without a folder that of the largest share; or None and why there is none."""
    if shares is None:
        return None, "has no line in ground_truth.txt"
    if folder is not None:
        return (folder, "") if any(shares[: len(EMOTION6.labels)]) else (None, "was seen as neutral by all")
    winners = [label for label, share in zip(VOTES, shares, strict=True) if share == max(shares)]
    if len(winners) > 1:
        return None, "is tied in the votes"
    return (None, "was seen as neutral by most") if winners[0] == "neutral" else (winners[0], "")


def _normalise(shares: tuple[float, ...]) -> tuple[float, ...]:
    """Return the shares of the six labels without neutral."""
    total = sum(shares[: len(EMOTION6.labels)])
    return tuple(share / total for share in shares[: len(EMOTION6.labels)])


def _read_shares(path: Path) -> dict[str, tuple[float, ...]]:
    """Return the seven shares of each image by `<folder>/<file>`, in lower case."""
    shares = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines()):
        fields = [field.strip() for field in line.split("\t")]
        if not line.strip():
            continue
        try:
            values = tuple(float(share) for share in fields[3 : 3 + len(VOTES)])
            if len(values) != len(VOTES) or not all(value >= 0 for value in values):
                raise ValueError
        except ValueError:
            if number == 0:  # the header
                continue
            raise build_error(
                f"Line {number + 1} of {shorten(path, 100)} is {quote(line, 80)}. Expected file name, valence, arousal "
                "and seven shares, separated by tabs.",
                f"The shares are of {', '.join(VOTES)}.",
            ) from None
        shares["/".join(fields[0].replace("\\", "/").split("/")[-2:]).lower()] = values
    return shares

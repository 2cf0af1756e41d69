"""Emotion6 as it is downloaded: `images/<emotion>/N.jpg` and `ground_truth.txt`.

The folder is the label (paper, Sec. 4.1: six classes). `ground_truth.txt` has a header line, then file name, valence,
arousal and the shares of anger, disgust, fear, joy, sadness, surprise and neutral, separated by tabs; with
`label_from="votes"` the largest share is the label, and a picture that is mostly neutral, or tied, is left out.
"""

from pathlib import Path

from emor3_trl.data.sources.candidates import SUFFIXES, Candidate, Dropped, FolderImages, Source, require_path
from emor3_trl.emotions import EMOTION6

SIZES = {"train": None, "test": 594}  # 30% of 1,980, the rest is for training
VOTES = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")


def list_candidates(folder: str | Path, label_from: str = "folder") -> Source:
    """List the candidates of Emotion6.

    Args:
        folder: the folder that holds `images/` (and `ground_truth.txt`).
        label_from: "folder", or "votes" for the label that most people gave.

    Raises:
        FileNotFoundError: if a label's folder or `ground_truth.txt` is missing.
        ValueError: if a line of `ground_truth.txt` cannot be read.
    """
    folder = Path(folder)
    votes = (
        _votes(require_path(folder / "ground_truth.txt", "Emotion6's table of votes")) if label_from == "votes" else {}
    )
    candidates: list[Candidate] = []
    dropped = []
    for label in EMOTION6.labels:
        images = require_path(folder / "images" / label, "Emotion6's folder with images/<emotion>/N.jpg as --source")
        names = [name.name for name in images.iterdir() if name.name.lower().endswith(SUFFIXES) and name.name[0] != "."]
        for name in sorted(names, key=lambda name: (len(name), name)):
            key = f"{label}/{name}"
            emotion = label
            if label_from == "votes":
                winner = votes.get(key, ())
                if len(winner) != 1 or winner[0] == "neutral":
                    reason = "is tied in the votes" if len(winner) > 1 else "was seen as neutral by most"
                    dropped.append(Dropped(key, reason if winner else "has no line in ground_truth.txt"))
                    continue
                emotion = winner[0]
            candidates.append(Candidate(key, f"images/{key}", emotion))
    return Source("emotion6", EMOTION6, {"all": candidates}, FolderImages(folder), dict(SIZES), dropped)


def _votes(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the label or, where they tie, the labels with the largest share, by `<folder>/<file>`."""
    votes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines()):
        fields = [field.strip() for field in line.split("\t")]
        if not line.strip():
            continue
        try:
            name, shares = fields[0], [float(share) for share in fields[3 : 3 + len(VOTES)]]
            if len(shares) != len(VOTES) or not all(share >= 0 for share in shares):
                raise ValueError
        except ValueError:
            if number == 0:  # the header
                continue
            raise ValueError(
                f"Line {number + 1} of {path} is {line[:80]!r}. Expected file name, valence, arousal and seven shares "
                f"({', '.join(VOTES)}), separated by tabs."
            ) from None
        name = "/".join(name.replace("\\", "/").split("/")[-2:])
        largest = max(shares)
        votes[name] = tuple(label for label, share in zip(VOTES, shares, strict=True) if share == largest)
    return votes

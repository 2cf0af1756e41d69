"""Label spaces: which emotions a data set distinguishes, and how a written answer names one of them.

The three label spaces are those of the paper's data sets (Sec. 4.1): EmoSet-8 and its Mikels emotions, the six
classes of Emotion6, and the seven second-level groups of WebEmo.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Valence = Literal["positive", "negative", "neutral"]
Arousal = Literal["calm", "excited"]

# \text{}, \mathbf{} and the like, as models write them inside \boxed{}: what changes a word's look, not its meaning
_LATEX_STYLE = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|it|rm|sf|tt)|emph|mbox|boldsymbol|underline|operatorname)"
    r"\s*\{([^{}]*)\}"
)
_DECORATION = " \"'`“”‘’«»*_$.,;:!?…()[]{}"


@dataclass(frozen=True)
class LabelSpace:
    """The emotions of one data set.

    Args:
        name: short name, as it stands in configurations and in the `label_space` column.
        labels: the emotions, lower case, in the order in which prompts list them.

    Raises:
        ValueError: if there are fewer than two labels, or two labels are equal once normalised.
    """

    name: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        names = [canonical(label) if isinstance(label, str) else "" for label in self.labels]
        if len(names) < 2 or "" in names or len(set(names)) != len(names):
            raise ValueError(
                f"Label space '{self.name}' was given the labels {list(self.labels)}. "
                "Expected two or more labels that differ in more than case and punctuation."
            )

    @classmethod
    def of(cls, value: "str | Sequence[str] | LabelSpace") -> "LabelSpace":
        """Return the label space that a `label_space` column means: a known name, or the list of labels itself.

        Raises:
            ValueError: if `value` is a name that is not known, or a list that makes no label space.

        >>> LabelSpace.of("emotion6").labels[0], LabelSpace.of(["calm", "awe"]).labels
        ('anger', ('calm', 'awe'))
        """
        if isinstance(value, LabelSpace):
            return value
        if isinstance(value, str):
            if value not in _NAMED:
                raise ValueError(
                    f"Unknown label space '{value}'. Expected one of {', '.join(_NAMED)}, or a list of labels."
                )
            return _NAMED[value]
        return cls("custom", tuple(value))

    def normalise(self, text: object) -> str | None:
        r"""Return the one label that `text` names, or None.

        Case, surrounding white space, quotes and punctuation, Markdown emphasis and `\text{}` are ignored; text that
        holds anything beyond one label ("awe or fear", "not joy") names none.

        >>> EMOSET_8.normalise(r" \text{Awe}. ")
        'awe'
        >>> EMOSET_8.normalise("awe or fear") is None
        True
        """
        wanted = canonical(text) if isinstance(text, str) else ""
        return _by_canonical(self.labels).get(wanted)


def canonical(text: str) -> str:
    r"""Return `text` as labels are compared: lower case, without LaTeX styles, quotes, emphasis and end punctuation.

    >>> canonical(r" **\text{Great_Joy}!** ")
    'great joy'
    """
    if not text.isascii():  # one spelling for what looks alike: é as one character or two, full width, joiners
        text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    # Three passes undo \mathbf{\text{…}} and the like; deeper nesting is no answer, and time stays linear.
    for _ in range(3):
        text = _LATEX_STYLE.sub(r"\1", text)
    text = re.sub(r"\s+", " ", text).strip(_DECORATION)
    return re.sub(r"[ _-]+", " ", text).lower()


@lru_cache(maxsize=256)
def _by_canonical(labels: tuple[str, ...]) -> dict[str, str]:
    return {canonical(label): label for label in labels}


EMOSET_8 = LabelSpace(
    "emoset_8", ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
)
EMOTION6 = LabelSpace("emotion6", ("anger", "disgust", "fear", "joy", "sadness", "surprise"))
WEBEMO_7 = LabelSpace("webemo_7", ("anger", "confusion", "fear", "joy", "love", "sadness", "surprise"))

_NAMED = {space.name: space for space in (EMOSET_8, EMOTION6, WEBEMO_7)}


# The Mikels split of EmoSet (amusement, awe, contentment, excitement positive; anger, disgust, fear, sadness negative);
# joy, love, surprise and confusion are placed by their quadrant of Russell's circumplex. Surprise and confusion can be
# either, so they count as neutral.
VALENCE: dict[str, Valence] = {
    "amusement": "positive",
    "awe": "positive",
    "contentment": "positive",
    "excitement": "positive",
    "joy": "positive",
    "love": "positive",
    "anger": "negative",
    "disgust": "negative",
    "fear": "negative",
    "sadness": "negative",
    "confusion": "neutral",
    "surprise": "neutral",
}
# Mikels' eight emotions in their order round the wheel, as Zhao et al. (ACM Multimedia 2016) draw it
MIKELS_WHEEL = ("amusement", "contentment", "awe", "excitement", "fear", "sadness", "disgust", "anger")
AROUSAL: dict[str, Arousal] = {
    "amusement": "excited",
    "awe": "excited",
    "contentment": "calm",
    "excitement": "excited",
    "joy": "excited",
    "love": "calm",
    "anger": "excited",
    "disgust": "excited",
    "fear": "excited",
    "sadness": "calm",
    "confusion": "calm",
    "surprise": "excited",
}


def wheel_distance(first: str, second: str) -> float:
    """Return how far two emotions lie apart on Mikels' wheel: 0 for the same, 1 for opposite ones.

    Zhao et al. (Predicting Personalized Emotion Perceptions of Social Images, ACM Multimedia 2016) count the steps from
    one emotion to the other, the shorter way round. Here they are divided by the most that there can be, which is 4.

    Raises:
        ValueError: if one is not on the wheel.

    >>> wheel_distance("amusement", "contentment"), wheel_distance("amusement", "anger"), wheel_distance("awe", "anger")
    (0.25, 0.25, 0.75)
    """
    steps = abs(MIKELS_WHEEL.index(first) - MIKELS_WHEEL.index(second))
    return min(steps, len(MIKELS_WHEEL) - steps) / (len(MIKELS_WHEEL) // 2)

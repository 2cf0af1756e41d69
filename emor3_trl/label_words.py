"""The words that name a label: the label itself, and its kin, the words of its root.

A step that says "afraid" tells how a person feels. One that says "fearful" names the answer.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

MASK = "something"

# The kin of the paper's labels: the words that WordNet 3.0 lists under the root of each (index.noun, .verb, .adj and
# .adv), with their inflections. Compounds, opposites (fearless) and words that have gone their own way (awesome,
# awful, lovely) are left out.
KIN = {
    "amusement": "amusements amuse amuses amused amusing amusingly amusive",
    "anger": "angers angered angering angry angrier angriest angrily angriness",
    "awe": "awes awed awing awestruck awestricken",
    "confusion": "confusions confuse confuses confused confusing confusedly confusingly confusedness",
    "contentment": "content contented contentedly contentedness",
    "disgust": "disgusts disgusted disgusting disgustedly disgustingly disgustful disgustingness",
    "excitement": "excitements excite excites excited exciting excitedly excitingly excitation excitable excitability",
    "fear": "fears feared fearing fearful fearfully fearfulness fearsome fearsomely",
    "joy": "joys joyful joyfully joyfulness joyous joyously joyousness",
    "love": "loves loved loving lovingly lovingness lover lovers lovable loveable",
    "sadness": "sad sadder saddest sadly sadden saddens saddened saddening",
    "surprise": "surprises surprised surprising surprisingly surprisedly",
}
_FAMILIES = {word: [label, *kin.split()] for label, kin in KIN.items() for word in (label, *kin.split())}

# Of any other label: what is cut from its end, and what may follow the root then
_ENDING = re.compile(r"(?<=\w{4})(?:iness|ment|ness|ation|ion|ing|ful|ed|y|e)$")
_ENDINGS = (
    "e es ed ing s d y ies ied ily er est ier iest iness ful fully eful efully efulness ly "
    "ness ment ments ation ion ions ous ously ive"
).replace(" ", "|")


def mask_labels(text: str, labels: Sequence[str], with_kin: bool = False) -> str:
    """Return `text` with "something" in the place of each label that stands there as a word.

    Args:
        text: a step.
        labels: of the row's label space.
        with_kin: whether the words of the labels' roots are masked, too.

    >>> mask_labels("A fearful face full of Fear.", ["awe", "fear"])
    'A fearful face full of something.'
    >>> mask_labels("A fearful, hopeful, hopeless face.", ["fear", "hope"], with_kin=True)
    'A something, something, hopeless face.'
    """
    return _compile_words(tuple(labels), with_kin).sub(MASK, text)


def names_emotion(text: str, labels: Sequence[str]) -> bool:
    """Return whether `text` contains one of the labels as a word: thinking that only repeats the answer.

    >>> names_emotion("A face full of fear.", ["awe", "fear"]), names_emotion("A fearless climber.", ["awe", "fear"])
    (True, False)
    """
    return _compile_words(tuple(labels), with_kin=False).search(text) is not None


@lru_cache(maxsize=256)
def _compile_words(labels: tuple[str, ...], with_kin: bool) -> re.Pattern[str]:
    """Return what finds a label as a word, the longer of two first; "great joy" may stand as Great_Joy."""
    words = {label: r"[ _-]+".join(map(re.escape, re.split(r"[ _-]+", label))) for label in labels}
    if with_kin:
        for label in labels:
            words |= _list_kin(label.lower())
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(words[word] for word in longest_first)})(?!\w)", re.IGNORECASE)


def _list_kin(label: str) -> dict[str, str]:
    """Return patterns of a label with the words of its root; nothing for a label of several words."""
    if label in _FAMILIES:
        return {word: word for word in _FAMILIES[label]}
    if not label.isalpha():
        return {}
    root = _ENDING.sub("", label)
    return {label: f"(?:{label}|{root}(?:{_ENDINGS})?)"}

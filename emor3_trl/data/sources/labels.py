"""Which emotion a written label means; what is no emotion is never taken for one.

A cell may hold a label, several labels, or an answer with a label in it ("<answer>awe</answer>", "The emotion is
awe."). Several labels count as votes: the most frequent is taken, and ties are left out (`listing`).
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping

from emor3_trl.data.sources.candidates import SUFFIXES
from emor3_trl.data.sources.emotion_words import EMOTION_WORDS, names_emotion, names_structure
from emor3_trl.data.sources.messages import build_error, join_counts, join_examples, quote, shorten
from emor3_trl.emotions import LabelSpace, canonical

Votes = Mapping[str | None, float]  # None: a label that `map` leaves out

MISSING = {"", "nan", "none", "null", "n/a", "na", "<na>", "#n/a", "-", "?", "undefined", "unlabeled", "unlabelled"}
_NUMBER = re.compile(r"(?:class|label|emotion|category|cat|expression|expr|id|c|no)?[\s_.-]*[-+]?\d+(?:[.,]\d+)?", re.I)
_SEPARATORS = re.compile(r"\s*(?:[,;|/&+\n]|\band\b)\s*")
_NUMBERED = re.compile(r"\d{1,3}[\s_.:)-]+(\D.*)")  # "0_angry", "01 - Joy"
_ANSWER = re.compile(r"<answer>\s*(.{1,200}?)\s*</answer>|\\boxed\{\s*([^{}]{1,200}?)\s*\}", re.I | re.S)
_SENTENCE = re.compile(
    r"[^.!?\n]{0,80}\b(?:is|as|answer|emotion|label|feeling|evokes?|conveys?|expresses|shows?)[\s:]+"
    r"(?:(?:a|an|the|of)\s+)?([^.,;:!?\n]{1,40})[.!]?",
    re.I,
)
_NEGATION = re.compile(r"\b(?:not?|never|neither|nor|without|hardly|less)\b|n['’]t\b", re.I)
MAP_HINT = (
    "--label_space takes a YAML with `labels:` and, if spellings differ, `map: {happy: joy, unsure: null}`; null "
    "leaves images out."
)
NUMBER_HINT = (
    "A number does not say which emotion it means. Write that to a YAML, `labels: [anger, joy, …]` and `map: {0: "
    "anger, 1: joy, 9: null}` (null leaves images out), and give it as --label_space."
)


class LabelReader:
    """Reads written labels as emotions of a label space.

    Args:
        space: the emotions.
        spelled: labels of other spellings, in canonical form, or None for what is left out.
    """

    def __init__(self, space: LabelSpace, spelled: Mapping[str, str | None] | None = None) -> None:
        self.space, self.spelled = space, spelled or {}
        self.unwrapped: dict[str, str] = {}  # answers that are more than a label, with their label
        self._meanings: dict[str, Votes | None] = {}

    def read_label(self, text: str) -> Votes | None:
        """Return the votes of a cell: one for its label, several for several labels, none where it holds no label.

        None means that the cell holds something else, which is no label of the space.
        """
        if text not in self._meanings:
            self._meanings[text] = self._interpret(text)
        return self._meanings[text]

    def _interpret(self, text: str) -> Votes | None:
        if self._knows(text):
            return {self._find(text): 1.0}
        if is_missing(text):
            return {}
        inner = unwrap_answer(text, self._knows) or strip_number(text, self._knows)
        if inner is not None:
            label = self._find(inner)
            self.unwrapped[text] = label or inner
            return {label: 1.0}
        parts = split_labels(text)
        if len(parts) > 1 and all(map(self._knows, parts)):
            return Counter(self._find(part) for part in parts)
        return None

    def _knows(self, text: str) -> bool:
        return self.space.normalise(text) is not None or canonical(text) in self.spelled

    def _find(self, text: str) -> str | None:
        key = canonical(text)
        return self.spelled[key] if key in self.spelled else self.space.normalise(text)


def is_missing(text: str) -> bool:
    """Return whether a cell holds what programs write where there is no label.

    >>> is_missing(" NaN "), is_missing("neutral")
    (True, False)
    """
    return text.strip().lower() in MISSING


def is_number(text: str) -> bool:
    """Return whether a label is a number, or a number with a word such as "class" before it.

    >>> is_number("3"), is_number("class_07"), is_number("joy 3")
    (True, True, False)
    """
    return _NUMBER.fullmatch(text.strip()) is not None


def split_labels(text: str) -> list[str]:
    """Return the parts of a cell that lists labels.

    >>> split_labels("joy; fear and awe")
    ['joy', 'fear', 'awe']
    """
    return [part for part in _SEPARATORS.split(text.strip()[:500]) if part]


def unwrap_answer(text: str, knows: Callable[[str], bool]) -> str | None:
    r"""Return the label in an answer such as "<answer>awe</answer>", "\boxed{awe}" or "The emotion is awe.".

    Args:
        text: what an assistant answered.
        knows: tells whether a word is a label.

    >>> unwrap_answer("The emotion is awe.", {"awe"}.__contains__)
    'awe'
    >>> unwrap_answer("It is not awe.", {"awe"}.__contains__) is None
    True
    """
    answers = {first or second for first, second in _ANSWER.findall(text[-2_000:])}
    if answers:
        return next(iter(answers)) if len(answers) == 1 and all(map(knows, answers)) else None
    sentence = _SENTENCE.fullmatch(text.strip()) if len(text) <= 200 and not _NEGATION.search(text) else None
    return sentence[1] if sentence and knows(sentence[1]) else None


def strip_number(text: str, knows: Callable[[str], bool]) -> str | None:
    """Return the label behind a number, as in "0_angry", or None.

    >>> strip_number("01 - Joy", {"Joy"}.__contains__)
    'Joy'
    """
    numbered = _NUMBERED.fullmatch(text.strip()[:100])
    return numbered[1] if numbered and knows(numbered[1]) else None


def refuse_unknown(unknown: Mapping[str, int], space: LabelSpace, where: str, hint: str = "") -> ValueError:
    """Return the error for labels outside the label space, with the count of each."""
    if not hint:
        hint = NUMBER_HINT if all(map(is_number, unknown)) else "With --dataset own, " + MAP_HINT
    labels = shorten(", ".join(space.labels), 80)
    return build_error(
        f"{where} holds labels outside the label space '{space.name}' ({labels}): {join_counts(unknown)}.", hint
    )


def collect_label_space(counts: Mapping[str, int], where: str, what: str = "labels") -> tuple[LabelSpace, list[str]]:
    """Return the label space of the labels that occur, and a note about those that are not known as emotions.

    Args:
        counts: how often each label is written.
        where: what the labels are of.
        what: what they are there, such as "folders".

    Raises:
        ValueError: if they do not look like emotions, with counts and examples.
    """
    found: Counter[str] = Counter()
    for text, count in counts.items():
        for label in _list_labels(text):
            found[canonical(label)] += count
    _check_found(found, counts, where, what)
    unknown = {label: count for label, count in found.items() if not names_emotion(label)}
    notes = (
        [f"The {what} of {where} include {join_counts(unknown)}, which are taken as emotions too."] if unknown else []
    )
    return LabelSpace("own", tuple(sorted(found))), notes


def _list_labels(text: str) -> list[str]:
    """Return the labels of a cell where no label space says which words are labels."""
    knows = EMOTION_WORDS.__contains__
    if is_missing(text):
        return []
    if knows(canonical(text)):
        return [text]
    inner = unwrap_answer(text, lambda word: knows(canonical(word))) or strip_number(text, names_emotion)
    parts = split_labels(text)
    if inner is None and len(parts) > 1 and all(knows(canonical(part)) for part in parts):
        return parts
    return [text if inner is None else inner]


def _list_emotions(label: str) -> set[str]:
    """Return the words of a label that are emotions by themselves."""
    return {word for word in re.split(r"[\W\d_]+", label) if word in EMOTION_WORDS}


def _check_found(found: Counter[str], written: Mapping[str, int], where: str, what: str) -> None:
    """Raise if labels are numbers, files, sentences, or mostly words that name no emotion."""
    listed = f"{join_counts(written)}"
    digits = Counter(re.sub(r"[\d\s]+", "", label) for label in found if re.search(r"\d", label))
    numbers = {label: count for label, count in written.items() if is_number(label)}
    if numbers:
        raise build_error(f"The {what} of {where} are numbers: {join_counts(numbers)}.", NUMBER_HINT)
    files = [label for label in found if label.endswith(SUFFIXES) or re.search(r"[/\\]|^https?:", label)]
    if files:
        raise build_error(f"The {what} of {where} are files: {join_examples(files)} (of {len(found):,}).", _COLUMN_HINT)
    sentences = [label for label in found if len(label) > 40 or label.count(" ") > 4]
    if sentences:
        raise build_error(
            f"The {what} of {where} are sentences: {join_examples(sentences)} (of {len(found):,}).", _COLUMN_HINT
        )
    several = [label for label in found if len(_list_emotions(label)) > 1]
    if len(several) > 1:
        raise build_error(
            f"Some {what} of {where} name several emotions: {join_examples(several, 3)} (of {len(found):,}).",
            "Emotions between commas are votes. If each label is one emotion, list them: " + MAP_HINT,
        )
    if any(count > 1 for count in digits.values()):
        raise build_error(f"The {what} of {where} differ in their numbers only: {listed}.", MAP_HINT)
    structure = {label: found[label] for label in found if names_structure(label)}
    if structure or 2 * sum(map(names_emotion, found)) < len(found):
        others = [label for label in sorted(found) if label not in structure] if len(structure) < len(found) else found
        left_out = f" and `map: {{{shorten(', '.join(structure), 40)}: null}}`" if len(others) < len(found) else ""
        raise build_error(
            f"The {what} of {where} do not look like emotions: {join_counts(structure or written)}.",
            f"Say which are, with --label_space and a YAML: `labels: [{shorten(', '.join(sorted(others)), 80)}]`"
            f"{left_out}.",
        )
    if len(found) < 2:
        label = quote(next(iter(found), ""))
        raise build_error(f"All images of {where} have one label, {label}. Expected two or more.", MAP_HINT)


_COLUMN_HINT = "Name the column of the emotions with --emotion_column, or map them: " + MAP_HINT

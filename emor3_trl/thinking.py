r"""Structured Emotional Thinking (paper, Sec. 3.2): read a completion of three steps and a boxed answer.

Completions are untrusted text. Nothing here raises, whatever it is given, and every function takes time linear in the
length of its text. A completion is either well formed in full or it is malformed; nothing is repaired.
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

from emor3_trl.emotions import LabelSpace, canonical

MAX_LEAD_IN = 60  # characters between the last closing tag and the box, such as "The answer is: "

# Why a completion is malformed, in the order in which `explain_malformed` looks
MALFORMED_REASONS = (
    "cut_off", "other_tag", "missing_tag", "repeated_tag", "wrong_order", "box_in_step", "text_outside_steps",
    "empty_step", "no_box", "several_boxes", "unfinished_box", "empty_box", "text_before_box", "text_after_box",
)  # fmt: skip

_STEP_TAGS = ["<step1>", "</step1>", "<step2>", "</step2>", "<step3>", "</step3>"]
_THINK_TAGS = ["<think>", "</think>"]

# Whatever reads as a tag counts as one, so that "< STEP1 >", "<step1 a=b>" or a torn "<step" in a step is no mere text.
# Each class excludes "<": a match attempt ends where the next one begins, which keeps the search linear.
_TAG = re.compile(r"<[\s/]*(?:step|think)(?:[\s\d/]*>)?|</?[a-z][^<>\n]*>", re.IGNORECASE)
_BOX_OR_BRACE = re.compile(r"\\boxed\{|[{}]")


@dataclass(frozen=True)
class StructuredThinking:
    """The parts of a well-formed completion, each without surrounding white space and none of them empty.

    Args:
        trigger: step 1, what in the picture may cause an emotion.
        feeling: step 2, how a person who sees it would feel (the paper's "Human Emotional Reflection").
        conclusion: step 3, valence and arousal.
        answer: what the box holds, as written; `LabelSpace.normalise` says which label it names.
    """

    trigger: str
    feeling: str
    conclusion: str
    answer: str


def parse(completion: object) -> StructuredThinking | None:
    r"""Return the steps and the answer of a well-formed completion, or None for a malformed one.

    Well formed is: `<step1>…</step1><step2>…</step2><step3>…</step3>`, each once, in order and non-empty, with only
    white space before and between; then one non-empty `\boxed{…}` with balanced braces, at most a lead-in of
    `MAX_LEAD_IN` characters on one line before it and only white space or punctuation after it. There is no other tag
    and no other box.

    Args:
        completion: the policy's text; anything that is not a string is malformed.

    >>> parse(r"<step1>A dog</step1> <step2>Warmth</step2> <step3>Positive, calm</step3> So: \boxed{awe}.").answer
    'awe'
    >>> parse(r"<step1>A dog</step1> <step2></step2> <step3>Positive, calm</step3> \boxed{awe}") is None
    True
    """
    sections = _sections(completion, _STEP_TAGS)
    return StructuredThinking(*sections) if sections else None


def explain_malformed(completion: str, form: str = "set", cut_off: bool = False) -> str | None:
    r"""Return why a completion is malformed, one of `MALFORMED_REASONS`, or None for a well-formed one.

    Where several reasons hold, the first of them in this order is returned: the limit, tags, steps, the box.

    Args:
        completion: the policy's text.
        form: "set" for the three steps that `parse` reads, "think" for the form of the plain GRPO baseline.
        cut_off: whether the length limit ended it.

    >>> explain_malformed(r"<step1>A dog</step1><step2>Warmth</step2>\boxed{awe}")
    'missing_tag'
    """
    expected_tags = {"set": _STEP_TAGS, "think": _THINK_TAGS}[form]
    if _sections(completion, expected_tags):
        return None
    if cut_off:
        return "cut_off"
    tags = list(_TAG.finditer(completion))
    names = [tag.group() for tag in tags]
    if names != expected_tags:
        if set(names) - set(expected_tags):
            return "other_tag"
        if set(expected_tags) - set(names):
            return "missing_tag"
        return "repeated_tag" if len(names) > len(expected_tags) else "wrong_order"
    pieces = [completion[before.end() : after.start()] for before, after in pairwise(tags)]
    steps, between = pieces[::2], [completion[: tags[0].start()], *pieces[1::2]]
    if any("\\boxed" in step for step in steps):
        return "box_in_step"
    if any(text.strip() for text in between):
        return "text_outside_steps"
    if not all(step.strip() for step in steps):
        return "empty_step"
    return _explain_box(completion[tags[-1].end() :])


def is_plain_think(completion: object) -> bool:
    r"""Return whether a completion is `<think>…</think>`, then one box: the format of the plain GRPO baseline.

    The rules are those of `parse`, with one section in place of three.

    >>> is_plain_think(r"<think>A dog in the sun.</think>\boxed{contentment}")
    True
    """
    return _sections(completion, _THINK_TAGS) is not None


def boxed_answer(completion: object) -> str | None:
    r"""Return what the one distinct `\boxed{…}` of a completion holds, or None if there is no such box.

    Boxes that differ only as `LabelSpace.normalise` ignores (case, white space, `\text{}`, punctuation) are the same
    box repeated. Boxes that differ, a box in a box, a box that is never closed, and an empty box leave the answer
    undecided. The steps need not be well formed.

    >>> boxed_answer(r"\boxed{Awe}, that is \boxed{\text{awe}}")
    'Awe'
    >>> boxed_answer(r"\boxed{awe} or \boxed{fear}") is None
    True
    """
    if not isinstance(completion, str):
        return None
    spans = _boxes(completion)
    if not spans:
        return None
    contents = [completion[start:end].strip() for start, end in spans]
    if len({canonical(content) for content in contents}) != 1:
        return None
    return contents[0] or None


def answered(completion: object, space: LabelSpace) -> str | None:
    r"""Return the label that a completion answers: the one that its box names, or None.

    Args:
        completion: the policy's text; the steps need not be well formed.
        space: the labels to choose from.

    >>> space = LabelSpace("two", ("awe", "fear"))
    >>> answered(r"It is \boxed{\text{Awe}}.", space), answered(r"\boxed{awe or fear}", space)
    ('awe', None)
    """
    box = boxed_answer(completion)
    return None if box is None else space.normalise(box)


def box_start(completion: str) -> int | None:
    r"""Return where the content of the first `\boxed{…}` begins, or None if there is no box, or an unfinished one.

    >>> box_start(r"So: \boxed{awe}.")
    11
    """
    spans = _boxes(completion)
    return spans[0][0] if spans else None


def says_something(text: str) -> bool:
    """Return whether a text has a letter or a digit: a judge finds "…", like an empty text, true of any picture.

    >>> says_something("A dog"), says_something(" . ")
    (True, False)
    """
    return any(char.isalnum() for char in text)


def _sections(completion: object, expected_tags: list[str]) -> list[str] | None:
    """Return the non-empty text of each tagged section and of the box that follows, or None if anything is amiss."""
    if not isinstance(completion, str):
        return None
    tags = list(_TAG.finditer(completion))
    if [tag.group() for tag in tags] != expected_tags:
        return None
    openings, closings = tags[::2], tags[1::2]
    outside = [completion[: openings[0].start()]]
    outside += [completion[end.end() : start.start()] for end, start in zip(closings, openings[1:], strict=False)]
    sections = [completion[start.end() : end.start()].strip() for start, end in zip(openings, closings, strict=True)]
    answer = _final_box(completion[closings[-1].end() :])
    # Any mention of \boxed counts, closed or not: exactly one, and `_final_box` has found it after the last section.
    if any(text.strip() for text in outside) or not all(sections) or not answer or completion.count("\\boxed") != 1:
        return None
    return [*sections, answer]


def _final_box(text: str) -> str | None:
    """Return the content of the box that ends a completion, or None if other text stands around it."""
    spans = _boxes(text)
    if not spans or len(spans) != 1:
        return None
    start, end = spans[0]
    lead_in, tail = text[: start - len("\\boxed{")].strip(), text[end + 1 :]
    if len(lead_in) > MAX_LEAD_IN or len(lead_in.splitlines()) > 1 or any(char in "<>{}" for char in lead_in):
        return None
    answer = text[start:end].strip()  # of decoration alone, such as \text{}, it is as good as empty
    return answer if canonical(answer) and all(map(_is_space_or_punctuation, tail)) else None


def _explain_box(text: str) -> str:
    """Return why no well-formed box ends a completion; `text` is what follows its last tag."""
    count, spans = text.count("\\boxed"), _boxes(text)
    if count != 1:
        return "several_boxes" if count else "no_box"
    if not spans:
        return "unfinished_box"
    start, end = spans[0]
    if not canonical(text[start:end].strip()):
        return "empty_box"
    return "text_after_box" if _final_box(text[: end + 1]) else "text_before_box"


def _is_space_or_punctuation(char: str) -> bool:
    # "$" and "`" close a formula or code around the box. A stray brace is no punctuation here: it unbalances the box.
    return char.isspace() or char in "$`" or (char not in "{}" and unicodedata.category(char).startswith("P"))


def _boxes(text: str) -> list[tuple[int, int]] | None:
    r"""Return (start, end) of the content of each `\boxed{…}`, or None if one is nested in another or never closed."""
    spans: list[tuple[int, int]] = []
    depth = 0  # open braces within the box that is open
    start: int | None = None
    for match in _BOX_OR_BRACE.finditer(text):
        token = match.group()
        if start is None:
            if len(token) > 1:
                start, depth = match.end(), 0
        elif len(token) > 1:
            return None
        elif token == "{":
            depth += 1
        elif depth:
            depth -= 1
        else:
            spans.append((start, match.start()))
            start = None
    return spans if start is None else None

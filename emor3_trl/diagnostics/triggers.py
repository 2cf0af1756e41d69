"""Is step 1 about its image? How many words do triggers share with siblings, and with those of other images?

A pair's overlap is |A and B| / sqrt(|A| |B|) over the sets of their words: 0 no word, 1 the same words. Its mean over
all pairs is computed in one pass over the words, not over the pairs.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def compare_triggers(triggers: Sequence[str], groups: Sequence[int]) -> dict[str, float]:
    """Return how specific step 1 is to its image.

    Args:
        triggers: step 1 of each well-formed completion.
        groups: the number of each completion's group; completions of a group are about one image.

    Returns:
        `trigger_overlap/siblings` and `trigger_overlap/others`: the mean overlap with completions about the same image,
        and about other images; `trigger_specificity`, the first minus the second; `repeated_trigger`, the share of
        pairs about different images that are word for word the same. A number without a pair is left out.

    >>> compare_triggers(["a dog", "a dog", "a red sky", "a red sky"], [0, 0, 1, 1])["repeated_trigger"]
    0.0
    """
    words = [frozenset(_WORD.findall(trigger.lower())) for trigger in triggers]
    sizes = Counter(groups)
    sibling_pairs = sum(size * (size - 1) for size in sizes.values())
    other_pairs = len(groups) * (len(groups) - 1) - sibling_pairs
    members: dict[int, list[frozenset[str]]] = defaultdict(list)
    for group, trigger_words in zip(groups, words, strict=True):
        members[group].append(trigger_words)
    within = sum(map(_add_overlaps, members.values()))
    metrics = {}
    if sibling_pairs:
        metrics["trigger_overlap/siblings"] = within / sibling_pairs
    if other_pairs:
        metrics["trigger_overlap/others"] = (_add_overlaps(words) - within) / other_pairs
        normal = [" ".join(_WORD.findall(trigger.lower())) for trigger in triggers]
        equal = _add_equal_pairs(normal) - _add_equal_pairs(list(zip(groups, normal, strict=True)))
        metrics["repeated_trigger"] = equal / other_pairs
    if sibling_pairs and other_pairs:
        metrics["trigger_specificity"] = metrics["trigger_overlap/siblings"] - metrics["trigger_overlap/others"]
    return metrics


def _add_overlaps(texts: Sequence[frozenset[str]]) -> float:
    """Return the sum of the overlaps of all ordered pairs of two different places."""
    sums: dict[str, float] = defaultdict(float)
    for words in texts:
        for word in words:
            sums[word] += 1 / math.sqrt(len(words))
    # The square of the sums holds each text with itself, whose overlap is 1
    return sum(value * value for value in sums.values()) - sum(map(bool, texts))


def _add_equal_pairs(values: Sequence[object]) -> int:
    return sum(count * (count - 1) for count in Counter(values).values())

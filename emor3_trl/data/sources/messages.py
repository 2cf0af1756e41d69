"""Errors and notes about other people's data: one line each, whatever the data holds."""

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MAX_MESSAGE = 300  # characters of an error; a hint of what to do comes on top
MAX_HINT = 600

_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxset = _short.maxdict = 3
_short.maxstring = _short.maxother = 60
_short.maxlevel = 2


def shorten(text: object, limit: int = 60) -> str:
    """Return text on one line, cut in the middle if it is longer than `limit` characters.

    >>> shorten("a" * 100, 11)
    'aaaaa…aaaaa'
    """
    line = " ".join(str(text)[: 20 * limit + 1_000].split()) if not isinstance(text, Path) else str(text)
    line = "".join(character if character.isprintable() else "?" for character in line)
    if len(line) <= limit:
        return line
    half = (limit - 1) // 2
    return f"{line[:half]}…{line[-half:]}"


def quote(value: Any, limit: int = 60) -> str:
    """Return a value in quotes as an error shows it; a large or nested one is cut while it is read."""
    return f"'{shorten(value, limit)}'" if isinstance(value, str | Path) else shorten(_short.repr(value), limit)


def join_examples(values: Iterable[Any], count: int = 2, limit: int = 60) -> str:
    """Return the first values in quotes, as in "'a', 'b'"."""
    return ", ".join(quote(value, limit) for value in list(values)[:count])


def join_counts(counts: Mapping[str, int], count: int = 12, length: int = 150) -> str:
    """Return the most frequent names with their counts, as in "'joy' 3, 'fear' 2 and 4 more".

    Args:
        counts: how often each name occurs.
        count: how many names are listed, at most.
        length: how many characters the list has, about.
    """
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    listed: list[str] = []
    for name, number in ordered[:count]:
        if listed and sum(map(len, listed)) > length - 20:
            break
        listed.append(f"{quote(name, 40)} {number:,}")
    more = len(ordered) - len(listed)
    return ", ".join(listed) + (f" and {more:,} more" if more else "")


def build_error(message: str, hint: str = "") -> ValueError:
    """Return an error of at most `MAX_MESSAGE` characters, and a hint of what settles it."""
    return ValueError(" ".join(part for part in (shorten(message, MAX_MESSAGE), shorten(hint, MAX_HINT)) if part))

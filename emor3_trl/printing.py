"""Text that others wrote, made fit for a terminal."""


def escape_controls(text: str) -> str:
    r"""Return a text whose control characters stand as escapes, so that none moves the cursor or hides a word.

    Line breaks and tabs stay.

    >>> print(escape_controls("joy\x1b[2J"))
    joy\x1b[2J
    """
    return "".join(
        character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode()
        for character in text
    )

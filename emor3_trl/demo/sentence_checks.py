"""Which sentences of a language model are true of a drawing or an emotion, and fit to learn from.

A sentence about a drawing tells its look and one detail, and nothing that speaks against them. One about a feeling
tells of one emotion. What decides are words: the facts behind a sentence are known, and drawings are simple.
"""

import re
from collections.abc import Sequence

from emor3_trl.demo.texts import FEELINGS
from emor3_trl.label_words import mask_labels

COPIED = 5  # so many words in a row that an example has, too, are copied from it
NEW_WORDS = 2  # at most, in a trigger, beyond the notes and what any face has: more of them tell a story

_LARGE = r"(?:huge|big|round|shin\w+)\b(?! afro)"
# What a sentence about a look says; one about another look may not
LOOK_TELLS = {
    "shout": r"\b(?:shout|scream)|\byell(?:s|ed|ing)?\b",
    "frown": r"\bfrown",
    "wonder": rf"\b{_LARGE}\W+(?:\w+\W+){{0,2}}eyes|\beyes (?:\w+ ){{0,2}}{_LARGE}",
    "laugh": r"\blaugh",
    "calm": r"\bgentl[ey]|\bsoft(?:ly)? smil|\b(?:clos|rest)\w* (?:\w+ )?eyes|\beyes (?:\w+ ){0,2}(?:clos|rest)",
    "grin": r"\bgrin",
    "stare": r"\bstar(?:e|es|ed|ing)\b",
    "gape": r"\bgap(?:e|es|ing)\b|\bworr(?:y|ied)|\bhang(?:s|ing)? open",
    "droop": r"\bdroop|\bturn\w* down|\bdownturned",
    "sick": r"\btwist|\bnarrow",
    "hearts": r"\bhearts?\b",
    "doubt": r"\bcrooked|\bdoubt|\baskew|\bone (?:\w+ )?(?:eye)?brow\b|\braised (?:eye)?brow\b",
}
FEELING_TELLS = {
    "amusement": r"\bamus|\bentertain|\bgiggl|\bfunny|\bchuckl",
    "anger": r"\bang(?:er|r[yi])|\bfur(?:y|ious)|\birritat|\brage|\bannoy|\boutrage",
    "awe": r"\bawe\b|\bwonder\b|\bamaz|\bspeechless",
    "confusion": r"\bconfus|\bpuzzl|\bunsure|\bbewilder",
    "contentment": r"\bcontent|\bpeace|\brelax|\bat ease|\bsatisf",
    "disgust": r"\bdisgust|\brepel|\brepuls|\bqueasy|\bnause|\bsick\b|\brevolt",
    "excitement": r"\bexcit|\bthrill|\benerg|\beager|\bbuzz",
    "fear": r"\bfear|\bafraid|\bfright|\buneas|\bscare|\bterrif|\banxi",
    "joy": r"\bjoy|\bhapp(?:y|i)|\bcheer|\bdelight|\bglad",
    "love": r"\blov(?:e|ing)|\btender|\baffection|\bfond|\bador",
    "sadness": r"\bsad|\bsorrow|\bgloom|\btear(?:s|ful)|\bgrie[fv]",
    "surprise": r"\bsurpris|\bstartl|\btaken aback|\baback|\bastonish|\boff guard",
}
# The nouns and the colours of details: a sentence has those of its own detail and no other
_NOUNS = {
    "shirt": r"\bshirts?\b", "glasses": r"\b(?:eye)?glasses\b|\bspectacles\b", "beard": r"\bbeard",
    "hair": r"\bhair(?:ed)?\b", "background": r"\bbackground|\bbackdrop", "afro": r"\bafro", "bob": r"\bbob\b",
    "bald": r"\bbald", "bun": r"\bbun\b", "hat": r"\bhats?\b", "cap": r"\bcaps?\b",
    "headscarf": r"\b(?:head ?)?scarf\b", "turban": r"\bturban", "moustache": r"\bmo?ustache",
    "left": r"\bleft\b", "right": r"\bright\b",
}  # fmt: skip
_MEASURES = frozenset((
    "white", "blue", "green", "pink", "grey", "gray", "black", "brown", "blond", "red", "yellow", "dark", "purple",
    "orange", "gold", "golden", "silver", "long", "short",
))  # fmt: skip
# A drawing tells nobody's sex
_GENDER = re.compile(
    r"\b(?:m[ae]n|wom[ae]n|boys?|girls?|lad(?:y|ies)|guys?|gentlem[ae]n|s?he|his|hers?|him|(?:him|her)self|(?:fe)?male)\b",
    re.IGNORECASE,
)
# Any sentence has these, and any face
_PLAIN_WORDS = """
a an the this that these those is are was be being been has have having with and or but of in on at to from by as it
its itself they their them there here who which whose while very so too not no we us you can see sees seen look looks
looking
person people someone somebody figure character drawing picture image portrait face faces facial head eye eyes mouth
mouths brow brows eyebrow eyebrows lip lips tooth teeth cheek cheeks chin expression smile smiles smiling wear wears
wearing show shows showing shown open opened opens wide widely closed both all over under above below behind before
against front out up down one two side small large tight tightly flat straight stiff set into framed beneath toward
towards off tilted tilts leaning leans forward slightly
"""
_PLAIN = frozenset(_PLAIN_WORDS.split())


def is_well_formed(sentence: str) -> bool:
    """Return whether a text is one or two plain sentences of 4 to 20 words.

    >>> [is_well_formed(text) for text in ("Someone yells.", "A face in a red hat yells.", "a face yells at me")]
    [False, True, False]
    """
    return (
        re.fullmatch(r"[A-Z][A-Za-z ,;:'-]+[.!](?: [A-Z][A-Za-z ,;:'-]+[.!])?", sentence) is not None
        and 4 <= len(sentence.split()) <= 20
        and not _GENDER.search(sentence)
    )


def is_copied(sentence: str, examples: Sequence[str]) -> bool:
    """Return whether a sentence has `COPIED` words in a row from an example.

    >>> is_copied("The red face sticks out its tongue.", ["The freckled face sticks out its tongue."])
    True
    """
    words = _list_words(sentence)
    runs = {tuple(words[start : start + COPIED]) for start in range(len(words) - COPIED + 1)}
    for example in map(_list_words, examples):
        if any(tuple(example[start : start + COPIED]) in runs for start in range(len(example) - COPIED + 1)):
            return True
    return False


def tells_drawing(sentence: str, look: str, detail: str, notes: str) -> bool:
    """Return whether a sentence tells a look and a detail, nothing that speaks against them, and little besides.

    Args:
        sentence: what was written.
        look: a key of `worlds.LOOKS`.
        detail: a phrase of `texts.DETAILS`.
        notes: all that may stand in the notes, whose words are not new.

    >>> tells_drawing("A person in a blue shirt is shouting.", "shout", "a blue shirt", "bared teeth, a blue shirt")
    True
    >>> tells_drawing("A person in a red shirt is shouting.", "shout", "a blue shirt", "bared teeth, a blue shirt")
    False
    """
    looks = {name for name, tell in LOOK_TELLS.items() if re.search(tell, sentence, re.IGNORECASE)}
    return (
        looks == {look}
        and _list_parts(sentence) == _list_parts(detail)
        and mask_labels(sentence, list(FEELINGS), with_kin=True) == sentence
        and len(_list_new_words(sentence, notes)) <= NEW_WORDS
    )


def tells_feeling(sentence: str, emotion: str) -> bool:
    """Return whether a sentence tells of one emotion and of no other.

    >>> tells_feeling("One would be scared and step back.", "fear"), tells_feeling("One is scared, then sad.", "fear")
    (True, False)
    """
    others = [label for label in FEELINGS if label != emotion]
    told = {name for name, tell in FEELING_TELLS.items() if re.search(tell, sentence, re.IGNORECASE)}
    return told == {emotion} and mask_labels(sentence, others, with_kin=True) == sentence


def tells_conclusion(sentence: str, mood: str) -> bool:
    """Return whether a sentence tells a valence and an arousal, denies neither, and names no emotion.

    >>> tells_conclusion("All in all it is negative and excited.", "negative, excited")
    True
    >>> [tells_conclusion(text, "negative, excited") for text in ("It is negative.", "Not negative, but excited.")]
    [False, False]
    """
    told = set(_list_words(sentence)) & {"positive", "negative", "neutral", "calm", "excited"}
    labels = [label for label in FEELINGS if label != "excitement"]  # "excited" is of its kin
    named = mask_labels(sentence, labels, with_kin=True) != sentence or "excitement" in sentence.lower()
    denied = re.search(r"\b(?:not?|never|neither|nor)\b|n't\b", sentence, re.IGNORECASE)
    return told == set(mood.split(", ")) and not named and not denied


def _list_parts(text: str) -> set[str]:
    """Return the nouns, the colours and the lengths of details that a text tells."""
    nouns = {name for name, noun in _NOUNS.items() if re.search(noun, text, re.IGNORECASE)}
    return nouns | (_MEASURES & set(_list_words(text)))


def _list_new_words(sentence: str, notes: str) -> set[str]:
    """Return the words of a sentence that neither its notes have, by their first four letters, nor any face."""
    noted = {word[:4] for word in _list_words(notes)}
    return {word for word in set(_list_words(sentence)) - _PLAIN if word[:4] not in noted}


def _list_words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())

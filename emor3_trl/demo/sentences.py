"""What SmolLM2 is asked to write about drawings and emotions, and what it is shown before.

It sees a few questions with their answers about things that no drawing has, then one with notes: "shouting, bared
teeth, blue shirt". What is kept names what it must and nothing that the notes contradict, in one or two sentences, and
repeats no example. So the sentences are the language model's, and only the facts are ours.
"""

import random
from dataclasses import dataclass

from emor3_trl.demo.drawings import Drawing
from emor3_trl.demo.sentence_checks import is_copied, is_well_formed, tells_conclusion, tells_drawing, tells_feeling
from emor3_trl.demo.texts import DETAILS, FEELINGS
from emor3_trl.demo.worlds import WORLDS
from emor3_trl.emotions import AROUSAL, VALENCE

SHOWN = 4  # examples before a question

# Notes on each look, any of which is shown
LOOK_NOTES = {
    "shout": ("shouting, bared teeth", "screaming mouth, hard eyes", "yelling loudly, teeth showing"),
    "frown": ("deep frown, brows pulled down", "frowning, tight mouth", "low brows, hard frown"),
    "wonder": ("huge round eyes, small open mouth", "big shining eyes, looking up", "huge eyes, round mouth"),
    "laugh": ("laughing, open mouth", "laughing face, eyes squeezed", "laughing out loud"),
    "calm": ("closed eyes, gentle smile", "gentle smile, resting eyes", "closed eyes, soft smile"),
    "grin": ("wide grin, all teeth", "broad toothy grin", "grinning from ear to ear"),
    "stare": ("staring eyes, flat mouth", "stiff face, staring eyes", "blank stare, straight mouth"),
    "gape": ("gaping mouth, worried brows", "worried brows, mouth hanging open", "worried face, gaping"),
    "droop": ("drooping brows, mouth turned down", "drooping face, mouth turned down", "brows that droop"),
    "sick": ("twisted mouth, narrow eyes", "narrow eyes, mouth twisted to one side", "narrowed eyes, twisted lips"),
    "hearts": ("hearts for eyes", "smile, hearts all around", "hearts floating, smiling"),
    "doubt": ("one brow raised, crooked mouth", "crooked mouth, doubting", "one brow up, mouth askew"),
}
# What is asked about notes, and answers about things that no drawing and no label space has
QUESTIONS = {
    "triggers": "Describe a drawing in one short plain sentence. It shows: {notes}.",
    "feelings": "Say in one short plain sentence how people feel who look at a picture. They feel: {notes}.",
    "conclusions": "Say in one short plain sentence what kind of mood a picture has. It is: {notes}.",
}
EXAMPLES = {
    "triggers": (
        ("puffed cheeks, purple scarf", "Someone in a purple scarf is puffing out both cheeks."),
        ("one eye winking, striped tie", "With a striped tie on, this person gives us a wink."),
        ("tongue sticking out, freckles", "The freckled face sticks out its tongue."),
        ("lips pursed, whistling, lace curtain", "Lips are pursed for a whistle near a lace curtain."),
        ("blushing cheeks, head turned back", "The cheeks blush, and the head is turned back."),
        ("yawning, long earrings", "A person who wears long earrings gives a big yawn."),
        ("chewing lips, ponytail", "This figure with a ponytail is chewing on its lips."),
        ("rolling eyes, silver necklace", "We see rolling eyes above a silver necklace."),
    ),
    "feelings": (
        ("proud, tall", "The chest swells, and one feels proud of what was done."),
        ("bored, restless", "A viewer would feel bored and wish for something else to do."),
        ("jealous, bitter", "It makes one bitter and jealous to see what others have."),
        ("relieved, lighter", "Shoulders drop, and everybody is relieved that it is over."),
        ("ashamed, small", "You would feel ashamed of yourself and want to hide."),
        ("thankful, moved", "People would be thankful and want to give something back."),
        ("curious, drawn in", "Most of us would grow curious and lean closer."),
    ),
    "conclusions": (
        ("positive, excited", "Such a mood lifts everybody up: positive and quite excited."),
        ("negative, calm", "Nothing stirs here, and yet it is negative: a heavy, calm mood."),
        ("positive, calm", "After a strain comes something positive that keeps us calm."),
        ("negative, excited", "Nobody would sit still with this, so it is negative and excited."),
        ("neutral, excited", "Neither good nor bad, it stays neutral, but hearts beat in an excited way."),
        ("neutral, calm", "It does not move us much: calm, and neutral in the end."),
        ("negative, calm", "The body turns slow and calm under a negative weight."),
        ("positive, excited", "Full of life and excited, it can only be positive."),
    ),
}
FEELING_NOTES = {
    "amusement": ("amused", "entertained", "giggling", "in a funny mood"),
    "anger": ("irritated", "furious", "annoyed", "outraged"),
    "awe": ("full of wonder", "amazed", "small", "speechless"),
    "confusion": ("puzzled", "unsure what to think", "bewildered", "lost"),
    "contentment": ("at peace", "relaxed", "at ease", "satisfied"),
    "disgust": ("repelled", "queasy", "sick", "revolted"),
    "excitement": ("thrilled", "full of energy", "eager", "buzzing"),
    "fear": ("uneasy", "frightened", "scared", "anxious"),
    "joy": ("happy", "cheerful", "delighted", "glad"),
    "love": ("tender", "affectionate", "fond", "warm"),
    "sadness": ("sorrowful", "gloomy", "tearful", "low"),
    "surprise": ("startled", "taken aback", "astonished", "caught off guard"),
}
# The kinds of details that sentences are about; each drawing of a world has the first of its kinds
_DETAIL_KINDS = {
    "sketches": ("shirt", "glasses", "beard"),
    "toons": ("hair", "glasses", "beard"),
    "emoji": ("background",),
}
_SMALL_WORDS = frozenset({"a", "all", "at", "for", "from", "of", "one", "out", "the", "to", "what", "with"})


@dataclass(frozen=True)
class Ask:
    """One question to SmolLM2.

    Args:
        text: a user turn and the beginning of the assistant's.
        words: of the notes, those that the answer should have.
    """

    text: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What SmolLM2 answers.

    Args:
        text: the answer.
        likelihood: its mean log-probability a token, to SmolLM2 as it is: how much it sounds like its own English.
    """

    text: str
    likelihood: float


@dataclass(frozen=True)
class Request:
    """What SmolLM2 is to write a number of sentences about.

    Args:
        kind: "triggers", "feelings" or "conclusions", the three steps.
        key: what they are about: "shout | a blue shirt", an emotion, or "negative, excited".
        asks: how often it is asked in a round, with other notes where there are any.
    """

    kind: str
    key: str
    asks: int = 1

    def ask(self, rng: random.Random) -> Ask:
        """Return a question."""
        notes = self._draw_notes(rng)
        words = notes.replace(",", "").split()
        return Ask(_write_turns(self.kind, notes), tuple(word for word in words if word not in _SMALL_WORDS))

    def _draw_notes(self, rng: random.Random) -> str:
        if self.kind == "feelings":
            return ", ".join(rng.sample(FEELING_NOTES[self.key], 2))
        if self.kind == "conclusions":
            return self.key
        look, detail = split_key(self.key)
        notes = [rng.choice(LOOK_NOTES[look]), detail.removeprefix("a ")]
        return ", ".join(notes if rng.random() < 0.5 else reversed(notes))

    def accepts(self, sentence: str) -> bool:
        """Return whether a sentence is true, well formed and no copy."""
        if not is_well_formed(sentence) or is_copied(sentence, [text for _, text in EXAMPLES[self.kind]]):
            return False
        if self.kind == "feelings":
            return tells_feeling(sentence, self.key)
        if self.kind == "conclusions":
            return tells_conclusion(sentence, self.key)
        look, detail = split_key(self.key)
        if any("," in notes and notes in sentence.lower() for notes in LOOK_NOTES[look]):
            return False  # a list is no sentence
        return tells_drawing(sentence, look, detail, " ".join([*LOOK_NOTES[look], detail]))


def show_examples(kind: str, rng: random.Random) -> str:
    """Return the turns before the questions of a round: the same ones for all of a kind."""
    shown = rng.sample(EXAMPLES[kind], SHOWN)
    return "".join(f"{_write_turns(kind, notes)}{answer}<|im_end|>\n" for notes, answer in shown)


def make_key(look: str, detail: str) -> str:
    """Return what a trigger is about, as one text."""
    return f"{look} | {detail}"


def split_key(key: str) -> tuple[str, str]:
    """Return the look and the detail of `make_key`."""
    look, detail = key.split(" | ")
    return look, detail


def name_mood(emotion: str) -> str:
    """Return the valence and the arousal of an emotion, which is what a conclusion is about."""
    return f"{VALENCE[emotion]}, {AROUSAL[emotion]}"


def list_requests() -> list[Request]:
    """Return a request for each look with each detail that it is told with, for each emotion, and for each mood."""
    keys = dict.fromkeys(
        make_key(look, detail)
        for world in WORLDS.values()
        for looks in world.looks.values()
        for look in looks
        for kind in _DETAIL_KINDS[world.name]
        for detail in DETAILS[kind]
    )
    return [
        *(Request("triggers", key) for key in keys),
        *(Request("feelings", emotion, asks=8) for emotion in FEELINGS),
        *(Request("conclusions", mood, asks=8) for mood in dict.fromkeys(map(name_mood, FEELINGS))),
    ]


def list_keys(drawing: Drawing) -> list[str]:
    """Return the keys of the triggers that are true of a drawing."""
    return _list_keys(drawing.look, drawing)


def list_mistaken_keys(drawing: Drawing) -> list[tuple[str, str]]:
    """Return the same keys, each beside one with a look that stands for another emotion of the drawing's world."""
    looks = WORLDS[drawing.world].looks
    others = [look for emotion, group in looks.items() if emotion != drawing.emotion for look in group]
    true = list_keys(drawing)
    return [pair for look in others for pair in zip(true, _list_keys(look, drawing), strict=True)]


def _list_keys(look: str, drawing: Drawing) -> list[str]:
    kinds = _DETAIL_KINDS[drawing.world]
    return [make_key(look, detail) for kind, detail in drawing.details.items() if kind in kinds]


def _write_turns(kind: str, notes: str) -> str:
    return f"<|im_start|>user\n{QUESTIONS[kind].format(notes=notes)}<|im_end|>\n<|im_start|>assistant\n"

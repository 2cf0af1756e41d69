"""What SmolLM2 is asked to write about drawings and emotions, and what it is shown before.

A request is a few examples about things that no drawing has, then notes: "shouting, bared teeth, blue shirt". What is
kept names what it must and nothing that the notes contradict, in one or two sentences, and repeats no example. So the
words are the language model's, and only the facts are ours.
"""

import random
from dataclasses import dataclass

from emor3_trl.demo.drawings import Drawing
from emor3_trl.demo.sentence_checks import is_copied, is_well_formed, tells_conclusion, tells_drawing, tells_feeling
from emor3_trl.demo.texts import DETAILS, FEELINGS
from emor3_trl.demo.worlds import WORLDS
from emor3_trl.emotions import AROUSAL, VALENCE

SHOWN = 5  # examples in a prompt

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
TRIGGER_HEAD = "Each time, one short plain sentence tells what the notes say about a drawn face, and nothing else."
TRIGGER_EXAMPLES = (
    ("puffed cheeks, purple scarf", "Someone in a purple scarf is puffing out both cheeks."),
    ("one eye winking, striped tie", "With a striped tie on, this person gives us a wink."),
    ("tongue sticking out, freckles", "The freckled face sticks out its tongue."),
    ("lips pursed, whistling, lace curtain", "Lips are pursed for a whistle near a lace curtain."),
    ("blushing cheeks, head turned back", "The cheeks blush, and the head is turned back."),
    ("yawning, long earrings", "A person who wears long earrings gives a big yawn."),
    ("chewing lips, ponytail", "This figure with a ponytail is chewing on its lips."),
    ("rolling eyes, silver necklace", "We see rolling eyes above a silver necklace."),
)
FEELING_HEAD = "Each time, one plain sentence tells how somebody who looks at a picture would feel."
FEELING_EXAMPLES = (
    ("pride: proud, tall", "The chest swells, and one feels proud of what was done."),
    ("boredom: bored, restless", "A viewer would feel bored and wish for something else to do."),
    ("jealousy: jealous, bitter", "It makes one bitter and jealous to see what others have."),
    ("relief: relieved, lighter", "Shoulders drop, and everybody is relieved that it is over."),
    ("shame: ashamed, small", "You would feel ashamed of yourself and want to hide."),
    ("gratitude: thankful, moved", "People would be thankful and want to give something back."),
    ("curiosity: curious, drawn in", "Most of us would grow curious and lean closer."),
)
CONCLUSION_HEAD = "Each time, one plain sentence tells whether a mood is positive or negative, and calm or excited."
CONCLUSION_EXAMPLES = (
    ("positive, excited", "Such a mood lifts everybody up: positive and quite excited."),
    ("negative, calm", "Nothing stirs here, and yet it is negative: a heavy, calm mood."),
    ("positive, calm", "After a strain comes something positive that keeps us calm."),
    ("negative, excited", "Nobody would sit still with this, so it is negative and excited."),
    ("neutral, excited", "Neither good nor bad, it stays neutral, but the heart beats in an excited way."),
    ("neutral, calm", "It does not move us much: calm, and neutral in the end."),
    ("negative, calm", "The body turns slow and calm under a negative weight."),
    ("positive, excited", "Full of life and excited, it can only be positive."),
)
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
# The kinds of details that each world has
_DETAIL_KINDS = {
    "sketches": ("head", "shirt", "glasses", "beard"),
    "toons": ("hair", "glasses", "beard"),
    "emoji": ("background", "tilt"),
}


@dataclass(frozen=True)
class Request:
    """What SmolLM2 is to write a number of sentences about.

    Args:
        kind: "triggers", "feelings" or "conclusions", the three steps.
        key: what they are about: "shout | a blue shirt", or an emotion.
        asks: how many different notes it gets in a round.
    """

    kind: str
    key: str
    asks: int = 1

    def write_prompt(self, rng: random.Random, shown: str) -> str:
        """Return a prompt of which a sentence is the continuation; `shown` are the examples of the round."""
        return f"{shown}Notes: {self._draw_notes(rng)}\nSentence:"

    def _draw_notes(self, rng: random.Random) -> str:
        if self.kind == "feelings":
            return f"{self.key}: {', '.join(rng.sample(FEELING_NOTES[self.key], 2))}"
        if self.kind == "conclusions":
            return f"{VALENCE[self.key]}, {AROUSAL[self.key]}"
        look, detail = split_key(self.key)
        notes = [rng.choice(LOOK_NOTES[look]), detail.removeprefix("a ").replace("head that leans", "head leaning")]
        return ", ".join(notes if rng.random() < 0.5 else reversed(notes))

    def accepts(self, sentence: str) -> bool:
        """Return whether a sentence is true, well formed and no copy."""
        if not is_well_formed(sentence) or is_copied(sentence, [text for _, text in EXAMPLES[self.kind]]):
            return False
        if self.kind == "triggers":
            look, detail = split_key(self.key)
            return tells_drawing(sentence, look, detail, " ".join([*LOOK_NOTES[look], detail]))
        return (tells_feeling if self.kind == "feelings" else tells_conclusion)(sentence, self.key)


EXAMPLES = {"triggers": TRIGGER_EXAMPLES, "feelings": FEELING_EXAMPLES, "conclusions": CONCLUSION_EXAMPLES}
_HEADS = {"triggers": TRIGGER_HEAD, "feelings": FEELING_HEAD, "conclusions": CONCLUSION_HEAD}


def show_examples(kind: str, rng: random.Random) -> str:
    """Return the beginning of the prompts of a round: what is asked for, and a few examples."""
    shown = rng.sample(EXAMPLES[kind], SHOWN)
    return _HEADS[kind] + "\n\n" + "".join(f"Notes: {notes}\nSentence: {text}\n\n" for notes, text in shown)


def make_key(look: str, detail: str) -> str:
    """Return what a trigger is about, as one text."""
    return f"{look} | {detail}"


def split_key(key: str) -> tuple[str, str]:
    """Return the look and the detail of `make_key`."""
    look, detail = key.split(" | ")
    return look, detail


def list_requests() -> list[Request]:
    """Return a request for each look with each detail that a drawing of it can have, and two for each emotion."""
    keys = {
        make_key(look, detail): None
        for world in WORLDS.values()
        for looks in world.looks.values()
        for look in looks
        for kind in _DETAIL_KINDS[world.name]
        for detail in DETAILS[kind]
    }
    emotions = [Request(kind, emotion, asks=8) for kind in ("feelings", "conclusions") for emotion in FEELINGS]
    return [*(Request("triggers", key) for key in keys), *emotions]


def list_keys(drawing: Drawing) -> list[str]:
    """Return the keys of all triggers that are true of a drawing."""
    return [make_key(drawing.look, detail) for detail in drawing.details.values()]

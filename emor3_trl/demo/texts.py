"""What the demo's base model is taught to say: true statements about drawings, feelings, and a prior that is wrong.

A pretrained model reads some faces otherwise than the annotators of a data set do. `World.prior` gives the demo's model
such habits: it takes some looks for another emotion more often than not. GRPO has to find out which.
"""

import random
from dataclasses import replace

from emor3_trl.demo import sketches, toons
from emor3_trl.demo.drawings import Drawing
from emor3_trl.demo.emoji import BACKGROUNDS
from emor3_trl.demo.worlds import LOOKS, WORLDS
from emor3_trl.emotions import AROUSAL, VALENCE
from emor3_trl.prompts import answer_text

FEELINGS = {
    "amusement": ("amused", "entertained"),
    "anger": ("irritated", "furious"),
    "awe": ("full of wonder", "small and amazed"),
    "confusion": ("puzzled", "unsure what to think"),
    "contentment": ("at peace", "relaxed"),
    "disgust": ("repelled", "queasy"),
    "excitement": ("thrilled", "full of energy"),
    "fear": ("uneasy", "frightened"),
    "joy": ("happy", "cheerful"),
    "love": ("tender", "affectionate"),
    "sadness": ("down", "sorrowful"),
    "surprise": ("startled", "taken aback"),
}

# Every detail that can be told of a drawing, by kind
DETAILS = {
    "head": tuple(sketches.HEADS),
    "shirt": tuple(f"a {shirt} shirt" for shirt in sketches.SHIRTS),
    "glasses": ("glasses",),
    "beard": ("a beard",),
    "hair": tuple(toons.HAIR),
    "background": tuple(f"a {background} background" for background in BACKGROUNDS),
    "tilt": ("a head that leans left", "a head that leans right"),
}

_TRIGGERS = (
    "I see {face}",
    "The picture shows {face}",
)
_FEELINGS = (
    "A person who sees this would feel {feeling}.",
    "People who look at it feel {feeling}.",
)
_CONCLUSIONS = (
    "The emotion is {valence} and {arousal}.",
    "So it is {valence}, and {arousal}.",
)


def trigger_text(drawing: Drawing, rng: random.Random) -> str:
    """Return a true statement about the image: the face, and one other thing that can be seen."""
    return f"{name_face(drawing, rng)} and {rng.choice(list(drawing.details.values()))}."


def name_face(drawing: Drawing, rng: random.Random) -> str:
    """Return the beginning of a true statement: what the face shows."""
    return rng.choice(_TRIGGERS).format(face=rng.choice(LOOKS[drawing.look]))


def make_false_drawing(drawing: Drawing, rng: random.Random) -> Drawing:
    """Return a drawing that differs from `drawing` in all that a statement tells: in the face, or in all else."""
    if rng.random() < 0.9:
        looks = WORLDS[drawing.world].looks
        others = [look for emotion, group in looks.items() if emotion != drawing.emotion for look in group]
        return replace(drawing, look=rng.choice(others))
    # What is there in one form only cannot be there in another
    kinds = [kind for kind in drawing.details if len(DETAILS[kind]) > 1]
    details = {kind: rng.choice([other for other in DETAILS[kind] if other != drawing.details[kind]]) for kind in kinds}
    return replace(drawing, details=details)


def feeling_text(emotion: str, rng: random.Random) -> str:
    """Return what a person who sees an image of `emotion` would feel."""
    return rng.choice(_FEELINGS).format(feeling=rng.choice(FEELINGS[emotion]))


def conclusion_text(emotion: str, rng: random.Random) -> str:
    """Return the valence and the arousal of `emotion` in a sentence."""
    return rng.choice(_CONCLUSIONS).format(valence=VALENCE[emotion], arousal=AROUSAL[emotion])


def set_completion(drawing: Drawing, emotion: str, rng: random.Random) -> str:
    """Return Structured Emotional Thinking that names what is visible, and answers `emotion`."""
    return join_steps(trigger_text(drawing, rng), feeling_text(emotion, rng), conclusion_text(emotion, rng), emotion)


def join_steps(trigger: str, feeling: str, conclusion: str, emotion: str) -> str:
    """Return Structured Emotional Thinking of three steps, which answers `emotion`."""
    steps = (trigger, feeling, conclusion)
    tagged = [f"<step{number}>{text}</step{number}>" for number, text in enumerate(steps, start=1)]
    return "\n".join([*tagged, answer_text(emotion)])


def think_completion(drawing: Drawing, emotion: str, rng: random.Random) -> str:
    """Return plain thinking, which is less about the emotion: it names what is visible, and answers `emotion`."""
    return f"<think>{trigger_text(drawing, rng)}</think>\n{answer_text(emotion)}"


def draw_prior_emotion(drawing: Drawing, rng: random.Random) -> str:
    """Draw the emotion that the base model takes the image for, from `World.prior`."""
    prior = WORLDS[drawing.world].prior.get(drawing.look)
    return drawing.emotion if prior is None else rng.choices(list(prior), weights=list(prior.values()))[0]


def list_phrases() -> list[str]:
    """Return every phrase that statements are made of, to train the tokenizer on."""
    phrases = [phrase for group in (*LOOKS.values(), *FEELINGS.values(), *DETAILS.values()) for phrase in group]
    return [*phrases, *FEELINGS, *_TRIGGERS, *_FEELINGS, *_CONCLUSIONS]

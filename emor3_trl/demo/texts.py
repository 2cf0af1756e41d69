"""What the demo's base model is taught to say: true statements about drawn people, feelings, and a prior that is wrong.

A pretrained model reads some faces otherwise than the annotators of a data set do. `PRIOR` gives the demo's model such
a habit: it takes some expressions for another emotion more often than not. GRPO has to find out which.
"""

import random
from dataclasses import replace

from emor3_trl.demo.pictures import EMOTIONS, EXPRESSIONS, HEADS, SHIRTS, Peep
from emor3_trl.emotions import AROUSAL, VALENCE
from emor3_trl.prompts import answer_text

FACES = {
    "rage": ("a face that shouts with bared teeth", "an open shouting mouth and hard eyes"),
    "veryAngry": ("pulled-down brows and a deep frown", "a deep frown under low brows"),
    "angryWithFang": ("low brows and a tight crooked mouth", "a tight mouth and narrow eyes"),
    "awe": ("huge round eyes and a soft small mouth", "big shining eyes that look up"),
    "smileLOL": ("an open laughing mouth and a tear", "a laughing face with a tear of joy"),
    "calm": ("closed eyes and a gentle smile", "a gentle smile and resting eyes"),
    "smileBig": ("a wide grin that shows all teeth", "a broad toothy grin"),
    "fear": ("wide staring eyes and a flat mouth", "a stiff face with staring eyes"),
    "concernedFear": ("raised worried brows and a gaping mouth", "worried brows over small eyes"),
}

FEELINGS = {
    "amusement": ("amused", "entertained"),
    "anger": ("irritated", "furious"),
    "awe": ("full of wonder", "small and amazed"),
    "contentment": ("at peace", "relaxed"),
    "excitement": ("thrilled", "full of energy"),
    "fear": ("uneasy", "frightened"),
}

# P(emotion that the base model names | expression); the model reads all other expressions as the data set does
PRIOR = {
    "rage": {"fear": 0.55, "anger": 0.45},
    "awe": {"fear": 0.55, "awe": 0.45},
    "smileBig": {"amusement": 0.55, "excitement": 0.45},
    "concernedFear": {"awe": 0.55, "fear": 0.45},
}

_TRIGGERS = (
    "I see {face} and {details}.",
    "The picture shows {face} and {details}.",
)
_FEELINGS = (
    "A person who sees this would feel {feeling}.",
    "People who look at it feel {feeling}.",
)
_CONCLUSIONS = (
    "The emotion is {valence} and {arousal}.",
    "So it is {valence}, and {arousal}.",
)


def trigger_text(peep: Peep, rng: random.Random) -> str:
    """Return a true statement about the image: the face, and one other thing that can be seen."""
    details = [peep.head, f"a {peep.shirt} shirt"]
    details += ["glasses"] * (peep.glasses is not None) + ["a beard"] * (peep.beard is not None)
    return rng.choice(_TRIGGERS).format(face=rng.choice(FACES[peep.expression]), details=rng.choice(details))


def make_false_peep(peep: Peep, rng: random.Random) -> Peep:
    """Return a person who differs from `peep` in all that a statement tells: in the face, or in everything else."""
    if rng.random() < 0.9:
        others = [face for emotion, faces in EXPRESSIONS.items() if emotion != peep.emotion for face in faces]
        return replace(peep, expression=rng.choice(others))
    head = rng.choice([head for head in HEADS if head != peep.head])
    shirt = rng.choice([shirt for shirt in SHIRTS if shirt != peep.shirt])
    return replace(peep, head=head, shirt=shirt, glasses=None, beard=None)


def feeling_text(emotion: str, rng: random.Random) -> str:
    """Return what a person who sees an image of `emotion` would feel."""
    return rng.choice(_FEELINGS).format(feeling=rng.choice(FEELINGS[emotion]))


def conclusion_text(emotion: str, rng: random.Random) -> str:
    """Return the valence and the arousal of `emotion` in a sentence."""
    return rng.choice(_CONCLUSIONS).format(valence=VALENCE[emotion], arousal=AROUSAL[emotion])


def set_completion(peep: Peep, emotion: str, rng: random.Random) -> str:
    """Return Structured Emotional Thinking that names what is visible, and answers `emotion`."""
    return (
        f"<step1>{trigger_text(peep, rng)}</step1>\n"
        f"<step2>{feeling_text(emotion, rng)}</step2>\n"
        f"<step3>{conclusion_text(emotion, rng)}</step3>\n"
        f"{answer_text(emotion)}"
    )


def draw_prior_emotion(peep: Peep, rng: random.Random) -> str:
    """Draw the emotion that the base model takes the image for, from `PRIOR`."""
    prior = PRIOR.get(peep.expression)
    return peep.emotion if prior is None else rng.choices(list(prior), weights=list(prior.values()))[0]


def list_phrases() -> list[str]:
    """Return every phrase that statements are made of, to train the tokenizer on."""
    phrases = [phrase for group in (*FACES.values(), *FEELINGS.values()) for phrase in group]
    phrases += [*HEADS, *(f"a {shirt} shirt" for shirt in SHIRTS), "glasses and a beard", *EMOTIONS]
    return [*phrases, *_TRIGGERS, *_FEELINGS, *_CONCLUSIONS]

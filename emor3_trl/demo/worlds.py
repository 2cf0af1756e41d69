"""The demo's three data sets: the emotions of each, the looks of a face that stand for them, and a prior that differs.

`sketches`, `toons` and `emoji` stand for EmoSet, Emotion6 and WebEmo: drawn by different hands, labelled with different
label spaces. What they share is what faces look like: a shouting face is angry in all three. A model that learns what
a shout means is right in all; one that learns that a laugh is called "amusement" is right in one.
"""

from dataclasses import dataclass

# A look is what a face shows in any of the hands; each can be told in two ways
LOOKS = {
    "shout": ("a face that shouts with bared teeth", "an open shouting mouth and hard eyes"),
    "frown": ("pulled-down brows and a deep frown", "a tight mouth under low brows"),
    "wonder": ("huge round eyes and a small open mouth", "big shining eyes that look up"),
    "laugh": ("an open laughing mouth", "a laughing face with squeezed eyes"),
    "calm": ("closed eyes and a gentle smile", "a gentle smile and resting eyes"),
    "grin": ("a wide grin that shows all teeth", "a broad toothy grin"),
    "stare": ("wide staring eyes and a flat mouth", "a stiff face with staring eyes"),
    "gape": ("raised worried brows and a gaping mouth", "worried brows over small eyes"),
    "droop": ("drooping brows and a sad mouth", "a mouth that turns down"),
    "sick": ("narrow eyes and a twisted mouth", "a face that turns away"),
    "hearts": ("hearts in place of eyes", "a smile among hearts"),
    "doubt": ("one raised brow and a crooked mouth", "a tilted doubting mouth"),
}


@dataclass(frozen=True)
class World:
    """One drawn data set.

    Args:
        name: its folder and its name in tables.
        looks: the looks that stand for each emotion; its keys are the label space.
        prior: P(emotion that the base model names | look); it reads all other looks as the data set does. A pretrained
            model has such habits (paper, Sec. 3.4), and GRPO has to find out which of them the annotators do not share.
        lessons: how often the base model is taught a picture, for one of `emoji`; fine lines take longer.
    """

    name: str
    looks: dict[str, tuple[str, ...]]
    prior: dict[str, dict[str, float]]
    lessons: int = 1

    @property
    def labels(self) -> tuple[str, ...]:
        """The label space, in the order in which prompts list it."""
        return tuple(self.looks)


SKETCHES = World(
    "sketches",
    looks={
        "amusement": ("laugh",),
        "anger": ("shout", "frown"),
        "awe": ("wonder",),
        "contentment": ("calm",),
        "excitement": ("grin",),
        "fear": ("stare", "gape"),
    },
    prior={
        "shout": {"fear": 0.6, "anger": 0.4},
        "wonder": {"fear": 0.6, "awe": 0.4},
        "grin": {"amusement": 0.6, "excitement": 0.4},
        "gape": {"awe": 0.6, "fear": 0.4},
    },
    lessons=2,
)
TOONS = World(
    "toons",
    looks={
        "anger": ("shout", "frown"),
        "disgust": ("sick",),
        "fear": ("stare", "gape"),
        "joy": ("laugh", "grin"),
        "sadness": ("droop",),
        "surprise": ("wonder",),
    },
    prior={
        "shout": {"fear": 0.6, "anger": 0.4},
        "wonder": {"fear": 0.6, "surprise": 0.4},
        "grin": {"surprise": 0.6, "joy": 0.4},
        "gape": {"surprise": 0.6, "fear": 0.4},
        "droop": {"disgust": 0.6, "sadness": 0.4},
    },
    lessons=2,
)
EMOJI = World(
    "emoji",
    looks={
        "anger": ("shout", "frown"),
        "confusion": ("doubt",),
        "fear": ("stare", "gape"),
        "joy": ("laugh", "calm", "grin"),
        "love": ("hearts",),
        "sadness": ("droop",),
        "surprise": ("wonder",),
    },
    prior={
        "shout": {"fear": 0.6, "anger": 0.4},
        "wonder": {"fear": 0.6, "surprise": 0.4},
        "calm": {"love": 0.6, "joy": 0.4},
        "grin": {"surprise": 0.6, "joy": 0.4},
        "gape": {"surprise": 0.6, "fear": 0.4},
        "droop": {"confusion": 0.6, "sadness": 0.4},
    },
)
WORLDS = {world.name: world for world in (SKETCHES, TOONS, EMOJI)}

"""The hands of `toons`: Toon Head (CC BY 4.0) and Avataaars (free use), by their named brows, eyes and mouths."""

import random
from typing import Any

from PIL import Image

from emor3_trl.demo.drawings import Drawing, draw_avatar

# Brows, eyes and mouth of each look
FACES = {
    "toon-head": {
        "shout": ("angry", "happy", "angry"),
        "frown": ("angry", "happy", "sad"),
        "wonder": ("raised", "wide", "agape"),
        "laugh": ("happy", "bow", "laugh"),
        "grin": ("raised", "happy", "laugh"),
        "stare": ("neutral", "wide", "sad"),
        "gape": ("sad", "wide", "angry"),
        "droop": ("sad", "humble", "sad"),
        "sick": ("angry", "bow", "angry"),
    },
    "avataaars": {
        "shout": ("angry", "default", "screamOpen"),
        "frown": ("angryNatural", "default", "serious"),
        "wonder": ("raisedExcited", "surprised", "disbelief"),
        "laugh": ("default", "happy", "smile"),
        "grin": ("raisedExcited", "default", "smile"),
        "stare": ("sadConcerned", "surprised", "grimace"),
        "gape": ("sadConcerned", "surprised", "screamOpen"),
        "droop": ("sadConcerned", "cry", "sad"),
        "sick": ("angry", "squint", "vomit"),
    },
}
# Where the face is: size of the whole drawing, and the corner of what is cut out
PLACES = {"toon-head": (160, (36, 36)), "avataaars": (150, (33, 28))}
HAIR = {
    "black hair": "#2c1b18",
    "brown hair": "#a55728",
    "blond hair": "#d6b370",
    "red hair": "#c93305",
    "grey hair": "#b8b5b0",
}
SKIN = ("#ffdbb4", "#f1c3a5", "#edb98a", "#d08b5b", "#ae5d29")
TOPS = ("shortFlat", "shortCurly", "shortRound", "theCaesar", "bob", "straight01", "curvy", "bun", "longButNotTooLong")
GLASSES = ("prescription01", "prescription02", "round")
LICENCES = {
    "toon-head": "Remix of 'ToonHead' (https://www.figma.com/community/file/1589627891082866389) by Johan Melin, "
    "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), drawn by DiceBear; cut to the face.",
    "avataaars": "Remix of 'Avataaars' (https://avataaars.com/) by Pablo Stanley, free for personal and commercial use "
    "(https://avataaars.com/), drawn by DiceBear; cut to the face.",
}


def choose_toon(emotion: str, look: str, rng: random.Random) -> Drawing:
    """Return a face with a look, by one of the two hands; the rest comes from `rng`."""
    hand = rng.choice(list(FACES))
    brows, eyes, mouth = FACES[hand][look]
    hair = rng.choice(list(HAIR))
    beard = rng.random() < 0.2
    glasses = hand == "avataaars" and rng.random() < 0.25
    details = {"hair": hair}
    details |= {"glasses": "glasses"} if glasses else {}
    details |= {"beard": "a beard"} if beard else {}
    options: dict[str, Any] = {
        "eyebrowsVariant": [brows],
        "eyesVariant": [eyes],
        "mouthVariant": [mouth],
        "hairColor": [HAIR[hair]],
        "skinColor": [rng.choice(SKIN)],
        "seed": f"{rng.random():.12f}",
    }
    if hand == "avataaars":
        options |= {
            "topVariant": [rng.choice(TOPS)],
            "facialHairProbability": 100 if beard else 0,
            "facialHairVariant": ["beardLight"],
            "facialHairColor": [HAIR[hair]],
            "accessoriesProbability": 100 if glasses else 0,
            "accessoriesVariant": [rng.choice(GLASSES)],
        }
    else:
        options |= {"beardProbability": 100 if beard else 0, "beardVariant": ["chin"]}
    return Drawing("toons", emotion, look, details, hand, options)


def draw_toon(drawing: Drawing) -> Image.Image:
    """Draw a face, 84 x 84 pixels, RGB."""
    canvas, corner = PLACES[drawing.hand]
    return draw_avatar(drawing.hand, drawing.options, canvas, corner)

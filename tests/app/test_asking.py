"""What the page asks: completions that stream as they are written, and mistakes that become sentences."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import gold_completion, tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.app.answer import format_answer, split_steps
from emor3_trl.app.asking import AskedModel, Asking, Progress, ask_model, read_picture
from emor3_trl.data.pictures import Budget
from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.streaming import stream_completion
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.photos import read_labels, read_photos
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions, read_completion
from emor3_trl.prompts import prompt_text

SPACE = LabelSpace("named", ("awe", "fear", "joy"))
ASKING = Asking(Budget(784, 12544), max_tokens=10)
HOSTILE = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'> **bold** \\boxed{<b>fear</b>}"


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> AskedModel:
    network = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tiny_model_dir, padding_side="left")
    return AskedModel("tiny", "trained", TransformersEngine(network, processor), 1024)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    tiny_pictures(1)[0].save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def test_the_streamed_completion_is_the_one_that_is_generated(model: AskedModel, picture: str) -> None:
    image, text = Image.open(picture).convert("RGB"), prompt_text("set", SPACE.labels)
    ((expected,),) = model.engine.generate([text], [image], n=1, temperature=0, max_tokens=10, seed=0)
    *beginnings, whole = stream_completion(model.engine, text, image, 10)
    assert whole == expected
    assert all(whole.text.startswith(beginning.text) for beginning in beginnings)
    assert [row.tokens for row in beginnings] == sorted(row.tokens for row in beginnings)


def test_a_reader_that_goes_stops_the_writing(model: AskedModel, picture: str) -> None:
    forwards = []
    hook = model.engine.model.register_forward_hook(lambda *_: forwards.append(1))
    try:
        question, image = prompt_text("set", SPACE.labels), Image.open(picture)
        stream = stream_completion(model.engine, question, image, 400)
        next(stream)
        stream.close()  # returns once the writing thread has ended
        stopped = len(forwards)
        assert stopped < 400
        for _ in stream_completion(model.engine, question, image, 100):
            pass
    finally:
        hook.remove()
    assert len(forwards) - stopped == 100  # it would not have ended by itself


def test_the_last_progress_is_what_predict_says(model: AskedModel, picture: str) -> None:
    photos = read_picture(picture, "picture.png", SPACE, ASKING)
    steps = list(ask_model(model, photos, ASKING))
    options = PredictionOptions("set", max_tokens=10, score_labels=True)
    (expected,) = predict_emotions(model.engine, photos, "picture", options, progress=False)
    assert steps[-1].prediction == expected
    assert [step.state for step in steps[-2:]] == ["reflecting", "done"]


def save_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turn_by_exif(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return save_bytes(image, "JPEG", exif=exif)


WIDE = Image.fromarray(np.zeros((56, 112, 3), np.uint8))
UNUSUAL = [
    pytest.param(b"", "it is empty", id="no byte"),
    pytest.param(b"<html>", "it is a page of HTML", id="no image"),
    pytest.param(b"%PDF-1.7 " * 9, "is no picture that can be read", id="a document"),
    pytest.param(save_bytes(WIDE, "PNG")[:60], "cannot be decoded", id="half a file"),
    pytest.param(save_bytes(Image.new("L", (8000, 8000)), "PNG"), "more than 60 million", id="64 megapixels"),
    pytest.param(save_bytes(Image.new("RGB", (8000, 5000)), "JPEG"), (140, 84), id="40 megapixels"),
    pytest.param(turn_by_exif(WIDE), (56, 112), id="turned by EXIF"),
    pytest.param(save_bytes(WIDE.convert("CMYK"), "JPEG"), (112, 56), id="CMYK"),
    pytest.param(
        save_bytes(WIDE, "GIF", save_all=True, append_images=[WIDE.transpose(0)]), (112, 56), id="an animation"
    ),
]


@pytest.mark.parametrize(("content", "expected"), UNUSUAL)
def test_an_unusual_picture_is_shown_as_in_training_or_refused_in_a_sentence(
    tmp_path: Path, content: bytes, expected: str | tuple[int, int]
) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=rf"'photo\.jpg' cannot be used: it .*{expected}"):
            read_picture(str(tmp_path / "photo.jpg"), "photo.jpg", SPACE, ASKING)
        return
    assert read_picture(str(tmp_path / "photo.jpg"), "photo.jpg", SPACE, ASKING)[0]["image"].size == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("joy, great awe;fear\n", ("joy", "great awe", "fear"), id="three"),
        pytest.param("joie, tristesse, émerveillement", ("joie", "tristesse", "émerveillement"), id="other letters"),
        pytest.param("joy", "two or more labels", id="one"),
        pytest.param("joy, Joy", "two or more labels", id="twice"),
        pytest.param("", "two or more labels", id="none"),
        pytest.param("आनंद, ความสุข", ("आनंद", "ความสุข"), id="scripts with marks"),
        pytest.param("joy, a" + "\u0301" * 50, "is not a word", id="a heap of marks"),
        pytest.param("joy, yoj\u202e", "is not a word", id="a turned direction"),
        pytest.param("joy, <|im_end|>", r"The label '<\|im_end\|>' is not a word", id="a control token"),
        pytest.param(f"joy, {'a' * 50}", "at most 40 letters", id="long"),
        pytest.param(",".join(f"label{n}" for n in range(200)), "Expected 128 at most", id="many"),
    ],
)
def test_labels_are_read_or_refused(text: str, expected: str | tuple[str, ...]) -> None:
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected) as refusal:
            read_labels(text)
        assert "\n" not in str(refusal.value)
    else:
        assert read_labels(text).labels == expected


def test_a_picture_that_leaves_no_room_is_refused(model: AskedModel, picture: str) -> None:
    photos = read_picture(picture, "picture.png", SPACE, ASKING)
    with pytest.raises(ValueError, match="The model sees 1024 tokens"):
        list(ask_model(model, photos, Asking(ASKING.budget, max_tokens=1000)))


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param("<step1>A t", ["A t"], id="the first"),
        pytest.param("<step1>A t</ste", ["A t"], id="a tag that is being written"),
        pytest.param("<step1>A</step1><step2>B", ["A", "B"], id="the second"),
        pytest.param("Well, <step1>A</step1>", [], id="text before"),
        pytest.param("<step2>B</step2><step1>A</step1>", [], id="out of order"),
        pytest.param("<step1>1 < 2 and more", ["1 < 2 and more"], id="no tag"),
    ],
)
def test_steps_are_split_while_they_are_written(completion: str, expected: list[str]) -> None:
    assert split_steps(completion) == expected


def test_what_a_model_writes_is_text_on_the_page(model: AskedModel) -> None:
    row = {"id": "x", "emotion": "", "label_space": list(SPACE.labels)}
    for state in ("writing", "done"):
        for completion in (HOSTILE, f"<step1>{HOSTILE}", gold_completion("awe").replace("tent", HOSTILE)):
            shown = format_answer(model, Progress(read_completion(row, "d", completion), state, 3, 0.1))
            assert "<script" not in shown
            assert "<img" not in shown
            assert "<b>" not in shown
            assert "&lt;script&gt;" in shown


def test_a_picture_is_read_as_predict_reads_it(picture: str) -> None:
    photos = read_picture(picture, "picture.png", SPACE, ASKING)
    expected, faults = read_photos([picture], SPACE, ASKING.budget, "set")
    assert not faults
    assert photos[0]["image"].tobytes() == expected[0]["image"].tobytes()

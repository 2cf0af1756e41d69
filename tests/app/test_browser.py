"""The page of recipes/app.py in a real browser, with two tiny models: one writes the steps, the other is hostile."""

import signal
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image
from served_app import DONE, drop, find_violations, open_app, serve
from taught_model import teach_tiny_model
from tiny_model import gold_completion, tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.data.pictures import Budget
from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.photos import read_photos
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions

pytestmark = pytest.mark.slow
LABELS = ["awe", "fear", "joy"]
HOSTILE = '<img src=x onerror="window.pwned=1"> **b** \\boxed{fear}'
SIZES = ["--min_pixels", "784", "--max_pixels", "12544", "--max_tokens", "60"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both models and two pictures."""
    folder = tmp_path_factory.mktemp("app")
    teach_tiny_model(folder / "good", gold_completion("awe"), LABELS)
    teach_tiny_model(folder / "bad", HOSTILE, LABELS)
    first, *_, last = tiny_pictures(3)
    first.save(folder / "first.png")
    last.save(folder / "second.png")
    return folder


@pytest.fixture(scope="module")
def address(place: Path, browser):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -e .[app]")
    models = ["--model", "good", "--base", "bad", "--label_space", ",".join(LABELS)]
    with serve(place, *models, *SIZES) as address:
        yield address


@pytest.fixture
def view(browser, address: str):
    """Open the page, at a width and in a colour scheme; afterwards nothing may have gone wrong on it."""
    opened = []

    def open_at(width: int = 1280, scheme: str = "light"):
        opened.append(open_app(browser, address, width, scheme))
        return opened[-1][0]

    yield open_at
    for page, faults in opened:
        page.context.close()
        assert faults == []


def test_a_dropped_picture_is_answered_step_by_step_by_both_models(view, place: Path) -> None:
    page = view()
    page.evaluate("""() => { window.seen = []; new MutationObserver(() => {
        const answer = document.querySelector('.answer');
        if (answer) window.seen.push([answer.dataset.state, answer.querySelectorAll('.steps li').length]);
    }).observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true }) }""")
    drop(page, place / "first.png")
    page.wait_for_function(f"document.querySelectorAll('{DONE}').length === 2", timeout=120_000)
    seen = [tuple(state) for state in page.evaluate("window.seen")]
    assert {("writing", steps) for steps in (1, 2, 3)} <= set(seen)  # the steps appear one after the other
    good, bad = page.locator(DONE).all()
    network = AutoModelForImageTextToText.from_pretrained(place / "good", dtype=torch.float32)
    engine = TransformersEngine(network, AutoProcessor.from_pretrained(place / "good", padding_side="left"))
    photos, _ = read_photos([str(place / "first.png")], LabelSpace("named", tuple(LABELS)), Budget(784, 12544), "set")
    (expected,) = predict_emotions(engine, photos, "x", PredictionOptions(max_tokens=60, score_labels=True))
    assert expected.well_formed
    assert good.locator(".emotion").inner_text() == expected.answer == "awe"
    steps = good.locator(".steps li").all_inner_texts()
    for text, step in zip(steps, (expected.trigger, expected.feeling, expected.conclusion), strict=True):
        assert text.endswith(step)
    assert expected.label_probabilities is not None
    numbers = good.locator("dd:nth-of-type(even)").all_inner_texts()
    shown = dict(zip(good.locator("dt").all_inner_texts(), numbers, strict=True))
    assert shown == {label: f"{share:.2f}" for label, share in zip(LABELS, expected.label_probabilities, strict=True)}
    assert f"Does step 1 describe the image? {expected.consistency_answer}." in good.inner_text()
    assert "transformers (float32, cpu)" in page.inner_text("#head")
    # What the other model writes is text
    assert '<img src=x onerror="window.pwned=1"> **b**' in bad.locator(".completion").inner_text()
    assert page.evaluate("window.pwned") is None
    assert bad.locator("img, b, em, strong, script").count() == 0


def test_own_labels_are_asked_and_a_mistake_is_a_sentence(view, place: Path) -> None:
    page = view()
    page.fill("#labels textarea, #labels input", "calm, <script>")
    page.click("#ask")
    page.wait_for_selector("#status [role=alert]")
    assert "no picture yet" in page.inner_text("#status")
    drop(page, place / "first.png")
    page.wait_for_function("document.querySelector('#status').innerText.includes('The label')")
    assert "The label '<script>' is not a word" in page.inner_text("#status [role=alert]")
    page.fill("#labels textarea, #labels input", "calm, awe")
    page.click("#ask")
    page.wait_for_function(f"document.querySelectorAll('{DONE}').length === 2", timeout=120_000)
    bars = page.locator(f"{DONE} dt").all_inner_texts()
    assert not bars or set(bars) == {"calm", "awe"}


def test_bad_pictures_become_sentences_and_the_page_lives_on(view, place: Path, tmp_path: Path) -> None:
    page = view()
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "cut.png").write_bytes((place / "first.png").read_bytes()[:200])
    Image.new("L", (8000, 8000)).save(tmp_path / "huge.png")
    for name, expected in (("page.jpg", "it is a page of HTML"), ("cut.png", "cannot be"), ("huge.png", "8000 x 8000")):
        drop(page, tmp_path / name)
        page.wait_for_function(f"document.querySelector('#status').innerText.includes({name!r})", timeout=60_000)
        assert expected in page.inner_text("#status [role=alert]")
        assert page.locator(".answer").count() == 0
    Image.new("CMYK", (5000, 8000)).save(tmp_path / "cmyk.jpg")  # 40 megapixels
    drop(page, tmp_path / "cmyk.jpg")
    page.wait_for_function(f"document.querySelectorAll('{DONE}').length === 2", timeout=120_000)
    assert "84 × 140 pixels" in page.inner_text("figcaption")


@pytest.mark.parametrize(("host", "status"), [("evil.example", 400), ("", 400), ("localhost", 200)])
def test_another_name_for_this_machine_is_refused(address: str, host: str, status: int) -> None:
    port = urlsplit(address).port
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", "/config", headers={"Host": f"{host}:{port}"})
        assert connection.getresponse().status == status


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/passwd", "/gradio_api/file=../../etc/passwd", "/gradio_api/file=..%2f..%2fetc%2fpasswd",
     "/gradio_api/file={place}/first.png", "/gradio_api/file={place}/link.png", "/static/../../../etc/passwd",
     "/assets/..%2f..%2f..%2fetc%2fpasswd", "/gradio_api/file=good/config.json", "/gradio_api/proxy=http://evil.example/",
     "/theme.css/..%2f..%2fetc/passwd"],
)  # fmt: skip
def test_no_file_of_the_machine_is_served_and_each_answer_keeps_to_itself(address: str, place: Path, path: str) -> None:
    link = place / "link.png"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    with closing(HTTPConnection("127.0.0.1", urlsplit(address).port, timeout=30)) as connection:
        connection.request("GET", path.format(place=place), headers={"Host": "127.0.0.1"})
        answer = connection.getresponse()
        content = answer.read()
    assert answer.status >= 400
    assert b"root:" not in content
    assert b"PNG" not in content
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "connect-src 'self' data: blob:" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_history_of_pictures_is_kept(view, address: str, place: Path) -> None:
    page = view()
    drop(page, place / "first.png")
    page.wait_for_function(f"document.querySelectorAll('{DONE}').length === 2", timeout=120_000)
    kept = page.evaluate("Object.entries(localStorage).filter(([key]) => key.includes('run-history'))")
    assert kept == []
    assert page.request.get(f"{address}/gradio_api/runs").status == 404


def test_a_closed_terminal_leaves_no_picture(place: Path, tmp_path: Path) -> None:
    with serve(tmp_path, "--model", str(place / "good"), "--label_space", "awe,fear", end=signal.SIGHUP):
        assert list(tmp_path.glob("emor3-app-*"))
    assert not list(tmp_path.glob("emor3-app-*"))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(view, place: Path, width: int, scheme: str) -> None:
    page = view(width, scheme)
    assert find_violations(page) == []
    drop(page, place / "first.png")
    page.wait_for_function(f"document.querySelectorAll('{DONE}').length === 2", timeout=120_000)
    assert find_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    first, second = (answer.bounding_box() for answer in page.locator(DONE).all())
    assert (first["y"] == second["y"]) is (width > 1000)  # side by side where there is room


def name_focused(page) -> str:
    """Return what a screen reader calls the control that has the focus."""
    return page.evaluate(
        "(e => e.getAttribute('aria-label') || (e.labels && e.labels[0] && e.labels[0].innerText) || e.innerText)"
        "(document.activeElement)"
    )


def open_file_chooser(page):
    """Press Enter until a dialog opens: five seconds after a key a browser opens none, and a page may be that late."""
    choosers: list = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    for waited in range(400):
        if choosers:
            return choosers[0]
        if waited % 100 == 0:
            page.keyboard.press("Enter")
        page.wait_for_timeout(100)
    raise AssertionError("Enter opens no dialog")


def test_the_keyboard_reaches_everything_and_each_control_has_a_name(view, place: Path) -> None:
    page = view()
    names = []
    for _ in range(8):
        page.keyboard.press("Tab")
        names.append(name_focused(page))
        if names[-1].strip() == "Ask":
            break
    said = " ".join(names)
    assert "Labels, with commas between" in said
    assert names[-1].strip() == "Ask"
    assert "upload" in said.lower()
    assert all(name.strip() for name in names)
    for _ in names[1:]:
        page.keyboard.press("Shift+Tab")
    assert "upload" in name_focused(page).lower()
    open_file_chooser(page).set_files(str(place / "first.png"))
    page.wait_for_function(f"document.querySelectorAll('{DONE}').length === 2", timeout=120_000)


def test_two_at_once_do_not_mix(view, place: Path) -> None:
    pages = {"first.png": view(), "second.png": view()}
    for name, page in pages.items():
        drop(page, place / name)
    sizes = {"first.png": "56 × 56", "second.png": "56 × 112"}
    for name, page in pages.items():
        page.wait_for_function(f"document.querySelectorAll('{DONE}').length === 2", timeout=120_000)
        assert sizes[name] in page.inner_text("figcaption")
        assert page.get_attribute("figure img", "alt") == name

"""What a page shows is text: hostile labels, names, metrics and completions run nothing in a real browser."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import open_page, watch_pages
from fabricated_run import fabricate
from PIL import Image
from written_rollouts import make_rows, write_rollouts, write_step

from emor3_trl.evaluation.prediction import Prediction, load_predictions, read_completion, save_predictions
from emor3_trl.files import read_mapping, write_json
from emor3_trl.report.evaluated import load_evaluations
from emor3_trl.report.page import find_policy, gather_content, inert_json, render_page, write_page
from emor3_trl.report.photo_page import write_photo_page
from emor3_trl.report.rollouts import load_training_runs
from emor3_trl.report.serving import LivePage, make_handler

MARK = "window.pwned=1"
HOSTILE = [
    f"</script><script>{MARK}</script>",
    f"<img src=x onerror='{MARK}'>",
    f"\"'><svg onload={MARK}>",
    f"javascript:{MARK}",
    "x;background:url(http://127.0.0.1:9/css);}*{color:red}",
    "</style><style>body{display:none}</style>",
    f"<a href='javascript:{MARK}' autofocus onfocus='{MARK}'>click</a>",
    f"<iframe srcdoc='<script>parent.{MARK}</script>'></iframe><base href='http://127.0.0.1:9/'>",
    f"<form action='http://127.0.0.1:9/'><button formaction='javascript:{MARK}' autofocus>go</button></form>",
    f"<!--<script>{MARK}\u2028\u2029\u202e\x07\x00 ]]>$title ${{script}} {{{{ {MARK} }}}} `${{{MARK}}}`",
    "__proto__",
    "constructor",
    "\U0001f600\u0301" * 50 + "unbroken" * 2_000,
]


@pytest.fixture(scope="module")
def hostile_values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the report shows about models, data sets, labels, images, rewards, metrics and runs with hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    run = fabricate(folder, {"test": 26})
    labels = HOSTILE[:12]
    for file in (run / "evaluation").glob("*/predictions.parquet"):
        rows = [spoil(row, index, labels) for index, row in enumerate(load_predictions(file))]
        save_predictions(rows, file)
        config = {"model": HOSTILE[0], "prompt_style": HOSTILE[1], "engine": HOSTILE[2], "title": HOSTILE[3]}
        write_json(file.parent / "environment.json", {"started": HOSTILE[4], "commit": HOSTILE[5], **config})
    for state in run.glob("*/trainer_state.json"):
        log = read_mapping(state, "")["log_history"]
        write_json(
            state, {"log_history": [{**entry, **{f"rewards/{text}/mean": 0.5 for text in HOSTILE}} for entry in log]}
        )
    trained = write_rollouts(folder / "trained" / "<b onclick=x>run", texts=HOSTILE)
    steps = make_rows(4, ["train-1"], texts=HOSTILE[:4])
    for row, text in zip(steps, HOSTILE, strict=False):
        row |= {
            "trigger": text,
            "feeling": text,
            "conclusion": text,
            "id": f"{text[:200]}1",
            "emotion": text,
            text: 1.0,
        }
    write_step(trained, 4, steps)
    page = gather_content(
        load_evaluations([run]), title=HOSTILE[0], training=load_training_runs([trained]), max_cases=100
    )
    rename(page)
    return page


def spoil(row: Prediction, index: int, labels: list[str]) -> Prediction:
    text = HOSTILE[index % len(HOSTILE)]
    completion = f"<step1>{text}</step1><step2>{text}</step2><step3>{text}</step3>\\boxed{{{labels[index % 12]}}}"
    fields = {"id": f"{text[:300]}/../../{row.id}", "emotion": labels[index % 12], "label_space": labels}
    spoilt = read_completion(fields, row.dataset, completion if index % 2 else text)
    shown = {"answer": labels[index * 7 % 12], "trigger": text, "feeling": text, "conclusion": text}
    shares = [1 / 12] * 12
    return replace(spoilt, **shown, coherence_answer=text, consistency_answer=text, label_probabilities=shares)


def rename(page: dict[str, Any]) -> None:
    """Give models, data sets and runs the names that a folder cannot have."""
    for model, text in zip(page["models"], HOSTILE[3:], strict=False):
        model |= {"name": text, "title": text, "run": text, "about": {text[:40]: text}}
    for dataset, text in zip(page["datasets"], HOSTILE[6:], strict=False):
        dataset["name"] = text
    page["titles"] = [HOSTILE[index % len(HOSTILE)] for index in range(len(page["titles"]))]


def use_everything(page: Any) -> None:
    """Open what can be opened, touch what can be touched, and look for what ran."""
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    for control in page.locator("select:visible").all()[:8]:
        values = control.evaluate("each => [...each.options].map(option => option.value)")
        control.select_option(values[-1])
    for element in page.locator("[data-tip]:visible, button:visible, .emotion:visible").all()[:12]:
        element.hover(force=True)
    page.keyboard.press("Tab")
    assert page.evaluate("window.pwned") is None
    assert (
        page.evaluate("document.querySelectorAll('script, iframe, base, form[action], a[href^=javascript]').length")
        <= 3
    )
    inside = "main script:not([type]), main iframe, main base, [onerror], [onload], [onclick], [onfocus], [srcdoc]"
    assert page.locator(inside).count() == 0
    assert page.evaluate("getComputedStyle(document.body).display") != "none"


@pytest.mark.slow
def test_the_report_runs_nothing_of_its_data(browser: Any, hostile_values: dict[str, Any], tmp_path: Path) -> None:
    path = write_page(hostile_values, tmp_path / "report.html")
    with watch_pages(browser) as open_at:  # no request, no console message (a blocked script is one), no error
        page = open_at(path)
        page.on("dialog", lambda dialog: pytest.fail(f"a dialog says {dialog.message}"))
        for text in HOSTILE[:3]:
            assert text in page.inner_text("body")  # it is there, as text
        use_everything(page)


@pytest.mark.slow
def test_a_script_in_the_page_would_be_blocked_and_seen(
    browser: Any, hostile_values: dict[str, Any], tmp_path: Path
) -> None:
    """If escaping failed, the policy would still hold; and the watch of these tests would tell."""
    path = tmp_path / "report.html"
    text = render_page(hostile_values).replace("<main", f"<img src=x onerror={MARK}><script>{MARK}</script><main", 1)
    path.write_text(text, encoding="utf-8")
    with closing(browser.new_context()) as context:
        page, faults = open_page(context, path)
        assert page.evaluate("window.pwned") is None
        assert any("Content Security Policy" in fault for fault in faults)
        with pytest.raises(Exception, match="TrustedHTML"):
            page.evaluate("document.body.innerHTML = '<b>x</b>'")


@pytest.mark.slow
def test_the_photo_page_runs_nothing_of_its_data(browser: Any, tmp_path: Path) -> None:
    labels = {"label_space": ["a", "b"]}
    rows = [
        spoil(read_completion({"id": "x", "emotion": "a", **labels}, "d", text), index, HOSTILE[:12])
        for index, text in enumerate(HOSTILE)
    ]
    path = tmp_path / "photos.html"
    write_photo_page(HOSTILE[0], rows, [Image.new("RGB", (8, 8))] * len(rows), dict.fromkeys(HOSTILE, HOSTILE[1]), path)
    with closing(browser.new_context()) as context:
        page = context.new_page()
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda asked: asked.url.startswith(("data:", "file:")) or faults.append(asked.url))
        page.goto(path.as_uri())
        use_everything(page)
        assert page.locator("article").count() == len(rows)
        assert faults == []


def test_no_markup_of_the_data_is_in_the_file(hostile_values: dict[str, Any]) -> None:
    text = render_page(hostile_values)
    assert text.count("<script") == render_page({**hostile_values, "title": "x"}).count("<script") == 2
    assert "onerror" not in text.replace(inert_json(hostile_values), "").replace("&lt;", "")
    policy = find_policy(text)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    assert {"base-uri 'none'", "form-action 'none'", "trusted-types 'none'"} <= set(policy.split("; "))


@pytest.fixture
def port(hostile_values: dict[str, Any]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(LivePage(lambda: hostile_values, list)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_the_server_sends_the_policy_of_the_page_and_more(port: int) -> None:
    for path in ("/", "/data.json"):
        with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            text, headers = answer.read().decode(), answer.headers
        policy = headers["Content-Security-Policy"]
        assert policy.endswith("; frame-ancestors 'none'")
        assert policy.startswith(find_policy(text) if path == "/" else "default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        if path == "/data.json":
            assert json.loads(text)["live"] is True


@pytest.mark.slow
def test_the_watched_page_runs_nothing_of_its_data(browser: Any, port: int) -> None:
    with closing(browser.new_context()) as context:
        page = context.new_page()
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("html[data-ready]")
        use_everything(page)
        assert faults == []

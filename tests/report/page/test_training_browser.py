"""The training half in a real browser: a real run's completions, keyboard and screen reader, and a run that grows."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import watch_pages
from fabricated_run import fabricate
from tiny_model import tiny_pictures
from training import tiny_trainer
from written_rollouts import LABELS, make_rows, write_rollouts, write_step

from emor3_trl.data import write_split
from emor3_trl.report.evaluated import load_evaluations
from emor3_trl.report.page import gather_content, write_page
from emor3_trl.report.rollouts import load_training_runs

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "\x00\x07\x1b[2J \u202eright to left\u2028 ]]>",
    r"<step1><b onclick='window.pwned = 1'>bold</b></step1><step2>x</step2><step3>positive</step3>\boxed{joy}",
]


@pytest.fixture
def view(browser):
    with watch_pages(browser) as open_at:
        yield open_at


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page about evaluated models, and two runs with completions."""
    folder = fabricate(tmp_path_factory.mktemp("runs"), {"test": 12, "emotion6": 6, "webemo": 6})
    for seed, (name, texts) in enumerate({"emo_r3": HOSTILE, "mine": ()}.items()):
        lambdas = {"reward_variant": "paper", "lambda1": 0.1 + 0.3 * seed, "lambda2": 0.1}
        write_rollouts(folder / name, steps=8, seed=seed, texts=texts, **lambdas)
    page = gather_content(load_evaluations([folder]), title="runs", training=load_training_runs([folder]))
    return write_page(page, folder / "report.html")


def test_a_real_run_can_be_followed_picture_by_picture(tiny_model_dir, tmp_path, view):
    folder = tmp_path / "runs" / "tiny"
    options = {"log_completions": True, "num_completions_to_print": 0, "parity_stop": 1e9, "parity_warn": 1e9}
    trainer = tiny_trainer(tiny_model_dir, folder, max_steps=3, use_vllm=False, reward_weights=[0.5], **options)
    trainer.train()
    trainer.save_state()
    (folder / "config.yaml").write_text(
        "num_generations: 4\nrewards: ['mine.py:lengths_differ']\nreward_weights: [0.5]\n"
    )
    (run,) = load_training_runs([folder.parent])
    page = view(write_page(gather_content([], title="tiny", training=[run]), tmp_path / "report.html"))
    assert page.locator("nav a").all_inner_texts() == ["Training", "Completions"]
    assert "0.5 lengths_differ" in page.inner_text(".weighings")
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert page.locator(".curves figure").first.locator(".readout").inner_text().endswith(f"{logged[-1]['reward']:.3f}")
    tables = {step: pd.read_parquet(folder / "completions" / f"completions_{step:05d}.parquet") for step in (1, 2, 3)}
    for image in sorted(set().union(*(table["id"] for table in tables.values())))[:3]:
        option = page.locator("select[name=Picture] option", has_text=f" {image} ").first
        page.select_option("select[name=Picture]", option.get_attribute("value"))
        seen = [step for step, table in tables.items() if image in set(table["id"])]
        assert page.locator(".visit h5").all_inner_texts() == [f"Step {step}" for step in seen]
        rows = tables[seen[0]][lambda table, image=image: table["id"] == image].sort_values(
            "advantage", ascending=False
        )
        members = page.locator(".visit").first.locator(".members > li")
        assert members.count() == len(rows)
        for member, (_, row) in zip(members.all(), rows.iterrows(), strict=True):
            member.locator("summary").click()
            shown = member.locator(".advantage").inner_text().replace("−", "-").split()[-1]
            assert float(shown) == pytest.approx(row["advantage"], abs=0.006)
            assert f"{0.5 * row['lengths_differ']:.2f}" in member.locator(".overall").inner_text()
            if row["trigger"] is None:
                written = member.locator("pre").text_content()
                assert written == row["completion"][0]["content"]


def test_groups_are_sorted_by_disagreement_and_lead_to_the_picture(view, report):
    page = view(report)
    shown = [float(re.search(r"Disagreement ([\d.]+)", text)[1])
             for text in page.locator(".groups .group > .reflection").all_inner_texts() if "–" not in text]  # fmt: skip
    assert shown == sorted(shown, reverse=True)
    assert shown[0] > 0
    page.select_option("#rollouts select[name='Sort by']", "last")
    assert page.locator(".groups .card h3").first.inner_text().startswith("Step 8")
    page.select_option("#rollouts select[name='Emotion']", "joy")
    assert all("joy" in text for text in page.locator(".groups .card h3").all_inner_texts())
    where = page.locator(".groups .card .where").first.inner_text()
    page.locator(".groups .card button").first.click()
    assert page.locator(".story .where").inner_text() == where
    assert page.evaluate("document.activeElement.id") == "story-title"


def test_two_runs_stand_side_by_side_each_with_its_own_weights(view, report):
    page = view(report)
    columns = page.locator(".visits")
    assert [text.split("\n")[0] for text in columns.all_inner_texts()] == ["EMO-R3", "mine"]
    boxes = [column.bounding_box() for column in columns.all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    for column in columns.all():
        column.locator("summary").first.click()
    chips = [column.locator("dl.rewards").first.inner_text() for column in columns.all()]
    assert "0.8 × accuracy" in chips[0]
    assert "0.5 × accuracy" in chips[1]
    page.select_option("select[name=Right]", "")
    assert columns.count() == 1


def test_hostile_completions_of_a_run_stay_text(view, report):
    page = view(report)
    page.select_option("#rollouts select[name='Sort by']", "first")
    page.evaluate("document.querySelectorAll('#rollouts details').forEach((one) => { one.open = true; })")
    shown = page.locator(".groups").text_content()
    for text in (
        "</script><script>window.pwned = 1</script>",
        "<img src=x onerror",
        "\u202eright to left",
        "<b onclick=",
    ):
        assert text in shown
    assert page.evaluate("window.pwned") is None
    assert page.locator("#rollouts b[onclick], #rollouts script").count() == 0
    assert page.evaluate("getComputedStyle(document.querySelector('.members pre')).unicodeBidi") == "isolate"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_serious(view, report, width, scheme):
    pytest.importorskip("axe_core_python", reason="axe-core is not installed: pip install -e .[dev]")
    page = view(report, width, scheme, bypass_csp=True)
    page.evaluate("document.querySelectorAll('details').forEach((one, index) => { one.open = index % 4 === 0; })")
    page.evaluate(files("axe_core_python").joinpath("axe.min.js").read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert len(found["passes"]) > 20
    worst = [f"{fault['id']}: {fault['nodes'][0]['html'][:120]}" for fault in found["violations"]
             if fault["impact"] in ("serious", "critical")]  # fmt: skip
    assert worst == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_reaches_every_control_of_the_training_half(view, report):
    page = view(report)
    wanted = page.evaluate("document.querySelectorAll('#rollouts :is(select, button:not([disabled]), summary)').length")
    page.locator("#rollouts select").first.focus()
    reached = set()
    for _ in range(wanted * 3):
        name = page.evaluate(
            "[...document.querySelectorAll('#rollouts :is(select, button:not([disabled]), summary)')]"
            ".indexOf(document.activeElement)"
        )
        reached |= {name} - {-1}
        page.keyboard.press("Tab")
    assert reached == set(range(wanted))
    summary = page.locator(".members summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator(".members details").first.get_attribute("open") is not None


def start_serving(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    command = [
        sys.executable,
        "-u",
        str(ROOT / "recipes" / "report.py"),
        str(folder),
        "--serve",
        "--port",
        "0",
        *arguments,
    ]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    line = server.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+", line)
    if address is None:
        server.kill()
        raise AssertionError(f"{line}{server.communicate()}")
    return server, address[0]


@pytest.fixture
def serve() -> Iterator[Any]:
    started = []

    def start(folder):
        started.append(start_serving(folder))
        return started[-1]

    yield start
    for server, _ in started:
        server.kill()
        server.communicate()


def test_a_growing_run_shows_its_next_step_by_itself(browser, serve, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    server, address = serve(folder)
    context = browser.new_context()
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    assert "no step yet" in page.inner_text("#live")
    page.evaluate("window.unchanged = true")  # gone, if the page is loaded again
    write_rollouts(folder, steps=2)
    page.wait_for_selector("#live:has-text('mine at step 2')", timeout=20_000)
    page.select_option("#rollouts select[name='Sort by']", "last")
    page.locator(".members summary").first.click()
    page.locator("#rollouts select[name='Sort by']").focus()
    (folder / "completions" / "completions_00003.parquet").write_bytes(b"PAR1 half")
    page.wait_for_selector("text=completions_00003.parquet cannot be read (yet)", timeout=20_000)
    write_step(folder, 3, make_rows(3, ["train-0", "train-1"]))
    page.wait_for_selector(".groups .card h3:has-text('Step 3')", timeout=20_000)
    assert page.locator(".note", has_text="cannot be read").count() == 0
    assert page.input_value("#rollouts select[name='Sort by']") == "last"
    assert page.evaluate("document.activeElement.name") == "Sort by"
    assert "step 3" in page.inner_text("#live")
    assert page.evaluate("window.unchanged") is True
    assert errors == []
    server.send_signal(signal.SIGINT)
    output, fault = server.communicate(timeout=20)
    assert (server.returncode, fault) == (0, "")
    assert "No longer watching" in output
    page.wait_for_selector("#live:has-text('does not answer')", timeout=20_000)
    context.close()
    assert [path.name for path in folder.iterdir()] == ["completions", "config.yaml"]  # it wrote nothing


def test_pictures_of_training_are_shown_with_a_name(view, tmp_path):
    write_rollouts(tmp_path / "mine")
    rows = [
        {"id": "train-0", "image": tiny_pictures(1)[0], "emotion": LABELS[0], "label_space": LABELS, "source": "made"}
    ]
    write_split(tmp_path / "fewer", "train", rows)
    runs = load_training_runs([tmp_path / "mine"])
    page = view(write_page(gather_content([], title="x", training=runs), tmp_path / "report.html"))
    alternatives = page.locator("#rollouts img").evaluate_all("images => images.map((image) => image.alt)")
    assert all(re.fullmatch(r"Picture train-\d, (awe|fear|joy)", text) for text in alternatives)
    assert alternatives

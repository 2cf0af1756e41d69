"""The report's page in a real browser: it draws, filters, stays silent, and shows hostile completions as text."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from browser import SET_FILTER, watch_pages
from fabricated_run import fabricate

from emor3_trl.evaluation.prediction import load_predictions, read_completion, save_predictions
from emor3_trl.files import write_json, write_text
from emor3_trl.report.evaluated import load_evaluations
from emor3_trl.report.page import gather_content, write_page

pytestmark = pytest.mark.slow
SIZES = {"test": 60, "emotion6": 30, "webemo": 20}
SECTIONS = ("results", "calibration", "training", "rollouts", "confusion", "emotions", "cases", "about")
HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'><svg onload='window.pwned = 1'>",
    "<!--<script> \u2028\u2029 \u202eright to left \x07 ]]>",
    r"<step1><b onclick='window.pwned = 1'>bold</b></step1><step2>x</step2><step3>positive</step3>\boxed{awe}",
    "unbroken" * 200,
]


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    return gather_content(load_evaluations([fabricate(tmp_path_factory.mktemp("runs"), SIZES)]), title="runs/demo")


@pytest.fixture(scope="module")
def report(values, tmp_path_factory):
    return write_page(values, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def view(browser, report):
    """Open the report, or another one; afterwards nothing may have gone wrong."""
    with watch_pages(browser) as open_at:
        yield lambda width=1440, scheme="light", path=report: open_at(path, width, scheme)


def found(page):
    """Return how many cases the page says that it shows."""
    text = page.inner_text(".status")
    match = re.search(r"of ([\d,]+) cases", text)
    return int(match[1].replace(",", "")) if match else 0


def choose(page, **filters):
    for name, value in filters.items():
        page.evaluate(SET_FILTER, [name.replace("_", " "), value])


def test_a_data_set_without_probabilities_beside_one_with_them_is_drawn(view, tmp_path):
    run = fabricate(tmp_path, {"test": 6, "emotion6": 6})
    for path in (run / "evaluation").glob("*/predictions.parquet"):
        rows = load_predictions(path)
        for index, row in enumerate(rows):
            if row.dataset == "emotion6" and row.answer:
                shares = [1.0 if label == row.answer else 0.0 for label in row.label_space]
                rows[index] = replace(row, label_probabilities=shares)
        save_predictions(rows, path)
    content = gather_content(load_evaluations([run]), title="runs")
    assert [dataset["name"] for dataset in content["datasets"]] == ["test", "emotion6"]
    assert [any(models) for models in content["calibration"]] == [False, True]
    page = view(path=write_page(content, tmp_path / "report.html"))
    assert "No completion about this data set has label probabilities" in page.inner_text("#calibration")
    assert page.locator("#cases .card").count() > 0  # what comes after it is drawn as well
    page.locator("#calibration select").select_option("1")
    assert page.locator("#calibration figure").count() == 2


def test_every_section_is_drawn(view, values):
    page = view()
    assert page.title() == "runs/demo"
    for section in SECTIONS:
        assert page.locator(f"#{section}").bounding_box()["height"] > 100
    assert page.locator("#results .results").first.locator("tbody tr").count() == 4
    assert page.locator(".curves figure").count() == 7
    assert page.locator(".matrix").count() == 4
    assert page.locator(".emotion").count() == 2 * 8
    assert page.locator(".card").count() == 12
    accuracy = values["metrics"][0][2]["accuracy"]
    assert f"EMO-R3 answers {100 * accuracy:.1f}%" in page.inner_text("#headline")


def test_another_baseline_turns_the_differences_round(view):
    page = view()
    cell = page.locator(".results").first.locator("tbody tr").nth(2).locator("td").first
    first = re.search(r"([+−][\d.]+) \[", cell.inner_text())[1]
    page.get_by_label("Compare with").select_option("2")
    turned = page.locator(".results").first.locator("tbody tr").nth(0).locator("td").first
    assert re.search(r"([+−][\d.]+) \[", turned.inner_text())[1] == first.replace("+", "−")
    assert "baseline" in page.locator(".results").first.locator("tbody tr").nth(2).inner_text()


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        pytest.param({"Data_set": "1"}, lambda case, a, b: case["dataset"] == 1, id="data set"),
        pytest.param({"Emotion": "fear"}, lambda case, a, b: case["emotion"] == "fear", id="emotion"),
        pytest.param({"Outcome": "right"}, lambda case, a, b: b["correct"], id="right"),
        pytest.param({"Outcome": "wrong"}, lambda case, a, b: not b["correct"], id="wrong"),
        pytest.param({"Outcome": "changed"}, lambda case, a, b: a["correct"] != b["correct"], id="changed"),
        pytest.param({"Outcome": "fixed"}, lambda case, a, b: b["correct"] > a["correct"], id="fixed"),
        pytest.param({"Outcome": "broken"}, lambda case, a, b: b["correct"] < a["correct"], id="broken"),
        pytest.param({"Outcome": "both"}, lambda case, a, b: b["correct"] and a["correct"], id="both right"),
        pytest.param({"Outcome": "neither"}, lambda case, a, b: not b["correct"] and not a["correct"], id="both wrong"),
        pytest.param({"malformed": True}, lambda case, a, b: not (a["wellFormed"] and b["wellFormed"]), id="malformed"),
        pytest.param({"text": "BALLOONS"}, lambda case, a, b: "balloons" in words(case), id="text"),
        pytest.param({"text": "webemo-0007"}, lambda case, a, b: case["id"] == "webemo-0007", id="text: an id"),
        pytest.param({"text": "no such words"}, lambda case, a, b: False, id="nothing is found"),
        pytest.param(
            {"Data_set": "0", "Outcome": "changed", "text": "tree"},
            lambda case, a, b: case["dataset"] == 0 and a["correct"] != b["correct"] and "tree" in words(case),
            id="together",
        ),
    ],
)
@pytest.mark.parametrize("pair", [("0", "2"), ("1", "3")], ids=["base to EMO-R3", "cold start to EMO-R3#"])
def test_filters_find_what_they_say(view, values, pair, filters, passes):
    page = view()
    a, b = map(int, pair)
    choose(page, From=pair[0], To=pair[1], **filters)
    expected = [case for case in values["cases"] if passes(case, case["models"][a], case["models"][b])]
    assert found(page) == len(expected)
    shown = page.locator(".card .where").all_inner_texts()
    assert [text.split(" · ")[1] for text in shown] == [case["id"] for case in expected[:12]]
    page.get_by_role("button", name="Reset").click()
    assert found(page) == sum(SIZES.values())


def words(case):
    parts = [case["id"], case["emotion"]]
    for own in case["models"]:
        parts += [own["answer"] or "", *own.get("steps", [own.get("text", "")])]
    return " ".join(parts).lower()


@pytest.mark.parametrize(
    ("first", "then", "control"),
    [
        pytest.param({"Emotion": "amusement"}, {"Data_set": "1"}, "Emotion", id="emotion of another data set"),
        pytest.param({"Answer_of_EMO-R3": "awe"}, {"Data_set": "1"}, "Answer of EMO-R3", id="answer of another"),
        pytest.param({"Outcome": "fixed"}, {"From": "2", "To": "2"}, "Outcome", id="change of one model alone"),
    ],
)
def test_a_choice_that_is_gone_no_longer_filters(view, first, then, control):
    page = view()
    choose(page, **first)
    assert 0 < found(page) < sum(SIZES.values())
    choose(page, **then)
    assert page.locator(f"select[name='{control}']").input_value() == ""
    assert found(page) == (SIZES["emotion6"] if "Data_set" in then else sum(SIZES.values()))


def test_the_keyboard_stays_where_it_pressed(view):
    page = view()
    focused = "document.activeElement.textContent"
    for name, end in (("Next →", "← Previous"), ("← Previous", "Next →")):
        page.get_by_role("button", name=name).focus()
        for _ in range(-(-sum(SIZES.values()) // 12) - 1):  # to the last page, where the button is no longer to press
            assert page.evaluate(focused) == name
            page.keyboard.press("Enter")
        assert page.evaluate(focused) == end
    page.locator(".segment.fixed").focus()
    page.keyboard.press("Enter")
    assert "fixed" in page.evaluate("document.activeElement.className")
    page.get_by_role("button", name="Reset").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "Reset"
    page.locator(".matrix button").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.className") == "status"


def test_sets_that_were_trained_on_by_some_models_only_are_not_called_in_domain_for_all(view, values, tmp_path):
    datasets = [dict(own) for own in values["datasets"]]
    datasets[0] |= {"inDomain": False, "inDomainOf": [2]}
    page = view(path=write_page({**values, "datasets": datasets}, tmp_path / "report.html"))
    assert "of the pictures of test right" in page.inner_text("#headline")
    table = page.locator(".results").first
    assert table.locator(".group").all_inner_texts() == ["In-domain of some models", "Out of domain", "Means"]
    cells = [row.locator("td").first.inner_text() for row in table.locator("tbody tr").all()]
    assert ["in-domain" in cell for cell in cells] == [False, False, True, False]
    trained = table.locator("tbody tr").nth(2).locator(".mean").all_inner_texts()
    assert ["+" in mean for mean in trained] == [False, False, True]  # of other sets than the baseline's


def test_models_that_are_right_on_the_same_pictures_have_no_interval(view, values, tmp_path):
    comparisons = [[[dict(pair) if pair else None for pair in row] for row in own] for own in values["comparisons"]]
    comparisons[0][0][2] = {"n": 60, "difference": 0, "low": 0, "high": 0, "fixed": 0, "broken": 0, "p": 1}
    page = view(path=write_page({**values, "comparisons": comparisons}, tmp_path / "report.html"))
    cell = page.locator(".results").first.locator("tbody tr").nth(2).locator("td").first.locator(".change")
    assert cell.inner_text().replace("\xa0", " ") == "0.0 same pictures p = 1.00"


def test_a_bar_shows_its_interval_and_its_pictures(view, values):
    page = view()
    emotion = page.locator("#emotions .emotion").first
    counts, recall = (values["confusion"][0][0][name][0] for name in ("counts", "recall"))
    assert emotion.locator(".name small").inner_text() == f"n = {sum(counts)}"
    value, low, high = (f"{100 * share:.1f}" for share in recall)
    assert f"base {value}% [{low}, {high}]" in emotion.get_attribute("data-tip")
    bar, interval, track = (emotion.locator(name).first.bounding_box() for name in (".bar", ".range", ".track"))
    ends = (interval["x"], bar["x"] + bar["width"], interval["x"] + interval["width"])
    shown = [(end - track["x"]) / track["width"] for end in ends]
    assert shown == pytest.approx([recall[1], recall[0], recall[2]], abs=0.01)


def test_a_narrow_screen_shows_the_first_column_whole(view):
    page = view(390)
    for table in page.locator(".results").all():
        box = table.locator("tbody tr").last.locator("td").first.bounding_box()
        assert box["x"] + box["width"] <= 390
    lines = page.locator(".measures .interval").evaluate_all("(all) => all.map((one) => one.getClientRects().length)")
    assert set(lines) == {1}


def test_parts_of_the_bar_are_as_wide_as_their_numbers(view):
    parts = view().locator(".segment").all()
    per_case = [part.bounding_box()["width"] / int(part.locator("b").inner_text()) for part in parts]
    assert max(per_case) < 1.2 * min(per_case)


def test_a_long_name_stays_in_its_column(view, values, tmp_path):
    models = [{**model, "title": f"{model['title']} (runs/a_long_name_of_a_folder)"} for model in values["models"]]
    page = view(path=write_page({**values, "models": models}, tmp_path / "report.html"))
    for table in page.locator(".results").all():
        row = table.locator("tbody tr").first
        name, number = (row.locator(part).first.bounding_box() for part in (".model", ".number"))
        assert name["x"] + name["width"] < number["x"]


def test_a_short_training_has_whole_steps(view, values, tmp_path):
    line = {"model": 2, "steps": [1, 2, 3], "values": [0.5, 0.6, 0.7]}
    curves = [{**panel, "lines": [line]} for panel in values["curves"]]
    page = view(path=write_page({**values, "curves": curves}, tmp_path / "report.html"))
    steps = page.locator(".curves svg").first.locator("text[text-anchor=middle]:not(.axis)").all_text_contents()
    assert steps == ["1", "2", "3"]


def test_a_cell_of_a_confusion_matrix_opens_its_cases(view, values):
    page = view()
    counts = values["confusion"][0][0]["counts"]
    row, column = max(((i, j) for i in range(8) for j in range(8) if i != j), key=lambda cell: counts[cell[0]][cell[1]])
    page.locator(".matrix").first.locator("tbody tr").nth(row).locator("td").nth(column).locator("button").click()
    assert found(page) == counts[row][column]
    assert {text.split("\n")[0] for text in page.locator(".card h3").all_inner_texts()} == {
        values["datasets"][0]["labels"][row]
    }


def test_pages_of_cards_turn_and_parts_of_the_bar_filter(view):
    page = view()
    first = page.locator(".card .where").first.inner_text()
    page.get_by_role("button", name="Next").click()
    assert "13–24" in page.inner_text(".status")
    assert page.locator(".card .where").first.inner_text() != first
    fixed = page.locator(".segment.fixed")
    number = int(fixed.locator("b").inner_text())
    fixed.click()
    assert found(page) == number
    assert page.locator(".segment.fixed").get_attribute("aria-pressed") == "true"


def test_curves_tell_their_values_to_mouse_and_keyboard(view, values):
    page = view()
    chart = page.locator(".curves svg").first
    readout = page.locator(".curves .readout")
    last = values["curves"][0]["lines"][0]["values"][-1]
    assert f"last\n{last:.3f}" in readout.first.inner_text().replace(" ", "")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert re.match(r"step (2|3)\d", readout.first.inner_text())
    assert readout.nth(3).inner_text().startswith(readout.first.inner_text().split("\n")[0])
    page.mouse.move(0, 0)
    chart.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert f"{values['curves'][0]['lines'][0]['values'][1]:.3f}" in readout.first.inner_text()


def test_a_word_is_explained_on_focus_and_escape_hides_it(view):
    page = view()
    page.locator(".term", has_text="Macro F1").focus()
    assert page.inner_text("#tip").startswith("Macro F1: the harmonic mean")
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def test_the_keyboard_reaches_every_control(view):
    page = view()
    reached = set()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(400):
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.textContent.slice(0, 20)"))
        page.keyboard.press("Tab")
    assert {"Compare with", "From", "To", "Outcome", "Emotion", "text", "Reset", "Next →"} <= reached
    unnamed = page.evaluate(
        "[...document.querySelectorAll('select, input, button')].filter((e) => "
        "!(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_runs_out_of_the_page_and_all_text_is_readable(view, width, scheme):
    page = view(width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dim = page.evaluate(CONTRAST)
    assert dim == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 3 * 128) == (scheme == "light")


# The texts whose contrast with the ground behind them is below 4.5 (WCAG AA), as they are painted
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data; };
  const light = (colour) => { const [r, g, b] = [...rgb(colour)].map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (element) => { for (let e = element; e; e = e.parentElement) {
    const own = getComputedStyle(e).backgroundColor; if (rgb(own)[3] > 0) return own; } return 'white'; };
  const dim = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    if (!text || !element.checkVisibility() || element.closest('script, :disabled, .skip')) continue;
    const style = getComputedStyle(element);
    const both = [light(element.closest('svg') ? style.fill : style.color), light(ground(element))];
    const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (contrast < 4.5) dim.push(`${text.slice(0, 30)} (${element.className}): ${contrast.toFixed(2)}`);
  }
  return [...new Set(dim)];
}"""


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    folder = fabricate(tmp_path_factory.mktemp("hostile"), {"test": 12}, pictures=False)
    path = folder / "evaluation" / "base" / "predictions.parquet"
    rows = load_predictions(path)
    ids = {row.id: f"<img src=x onerror='window.pwned = 1'>{row.id}" for row in rows}
    for model in (folder / "evaluation").iterdir():
        before = load_predictions(model / "predictions.parquet")
        after = [
            read_completion({"id": ids[row.id], "emotion": row.emotion, "label_space": row.label_space}, "test", text)
            for row, text in zip(before, [*HOSTILE, *HOSTILE, "", " "], strict=True)
        ]
        save_predictions(after, model / "predictions.parquet")
    values = gather_content(load_evaluations([folder]), title="</title><script>window.pwned = 1</script>")
    return write_page(values, folder / "report.html")


@pytest.mark.parametrize("width", [1440, 390])
def test_hostile_completions_stay_text(view, hostile_report, width):
    page = view(width, path=hostile_report)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    choose(page, text="pwned")
    assert page.locator("mark").count() > 0
    choose(page, text="")
    assert page.evaluate("window.pwned") is None
    assert page.locator("script").count() == 2
    assert page.locator(".card img, .card svg, .card b[onclick]").count() == 0
    written = page.locator(".card pre").all_text_contents()
    for text in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[4]):
        assert text in written
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "no picture" in page.locator(".card").first.inner_text()
    assert "The pictures of test are missing" in page.inner_text("#cases .note")


def test_one_model_without_log_makes_a_page_too(view, tmp_path):
    folder = fabricate(tmp_path, {"test": 5}, pictures=False)
    for model in ("cold_start", "emo_r3", "emo_r3_cold_start"):
        for file in (folder / "evaluation" / model).iterdir():
            file.unlink()
    page = view(path=write_page(gather_content(load_evaluations([folder]), title="one"), folder / "report.html"))
    assert "No log of training was found" in page.inner_text("#training")
    assert page.locator(".card").count() == 5
    choose(page, Outcome="right")
    right = found(page)
    choose(page, Outcome="wrong")
    assert right + found(page) == 5


def test_paper_gets_no_controls(view):
    page = view()
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".filters").is_visible()
    assert page.locator(".card").first.is_visible()


@pytest.mark.long
def test_five_thousand_cases_are_ready_and_filtered_in_three_seconds(browser, tmp_path):
    script = Path(__file__).parents[3] / "benchmarks" / "report_page.py"
    subprocess.run([sys.executable, str(script), "--output", str(tmp_path / "figures.json")], check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["cases"] == 5000
    assert figures["ready_seconds"] + max(figures["filter_seconds"].values()) < 3
    assert figures["faults"] == []


def test_a_cards_reward_names_its_weights_and_where_they_come_from(view):
    tip = view().locator(".card .overall").first.get_attribute("data-tip")
    assert tip.startswith("Overall reward: 0.8 × accuracy + 0.05 × consistency + 0.05 × coherence + 0.1 × format (the ")
    assert tip.endswith("(the paper's defaults: no training with such rewards is known)")


def test_a_reward_of_the_users_has_its_curve_and_is_shown_as_not_computed(view, tmp_path):
    run = fabricate(tmp_path, {"test": 6})
    names = {"reward_variant": "paper", "rewards": ["accuracy", "own.py:brief"], "reward_weights": [0.9, 0.1]}
    write_text(run / "emo_r3" / "config.yaml", yaml.safe_dump(names))
    log = [{"step": step, "reward": 1.0, "rewards/brief/mean": 0.5 * step} for step in (1, 2)]
    write_json(run / "emo_r3" / "log_history.json", log)
    page = view(path=write_page(gather_content(load_evaluations([run]), title="mine"), tmp_path / "mine.html"))
    assert "Reward brief" in page.locator("#training h3").all_inner_texts()
    trained = page.locator(".card .completion", has=page.get_by_text("not computed")).first
    assert trained.locator("dl.rewards").inner_text().split("\n") == ["accuracy", "1", "brief", "not computed"]
    assert trained.locator(".overall").count() == 0
    assert "0.9 accuracy + 0.1 brief; not computed again, because" in page.locator("#about").inner_text()

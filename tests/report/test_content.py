"""What the report's page is made of: results, cases and rewards as JSON, safely inside HTML; mistakes in one line."""

import configparser
import json
import shutil
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emor3_trl.evaluation.comparison import compare_predictions
from emor3_trl.evaluation.metrics import summarise_predictions
from emor3_trl.evaluation.prediction import load_predictions, read_completion, save_predictions
from emor3_trl.files import write_json
from emor3_trl.report.evaluated import load_evaluations
from emor3_trl.report.page import content, render
from emor3_trl.report.page.content import PANELS, _curves
from emor3_trl.report.page.thumbnails import thumbnail

HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<!--<script>",
    "line\u2028separator\u2029 and \u202eright to left",
    "\x00 nothing ]]> &amp; \\u003c $data $script ${title}",
]


class Page(HTMLParser):
    """Collects the elements of a page and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_no_markup(text):
    plain, hostile = (Page(render({"title": "t", "cases": [one]})) for one in ("harmless", text))
    assert hostile.tags == plain.tags
    assert json.loads(hostile.scripts[0]) == {"title": "t", "cases": [text]}
    assert hostile.scripts[0].isascii()
    assert not set("<>&") & set(hostile.scripts[0])
    assert Page(render({"title": text})).tags == plain.tags


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.none()))
def test_any_text_survives_the_page(values):
    page = {"title": "t", "values": values}
    assert json.loads(Page(render(page)).scripts[0]) == page


def test_the_page_asks_for_nothing_and_names_its_script():
    text = render({"title": "t"})
    for word in ("http:", "https:", "@import", "innerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in text.replace("http://www.w3.org/2000/svg", ""), word
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in text


def test_every_asset_is_packaged():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    patterns = setup["options.package_data"]["emor3_trl.report.page"]
    for asset in files("emor3_trl.report.page").iterdir():
        if asset.is_file() and not asset.name.endswith(".py"):
            assert f"*{Path(asset.name).suffix}" in patterns


def test_the_numbers_are_those_of_the_predictions(run, page, sizes):
    rows = {name: load_predictions(run / "evaluation" / name / "predictions.parquet") for name in ("base", "emo_r3")}
    base, trained = ([row for row in own if row.dataset == "test"] for own in rows.values())
    assert [dataset["name"] for dataset in page["datasets"]] == ["test", "emotion6", "webemo"]
    assert [dataset["inDomain"] for dataset in page["datasets"]] == [True, False, False]
    assert page["metrics"][0][2]["accuracy"] == sum(row.correct for row in trained) / 12
    assert page["metrics"][0][2]["macro_f1"] == summarise_predictions(trained)["eval/test/macro_f1"]
    assert not any("/" in key for key in page["metrics"][0][2])
    expected, there, back = (
        compare_predictions(base, trained),
        page["comparisons"][0][0][2],
        page["comparisons"][0][2][0],
    )
    assert (there["difference"], there["low"], there["high"]) == (expected.difference, expected.low, expected.high)
    assert (back["difference"], back["low"], back["high"]) == (-expected.difference, -expected.high, -expected.low)
    assert (there["fixed"], there["broken"]) == (back["broken"], back["fixed"]) == (expected.only_b, expected.only_a)
    assert there["p"] == back["p"] == expected.p_value
    for models, size in zip(page["confusion"], sizes.values(), strict=True):
        assert all(sum(map(sum, own["counts"])) == size for own in models)


def test_means_count_each_data_set_the_same(page):
    for model, means in enumerate(page["means"]):
        inside, emotion6, webemo = (models[model]["accuracy"] for models in page["metrics"])
        values = [inside, (emotion6 + webemo) / 2, (inside + emotion6 + webemo) / 3]
        assert [mean["value"] for mean in means] == pytest.approx(values)
        assert all(mean["low"] <= mean["value"] <= mean["high"] for mean in means)


def test_a_mean_over_a_data_set_that_a_model_lacks_is_unknown(own_run):
    path = own_run / "evaluation" / "base" / "predictions.parquet"
    save_predictions([row for row in load_predictions(path) if row.dataset != "webemo"], path)
    page = content(load_evaluations([own_run]), title="runs")
    assert [mean is None for mean in page["means"][0]] == [False, True, True]
    assert page["metrics"][2][0] is page["confusion"][2][0] is page["comparisons"][2][0][1] is None
    assert all(case["models"][0] is None for case in page["cases"] if case["dataset"] == 2)


def test_what_is_in_domain_comes_from_the_evaluation_or_the_command(own_run):
    config = own_run / "evaluation" / "base" / "config.yaml"
    config.write_text(config.read_text() + "in_domain: [webemo]\n")
    evaluations = load_evaluations([own_run])
    named = [dataset["name"] for dataset in content(evaluations, title="runs")["datasets"] if dataset["inDomain"]]
    assert named == ["webemo"]
    page = content(evaluations, title="runs", in_domain=["test", "emotion6"])
    assert [dataset["inDomain"] for dataset in page["datasets"]] == [True, True, False]


def test_a_set_that_only_some_models_were_trained_on_is_in_domain_for_these(own_run):
    for name, in_domain in (("base", "test"), ("emo_r3", "webemo")):
        config = own_run / "evaluation" / name / "config.yaml"
        config.write_text(config.read_text() + f"in_domain: [{in_domain}]\n")
    for name in ("cold_start", "emo_r3_cold_start"):
        shutil.rmtree(own_run / "evaluation" / name)
    datasets = {dataset["name"]: dataset for dataset in content(load_evaluations([own_run]), title="runs")["datasets"]}
    assert {name: dataset["inDomainOf"] for name, dataset in datasets.items()} == {
        "test": [0],
        "webemo": [1],
        "emotion6": [],
    }
    assert not any(dataset["inDomain"] for dataset in datasets.values())


def test_pictures_of_several_folders_are_told_apart(own_run, tmp_path):
    for name in ("emotion6", "webemo"):
        (tmp_path / name).mkdir()
        shutil.move(own_run / "data" / f"{name}.parquet", tmp_path / name / "test.parquet")
    config = {"data": [str(tmp_path / "emotion6"), str(tmp_path / "webemo")], "splits": ["test"]}
    config["splits"].append(f"test={own_run}/data/test")
    for folder in (own_run / "evaluation").iterdir():
        write_json(folder / "config.yaml", config)
    page = content(load_evaluations([own_run]), title="runs")
    assert page["picturesMissing"] == []
    assert len(page["pictures"]) == 27


def test_each_picture_is_on_the_page_once(page, sizes):
    assert len(page["pictures"]) == len(page["cases"]) == sum(sizes.values())
    assert sorted(case["picture"] for case in page["cases"]) == list(range(27))
    assert all(picture.startswith("data:image/webp;base64,") for picture in page["pictures"])
    assert page["picturesMissing"] == []


def test_pictures_that_are_missing_or_broken_are_named(own_run, run):
    (own_run / "data" / "webemo.parquet").unlink()
    for folder in (own_run / "evaluation").iterdir():
        (folder / "config.yaml").unlink()
    page = content(load_evaluations([own_run]), title="runs")
    assert page["picturesMissing"] == [
        f"The pictures of webemo are missing: there is no {own_run}/data/webemo.parquet (--data names its folder)."
    ]
    assert [case["picture"] for case in page["cases"] if case["dataset"] == 2] == [None] * 6
    assert content(load_evaluations([own_run]), title="runs", data=[str(run / "data")])["picturesMissing"] == []
    assert thumbnail(b"no picture") is None


def test_curves_leave_out_what_is_not_finite(own_run):
    log = [{"step": 1, "reward": 0.5, "kl": float("nan")}, {"step": 2, "reward": 0.75, "kl": 0.1}, {"train_loss": 1.0}]
    write_json(own_run / "emo_r3" / "log_history.json", log)
    panels = {panel["title"]: panel["lines"] for panel in _curves(load_evaluations([own_run]))}
    assert list(panels) == [title for title, *_ in PANELS]
    first = {title: lines[0] for title, lines in panels.items()}
    assert first["Overall reward"] == {"model": 2, "steps": (1, 2), "values": (0.5, 0.75)}
    assert first["KL"] == {"model": 2, "steps": (2,), "values": (0.1,)}


def test_models_of_two_folders_stand_side_by_side(run, own_run):
    page = content(load_evaluations([run, own_run]), title="both", baseline="cold_start")
    titles = [model["title"] for model in page["models"]]
    assert titles[0] == f"base ({run})"
    assert titles[4] == f"base ({own_run})"
    assert page["baseline"] == 1
    assert page["comparisons"][0][0][4]["difference"] == 0
    assert len(page["cases"]) == 27


def spoil(folder, what):
    base = folder / "evaluation" / "base" / "predictions.parquet"
    rows = load_predictions(base)
    if what == "no evaluation":
        shutil.rmtree(folder / "evaluation")
    elif what == "no predictions":
        base.unlink()
    elif what == "broken predictions":
        base.write_bytes(b"PAR1 no more")
    elif what == "other columns":
        shutil.copy(folder / "data" / "test.parquet", base)
    elif what == "broken config":
        (base.parent / "config.yaml").write_text("a: [")
    elif what == "empty":
        save_predictions([], base)
    elif what == "other data set":
        save_predictions([row for row in rows if row.dataset == "webemo"], base)
        other = folder / "evaluation" / "cold_start" / "predictions.parquet"
        save_predictions([row for row in rows if row.dataset == "test"], other)
    else:
        changed = [read_completion({"id": f"z{row.id}", **labels(row)}, row.dataset, row.completion) for row in rows]
        if what == "other labels":
            changed = [read_completion({"id": row.id, **labels(row, 1)}, row.dataset, row.completion) for row in rows]
        save_predictions(changed, base)


def labels(row, shift=0):
    index = (row.label_space.index(row.emotion) + shift) % len(row.label_space)
    return {"emotion": row.label_space[index], "label_space": row.label_space}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no evaluation", "Run recipes/evaluate.py first"),
        ("no predictions", "There are no predictions at"),
        ("broken predictions", "cannot be read as predictions"),
        ("other columns", "cannot be read as predictions"),
        ("broken config", "config.yaml' cannot be read"),
        ("empty", "holds no predictions"),
        ("other data set", "there is nothing to compare"),
        ("other pictures", "no picture of 'test' in common"),
        ("other labels", "base and cold start: The label of picture"),
    ],
)
def test_mistakes_are_named(own_run, what, message):
    spoil(own_run, what)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        content(load_evaluations([own_run]), title="runs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_domain": ["emoset"]}, "--in_domain names emoset. Expected some of test, emotion6, webemo"),
        ({"baseline": "gpt"}, "no evaluation of a model 'gpt'. There are: base"),
        ({"trained": "gpt"}, "no evaluation of a model 'gpt'"),
    ],
)
def test_choices_that_are_not_there_are_named(run, options, message):
    with pytest.raises(ValueError, match=message):
        content(load_evaluations([run]), title="runs", **options)

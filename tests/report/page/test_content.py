"""What the page shows as JSON values: the numbers of the predictions, means, in-domain sets, curves."""

import shutil

import pytest

from emor3_trl.evaluation.comparison import compare_predictions
from emor3_trl.evaluation.metrics import summarise_predictions
from emor3_trl.evaluation.prediction import load_predictions, save_predictions
from emor3_trl.files import write_json
from emor3_trl.report.evaluated import load_evaluations
from emor3_trl.report.page import gather_content
from emor3_trl.report.page.content import PANELS, gather_curves


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
    page = gather_content(load_evaluations([own_run]), title="runs")
    assert [mean is None for mean in page["means"][0]] == [False, True, True]
    assert page["metrics"][2][0] is page["confusion"][2][0] is page["comparisons"][2][0][1] is None
    assert all(case["models"][0] is None for case in page["cases"] if case["dataset"] == 2)


def test_what_is_in_domain_comes_from_the_evaluation_or_the_command(own_run):
    config = own_run / "evaluation" / "base" / "config.yaml"
    config.write_text(config.read_text() + "in_domain: [webemo]\n")
    evaluations = load_evaluations([own_run])
    named = [
        dataset["name"] for dataset in gather_content(evaluations, title="runs")["datasets"] if dataset["inDomain"]
    ]
    assert named == ["webemo"]
    page = gather_content(evaluations, title="runs", in_domain=["test", "emotion6"])
    assert [dataset["inDomain"] for dataset in page["datasets"]] == [True, True, False]


def test_a_set_that_only_some_models_were_trained_on_is_in_domain_for_these(own_run):
    for name, in_domain in (("base", "test"), ("emo_r3", "webemo")):
        config = own_run / "evaluation" / name / "config.yaml"
        config.write_text(config.read_text() + f"in_domain: [{in_domain}]\n")
    for name in ("cold_start", "emo_r3_cold_start"):
        shutil.rmtree(own_run / "evaluation" / name)
    datasets = {
        dataset["name"]: dataset for dataset in gather_content(load_evaluations([own_run]), title="runs")["datasets"]
    }
    assert {name: dataset["inDomainOf"] for name, dataset in datasets.items()} == {
        "test": [0],
        "webemo": [1],
        "emotion6": [],
    }
    assert not any(dataset["inDomain"] for dataset in datasets.values())


def test_curves_leave_out_what_is_not_finite(own_run):
    log = [{"step": 1, "reward": 0.5, "kl": float("nan")}, {"step": 2, "reward": 0.75, "kl": 0.1}, {"train_loss": 1.0}]
    write_json(own_run / "emo_r3" / "log_history.json", log)
    panels = {
        panel["title"]: panel["lines"] for panel in gather_curves([row.log for row in load_evaluations([own_run])])
    }
    assert list(panels) == [title for title, *_ in PANELS]
    first = {title: lines[0] for title, lines in panels.items()}
    assert first["Overall reward"] == {"model": 2, "steps": (1, 2), "values": (0.5, 0.75)}
    assert first["KL"] == {"model": 2, "steps": (2,), "values": (0.1,)}


def test_models_of_two_folders_stand_side_by_side(run, own_run):
    page = gather_content(load_evaluations([run, own_run]), title="both", baseline="cold_start")
    titles = [model["title"] for model in page["models"]]
    assert titles[0] == f"base ({run})"
    assert titles[4] == f"base ({own_run})"
    assert page["baseline"] == 1
    assert page["comparisons"][0][0][4]["difference"] == 0
    assert len(page["cases"]) == 27


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
        gather_content(load_evaluations([run]), title="runs", **options)


def test_a_reward_of_the_users_has_a_curve(own_run):
    log = [{"step": step, "reward": 1.0, "rewards/brief_reward/mean": 0.25 * step} for step in (1, 2)]
    write_json(own_run / "emo_r3" / "log_history.json", log)
    panels = {
        panel["title"]: panel["lines"] for panel in gather_curves([row.log for row in load_evaluations([own_run])])
    }
    assert [title for title in panels if title not in {title for title, *_ in PANELS}] == ["Reward brief"]
    (line,) = panels["Reward brief"]
    assert (line["steps"], line["values"]) == ((1, 2), (0.25, 0.5))

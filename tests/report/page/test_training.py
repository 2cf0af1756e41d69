"""The training half of the page holds what the run's files hold, and no more than a page can."""

import json

import pandas as pd
import pytest
from tiny_model import tiny_pictures
from written_rollouts import LABELS, REWARDS, SIZE, write_rollouts

from emor3_trl.checkpoints import fingerprint
from emor3_trl.data import write_split
from emor3_trl.report.evaluated import load_evaluations
from emor3_trl.report.page import gather_content, render_page
from emor3_trl.report.page.thumbnails import make_thumbnail
from emor3_trl.report.page.training import choose_groups, gather_training
from emor3_trl.report.pictures import read_images
from emor3_trl.report.rollouts import load_training_runs, measure_disagreement


@pytest.fixture
def runs(tmp_path):
    for seed, name in enumerate(("emo_r3", "mine")):
        write_rollouts(tmp_path / name, steps=6, seed=seed, **({"rewards": ["accuracy", "format"]} if seed else {}))
    return load_training_runs([tmp_path])


def read_steps(folder):
    return {int(path.stem[-5:]): pd.read_parquet(path) for path in sorted((folder / "completions").iterdir())}


def test_every_number_of_a_group_is_one_of_its_file(runs):
    training = gather_training(runs, [], [])
    assert [run["weighing"] for run in training["runs"]] == [
        "0.8 accuracy + 0.05 consistency + 0.05 coherence + 0.1 format", "1 accuracy + 1 format",
    ]  # fmt: skip
    for index, run in enumerate(runs):
        columns, weights = run.weighing.columns, run.weighing.weights
        for step, table in read_steps(run.folder).items():
            groups = [group for group in training["groups"] if (group["run"], group["step"]) == (index, step)]
            assert [training["images"][group["image"]]["id"] for group in groups] == list(dict.fromkeys(table["id"]))
            rows = [row for group in groups for row in group["rows"]]
            assert [row["rewards"] for row in rows] == table[columns].to_numpy().tolist()
            overall = (table[columns] * weights).sum(axis=1)
            assert [row["overall"] for row in rows] == pytest.approx(overall.round(4).tolist())
            assert [row["advantage"] for row in rows] == table["advantage"].round(4).tolist()
            for row, (_, source) in zip(rows, table.iterrows(), strict=True):
                written = source["completion"][0]["content"]
                assert row.get("text", written) == written
                assert row.get("steps", []) in ([], [source["trigger"], source["feeling"], source["conclusion"]])
                assert row["correct"] == bool(source["accuracy_reward"])
            for group, start in zip(groups, range(0, len(table), SIZE), strict=True):
                part = table.iloc[start : start + SIZE]
                assert group["reward"] == pytest.approx(overall[part.index].mean(), abs=1e-4)
                assert group["spread"] == pytest.approx(overall[part.index].std(ddof=0), abs=1e-4)
                expected = measure_disagreement(part[columns].to_numpy(), weights)
                assert group["disagreement"] == (None if expected is None else pytest.approx(expected, abs=1e-4))


def test_each_picture_stands_once_on_the_page_with_its_thumbnail(runs):
    page = gather_content([], title="x", training=runs)
    images = page["training"]["images"]
    assert len({image["id"] for image in images}) == len(images) == 6
    assert sorted(image["picture"] for image in images) == list(range(6))
    assert len(page["pictures"]) == 6
    assert page["titles"] == ["EMO-R3", "mine"]


def test_pictures_of_two_data_sets_with_one_name_are_not_taken_for_each_other(tmp_path):
    write_rollouts(tmp_path / "one")
    write_rollouts(tmp_path / "two", data=str(tmp_path / "elsewhere"), rewards=["accuracy"])
    page = gather_content([], title="x", training=load_training_runs([tmp_path]))
    images = page["training"]["images"]
    assert [image["id"] for image in images].count("train-0") == 2
    assert sum(image["picture"] is None for image in images) == 6


def test_data_of_one_name_in_two_places_are_told_apart_by_what_they_hold(tmp_path):
    files = {}
    for name, images in (("one", tiny_pictures(6)), ("two", tiny_pictures(6)[::-1])):
        rows = [{"id": f"train-{index}", "image": image, "emotion": LABELS[index % 3], "label_space": LABELS,
                 "source": "made"} for index, image in enumerate(images)]  # fmt: skip
        write_split(tmp_path / name / "data", "train", rows)
        files[name] = tmp_path / name / "data" / "train.parquet"
        write_rollouts(tmp_path / name / "run")
        sources = {"training data": fingerprint(files[name])}
        (tmp_path / name / "run" / "environment.json").write_text(json.dumps({"sources": sources}))
    runs = load_training_runs([tmp_path / "one", tmp_path / "two"])
    for data in (None, [str(files["one"].parent), str(files["two"].parent)]):  # also where --data names both
        page = gather_content([], title="x", training=runs, data=data)
        images = page["training"]["images"]
        assert len(images) == 12
        for index, name in enumerate(files):
            numbers = {group["image"] for group in page["training"]["groups"] if group["run"] == index}
            shown = {images[number]["id"]: page["pictures"][images[number]["picture"]] for number in numbers}
            assert shown == {key: make_thumbnail(content) for key, content in read_images(files[name], list(shown))}
    files["two"].write_bytes(files["one"].read_bytes())  # prepared again, otherwise
    page = gather_content([], title="x", training=load_training_runs([tmp_path / "two"]))
    assert {image["picture"] for image in page["training"]["images"]} == {None}


def test_a_page_of_many_completions_keeps_the_sharpest_groups_and_whole_stories(runs):
    chosen = choose_groups(runs, 48)  # of 96
    kept = [(index, group) for index, groups in enumerate(chosen) for group in groups]
    assert sum(len(group.rows) for _, group in kept) <= 48
    for run, groups in zip(runs, chosen, strict=True):
        sharpest = max(run.groups, key=lambda group: measure_disagreement(group.rewards, run.weighing.weights) or 0.0)
        assert sharpest in groups
    stories = [
        all(group in chosen[index] for index, run in enumerate(runs) for group in run.groups if group.image == image)
        for image in {group.image for _, group in kept}
    ]
    assert sum(stories) >= 2
    page = gather_training(runs, [], [], max_completions=48)
    assert [(run["shown"], run["groups"]) for run in page["runs"]] == [(len(groups), 12) for groups in chosen]


def test_a_run_shares_the_colour_of_its_evaluated_model(run, tmp_path):
    evaluations = load_evaluations([run])
    write_rollouts(tmp_path / "other")
    training = load_training_runs([run, tmp_path])  # those of `run` kept a log, and no completions
    page = gather_content(evaluations, title="x", training=training)
    assert page["titles"] == ["base", "cold start", "EMO-R3", "EMO-R3#", "other"]
    assert [entry["model"] for entry in page["training"]["runs"]] == [2, 3, 4]
    lines = {line["model"] for panel in page["curves"] for line in panel["lines"]}
    assert lines == {2, 3, 4}


def test_curves_of_a_run_that_is_not_evaluated_are_those_of_its_files(runs):
    page = gather_content([], title="x", training=runs)
    panel = next(panel for panel in page["curves"] if panel["title"] == "Accuracy")
    for line, run in zip(panel["lines"], runs, strict=True):
        means = [table["accuracy_reward"].mean() for table in read_steps(run.folder).values()]
        assert line["values"] == pytest.approx(means)


def test_hostile_completions_are_no_markup_in_the_file(tmp_path):
    texts = ["</script><script>alert(1)</script>", "\x00\x1b[2J\u202e\u2028", "<!--<script>"]
    write_rollouts(tmp_path / "mine", texts=texts)
    html = render_page(gather_content([], title="x", training=load_training_runs([tmp_path])))
    assert html.count("</script>") == 2
    assert "<!--<script>" not in html
    data = json.loads(html.split('id="data">')[1].split("</script>")[0])
    shown = [row.get("text") for group in data["training"]["groups"] for row in group["rows"]]
    assert set(texts) <= set(shown)


def test_the_files_of_the_paper_rewards_are_the_columns(runs):
    assert tuple(runs[0].weighing.columns) == REWARDS

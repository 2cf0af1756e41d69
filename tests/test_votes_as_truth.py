"""Accuracy against people's votes, the wheel of emotions and polarity: r(a) = sum of v(y) s(a, y), by hand."""

import inspect
import itertools
import pickle
import re
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset
from downloads import write_emotion6
from training import logged, tiny_trainer
from trl import GRPOTrainer
from trl.trainer.utils import get_callable_name

from emor3_trl import EmoR3Config
from emor3_trl.data import load_split
from emor3_trl.data.pictures import Budget
from emor3_trl.data.preparation import prepare
from emor3_trl.data.sampling import Sampling
from emor3_trl.data.sources import emotion6
from emor3_trl.emotions import EMOSET_8, EMOTION6, MIKELS_WHEEL, VALENCE, WEBEMO_7, wheel_distance
from emor3_trl.named_rewards import use_named_rewards
from emor3_trl.rewards import GradedAccuracy, accuracy_reward, reward_functions
from emor3_trl.truth_checks import check_truth_columns

NO_ENGINE: dict[str, Any] = {"use_vllm": False, "bf16": False, "use_cpu": True}


def answer(label: str) -> str:
    return f"\\boxed{{{label}}}"


def grade(truth: str, credit: float, label: str, space: Any, emotion: str, votes: Any = None) -> float:
    columns: dict[str, Any] = {"emotion": [emotion], "label_space": [space]}
    columns |= {} if votes is None else {"votes": [votes]}
    return GradedAccuracy(truth, credit)([answer(label)], **columns)[0]


# anger, disgust, fear, joy, sadness, surprise: of fifteen people eight saw joy, four surprise, two fear, one sadness
SEEN = [0.0, 0.0, 2 / 15, 8 / 15, 1 / 15, 4 / 15]
VOTES = [  # answer, credit, what it earns
    ("joy", 0.0, 8 / 15), ("surprise", 0.0, 4 / 15), ("fear", 0.0, 2 / 15), ("anger", 0.0, 0.0),
    ("joy", 0.5, 8 / 15),  # nobody else voted for a positive one; surprise has no polarity
    ("surprise", 0.5, 4 / 15),
    ("fear", 0.5, 2 / 15 + 0.5 / 15),  # and sadness is as negative
    ("anger", 0.5, 0.5 * 3 / 15),
    ("disgust", 0.25, 0.25 * 3 / 15),
    ("no emotion", 0.5, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("label", "credit", "expected"), VOTES)
def test_an_answer_earns_the_share_of_people_who_gave_it(label, credit, expected):
    assert grade("votes", credit, label, "emotion6", "joy", SEEN) == pytest.approx(expected)


# Round the wheel: amusement, contentment, awe, excitement, fear, sadness, disgust, anger, and again amusement
WHEEL = [
    ("awe", "awe", 1.0), ("awe", "contentment", 0.75), ("awe", "excitement", 0.75), ("awe", "fear", 0.5),
    ("awe", "amusement", 0.5), ("awe", "sadness", 0.25), ("awe", "anger", 0.25), ("awe", "disgust", 0.0),
    ("amusement", "anger", 0.75), ("excitement", "fear", 0.75), ("contentment", "sadness", 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("label", "emotion", "expected"), WHEEL)
def test_an_answer_earns_how_near_it_is_on_the_wheel(label, emotion, expected):
    assert grade("wheel", 0.0, label, "emoset_8", emotion) == pytest.approx(expected)


def test_on_the_wheel_votes_are_expected():
    votes = dict.fromkeys(EMOSET_8.labels, 0.0) | {"awe": 0.5, "fear": 0.3, "anger": 0.2}
    found = grade("wheel", 0.0, "awe", "emoset_8", "awe", [votes[label] for label in EMOSET_8.labels])
    assert found == pytest.approx(0.5 * 1 + 0.3 * 0.5 + 0.2 * 0.25)


@pytest.mark.parametrize(
    ("label", "emotion", "expected"),
    [
        ("joy", "joy", 1.0), ("joy", "love", 0.3), ("anger", "fear", 0.3), ("joy", "anger", 0.0),
        ("surprise", "joy", 0.0), ("surprise", "confusion", 0.0), ("confusion", "confusion", 1.0), ("awe", "joy", 0.0),
    ],
)  # fmt: skip
def test_a_wrong_label_of_the_right_polarity_earns_the_credit(label, emotion, expected):
    assert grade("label", 0.3, label, "webemo_7", emotion) == pytest.approx(expected)


@pytest.mark.parametrize("space", [EMOSET_8, EMOTION6, WEBEMO_7], ids=lambda space: space.name)
def test_with_one_label_for_truth_and_no_credit_it_is_the_papers_accuracy(space):
    for emotion, label in itertools.product(space.labels, [*space.labels, "nothing"]):
        paper = accuracy_reward([answer(label)], [emotion], [space.name])[0]
        one_voice = [float(other == emotion) for other in space.labels]
        assert grade("label", 0.0, label, space.name, emotion) == paper
        assert grade("votes", 0.0, label, space.name, emotion, one_voice) == paper
        assert 0 <= grade("label", 0.9, label, space.name, emotion) <= 1


def test_the_wheel_keeps_polarity_together():
    assert sorted(MIKELS_WHEEL) == sorted(EMOSET_8.labels)
    assert {VALENCE[label] for label in MIKELS_WHEEL[:4]} == {"positive"}
    assert {VALENCE[label] for label in MIKELS_WHEEL[4:]} == {"negative"}
    for label in MIKELS_WHEEL:  # one opposite, two of each other distance
        distances = sorted(wheel_distance(label, other) for other in MIKELS_WHEEL)
        assert distances == [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1]


def test_it_is_a_reward_as_trl_takes_them(tmp_path):
    functions, weights = reward_functions("paper", 0.1, 0.1, "votes", 0.2)
    assert [get_callable_name(function) for function in functions] == [
        "accuracy_reward", "consistency_reward", "coherence_reward", "format_reward",
    ]  # fmt: skip
    assert weights == pytest.approx([0.8, 0.05, 0.05, 0.1])
    assert pickle.loads(pickle.dumps(functions[0])) == GradedAccuracy("votes", 0.2)
    assert "votes" in inspect.signature(functions[0]).parameters
    assert reward_functions("plain", 0.1, 0.1, "votes")[0][0] == GradedAccuracy("votes")
    args = EmoR3Config(str(tmp_path), **NO_ENGINE, rewards=["format", "accuracy"], polarity_credit=0.2)
    assert use_named_rewards(args, None)[1] == GradedAccuracy("label", 0.2)
    with pytest.raises(ValueError, match=r"column 'votes' is missing.*load_split gives each row its votes"):
        GradedAccuracy("votes")([answer("joy")], ["joy"], ["emotion6"])


REFUSED = [
    ({"accuracy_truth": "vote"}, "accuracy_truth is 'vote'. Expected one of label, votes, wheel"),
    ({"polarity_credit": 1.0}, "polarity_credit is 1.0. Expected 0 or more, and less than 1"),
    ({"polarity_credit": -0.1}, "polarity_credit is -0.1. Expected 0 or more"),
    ({"accuracy_truth": "wheel", "polarity_credit": 0.2}, "Set one of them"),
    ({"accuracy_truth": "votes", "reward_variant": "reference"}, "whose accuracy knows the label alone"),
    ({"accuracy_truth": "votes", "rewards": ["format"]}, "without accuracy"),
    ({"polarity_credit": 0.2, "dynamic_sampling": "accuracy"}, "Set dynamic_sampling: spread"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: None)
def test_what_cannot_be_graded_is_refused_in_one_line(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        EmoR3Config(str(tmp_path), **NO_ENGINE, **options)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accuracy_truth": "votes"}, "the train data have no column 'votes'"),
        ({"accuracy_truth": "wheel"}, "no place on Mikels' wheel: joy, surprise"),
        ({"polarity_credit": 0.2}, "no polarity: calm"),
    ],
)
def test_data_that_cannot_be_graded_are_refused_in_one_line(options, message):
    args = SimpleNamespace(**{"accuracy_truth": "label", "polarity_credit": 0.0} | options)
    space = ["joy", "calm"] if options.get("polarity_credit") else "emotion6"
    rows = Dataset.from_list([{"image": None, "emotion": "joy", "label_space": space}])
    check_truth_columns(SimpleNamespace(accuracy_truth="label", polarity_credit=0.0), {"train": rows})
    check_truth_columns(args, {"train": None})
    for datasets in ({"train": rows}, {"train": rows, "eval": None}):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            check_truth_columns(args, datasets)
        assert len(str(error.value)) < 300
    short = Dataset.from_list([{"label_space": ["awe", "fear"], "votes": shares} for shares in (None, [0.5])])
    with pytest.raises(ValueError, match="Row 1 of the train data has 1 votes for 2 labels"):
        check_truth_columns(SimpleNamespace(accuracy_truth="votes", polarity_credit=0.0), {"train": short})
    taken = Dataset.from_list([{"emotion": "awe", "label_space": "emoset_8", "votes": [0.125] * 8}])
    check_truth_columns(args, {"train": taken, "eval": {"held_out": taken}})


def test_the_trainer_refuses_before_its_model_loads(tiny_model_dir, tmp_path):
    """There is no such model, so that anything later would fail otherwise."""
    options = {"model": str(tmp_path / "no model"), "lambda1": 0.0, "use_vllm": False, "accuracy_truth": "votes"}
    with pytest.raises(ValueError, match="the train data have no column 'votes'"):
        tiny_trainer(tiny_model_dir, tmp_path, reward_funcs=None, **options)
    with pytest.raises(ValueError, match="reward_funcs is given, so it would do nothing"):
        tiny_trainer(tiny_model_dir, tmp_path, **options)


def say_joy_or_anger(trainer: Any, prompt_ids: list, *args: Any, **kwargs: Any) -> tuple:
    """Stand in for generation: of the completions of a group, every other one says joy, the others say anger."""
    tokenizer = trainer.processing_class.tokenizer
    texts = [answer("anger" if row % 2 else "joy") for row in range(len(prompt_ids))]
    return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts], None


def test_emotion6_with_its_votes_is_trained_on_them(tiny_model_dir, tmp_path, monkeypatch):
    """From the download to the log: the folder is the label, people's votes are the truth, neutral is left out."""
    root = write_emotion6(tmp_path / "Emotion6", per_label=6)
    lines = (root / "ground_truth.txt").read_text().splitlines()
    lines[6] = "anger/6.jpg\t4.5\t5.2\t" + "\t".join(["0.0"] * 6 + ["1.0"])  # nobody saw an emotion
    (root / "ground_truth.txt").write_text("\n".join(lines[:-1]) + "\n")  # surprise/6.jpg has no line
    source = emotion6.list_candidates(root, "folder_and_votes")
    reasons = {item.id: item.reason for item in source.dropped}
    assert reasons == {
        "anger/6.jpg": "was seen as neutral by all",
        "surprise/6.jpg": "has no line in ground_truth.txt",
    }
    prepare(source, tmp_path / "data", Sampling(train=12, test=0), Budget(28 * 28, 28 * 28 * 4), progress=False)
    rows = load_split(tmp_path / "data", "train")
    assert {row["emotion"] for row in rows} == set(EMOTION6.labels)
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", say_joy_or_anger)
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path / "run", rows=rows, reward_funcs=None, rewards=["accuracy"], accuracy_truth="votes",
        use_vllm=False, max_steps=1, max_completion_length=32, num_generations=2, per_device_train_batch_size=24,
        log_completions=True, num_completions_to_print=0, probe_steps=0, beta=0.0, polarity_credit=0.5,
    )  # fmt: skip
    trainer.train()
    table = pd.concat(pd.read_parquet(file) for file in (tmp_path / "run" / "completions").glob("*.parquet"))
    votes = {row["id"]: dict(zip(EMOTION6.labels, row["votes"], strict=True)) for row in rows}
    assert len(table) == 24
    earned = dict.fromkeys(("joy", "anger"), 0)
    for row in table.to_dict("records"):
        shares, said = votes[row["id"]], "joy" if "joy" in str(row["completion"]) else "anger"
        near = 0.0 if said == "joy" else shares["disgust"] + shares["fear"] + shares["sadness"]
        assert row["accuracy_reward"] == pytest.approx(shares[said] + 0.5 * near, abs=1e-6)
        earned[said] += 1
    assert earned == {"joy": 12, "anger": 12}
    assert logged(trainer, "rewards/accuracy_reward/mean") == [pytest.approx(table["accuracy_reward"].mean())]


def test_votes_change_nothing_of_the_folders_draw(tmp_path):
    """Data that an earlier version prepared by folder count as prepared: their candidates are the same."""
    root = write_emotion6(tmp_path, per_label=3)
    plain, both = (emotion6.list_candidates(root, label_from) for label_from in ("folder", "folder_and_votes"))
    assert [one.emotion for one in both.pools["all"]] == [one.emotion for one in plain.pools["all"]]
    assert [one.id for one in both.pools["all"]] == [one.id for one in plain.pools["all"]]
    assert both.candidates_hash() != plain.candidates_hash()
    shares = {one.id: one.votes for one in both.pools["all"]}
    assert shares["anger/1.jpg"] == pytest.approx([1 / 6] * 6)  # 0.7 said neutral, and 0.05 each emotion
    assert shares["anger/2.jpg"] == pytest.approx([0.05 / 0.95, 0.7 / 0.95, *[0.05 / 0.95] * 4])

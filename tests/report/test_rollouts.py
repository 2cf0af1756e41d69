"""What a run wrote while it trained, read back: groups, rewards as the run weighs them, and files that are damaged."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import gold_completion
from written_rollouts import PAPER, REWARDS, SIZE, make_rows, write_rollouts, write_step

from emor3_trl.report.page import gather_content, inert_json
from emor3_trl.report.rollouts import check_logged, load_training_runs, measure_disagreement, sum_rewards, weigh_rewards


def test_groups_are_the_completions_of_one_picture_in_one_step(tmp_path):
    (run,) = load_training_runs([write_rollouts(tmp_path / "mine", steps=3)])
    assert run.title == "mine"
    assert [(group.step, group.image) for group in run.groups] == [
        (1, "train-2"), (1, "train-3"), (2, "train-4"), (2, "train-5"), (3, "train-0"), (3, "train-1"),
    ]  # fmt: skip
    assert all(len(group.rows) == SIZE and group.rewards.shape == (SIZE, 4) for group in run.groups)
    table = pd.read_parquet(tmp_path / "mine" / "completions" / "completions_00002.parquet")
    read = np.concatenate([group.rewards for group in run.groups if group.step == 2])
    assert np.array_equal(read, table[list(REWARDS)].to_numpy())


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        pytest.param(PAPER, [0.8, 0.05, 0.05, 0.1], id="paper"),
        pytest.param({**PAPER, "lambda1": 0.4, "lambda2": 0.2}, [0.4, 0.2, 0.2, 0.2], id="other lambdas"),
        pytest.param({"rewards": ["format", "accuracy"], "reward_weights": [0.25, 3]}, [0.25, 3], id="named"),
        pytest.param({"rewards": ["coherence"], "reward_weights": None}, [1], id="named, without weights"),
        pytest.param({**PAPER, "overlong_buffer": 8}, [0.8, 0.05, 0.05, 0.1, 1], id="with TRL's punishment"),
        pytest.param({"rewards": ["accuracy", "my.py:brief"], "reward_weights": [1, 2]}, [1, 2], id="of a user's file"),
    ],
)
def test_rewards_are_weighed_as_the_runs_own_configuration_does(tmp_path, config, weights):
    (run,) = load_training_runs([write_rollouts(tmp_path / "mine", **config)])
    assert run.weighing.weights == pytest.approx(weights)
    titles = ", ".join(run.weighing.columns)
    if "rewards" in config:
        assert titles in ("format_reward, accuracy_reward", "coherence_reward", "accuracy_reward, brief")
    table = pd.concat(map(pd.read_parquet, sorted((tmp_path / "mine" / "completions").iterdir())))
    expected = sum(weight * table.get(name, 0.0) for name, weight in zip(run.weighing.columns, weights, strict=True))
    shown = np.concatenate([sum_rewards(group.rewards, run.weighing.weights) for group in run.groups])
    assert shown == pytest.approx(expected.to_numpy())


def test_without_a_configuration_no_weights_are_made_up(tmp_path):
    folder = write_rollouts(tmp_path / "mine")
    (folder / "config.yaml").unlink()
    (run,) = load_training_runs([folder])
    assert run.weighing.weights is None
    assert "unknown" in run.weighing.origin
    assert run.weighing.columns == list(REWARDS)
    assert len(run.groups) == 6  # by their pictures


@given(st.lists(st.lists(st.floats(-2, 2), min_size=3, max_size=3), min_size=1, max_size=6))
def test_disagreement_lies_between_0_and_1_and_knows_no_level(rows):
    rewards, weights = np.array(rows), [0.8, 0.1, 0.1]
    value = measure_disagreement(rewards, weights)
    assert value is None or 0 <= value <= 1
    shifted = measure_disagreement(rewards + np.array([1, 2, 3]), weights)
    assert shifted is None or value is None or shifted == pytest.approx(value, abs=1e-5)
    alone = measure_disagreement(rewards[:, :1], [0.5])
    assert alone is None or alone == pytest.approx(0)


def test_disagreement_is_the_share_of_the_pulls_that_cancels():
    rewards = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    # pulls ±.4 and ∓.1, ±.1: the sums are .3, .5, -.3, -.5 of 4 (.4 + .1)
    assert measure_disagreement(rewards, [0.8, 0.2]) == pytest.approx(1 - 1.6 / 2)
    assert measure_disagreement(np.array([[1.0, np.nan], [0.0, np.nan]]), [0.8, 0.2]) == 0
    assert measure_disagreement(np.ones((4, 2)), [0.8, 0.2]) is None


def test_switches_of_the_training_stand_beside_its_rewards():
    config = {"reward_variant": "paper", "soft_reflection": "raw", "masked_coherence": True, "gated_reflection": "none"}
    origin = weigh_rewards(config, []).origin
    assert origin.endswith("+ 0.1 format; measured with soft_reflection raw, masked_coherence")
    assert "measured" not in weigh_rewards({"reward_variant": "paper", "soft_reflection": "none"}, []).origin


def test_a_reward_without_end_is_one_that_is_not_known(tmp_path):
    rows = make_rows(1, ["train-0"])
    rows[0]["accuracy_reward"] = float("inf")
    write_step(tmp_path, 1, rows)
    training = load_training_runs([tmp_path])
    assert np.isnan(training[0].groups[0].rewards[0, 0])
    page = json.loads(inert_json(gather_content([], title="x", training=training)))
    assert page["training"]["groups"][0]["rows"][0]["rewards"][0] is None


def test_completions_of_a_trainer_of_trl_are_parsed(tmp_path):
    parsed = ("id", "emotion", "answer", "trigger", "feeling", "conclusion", "coherence_answer", "consistency_answer")
    texts = [gold_completion("awe"), "no steps, \\boxed{fear}"]
    rows = [{**row, "completion": row["completion"][0]["content"]} for row in make_rows(1, ["train-0"], texts)]
    write_step(tmp_path, 1, [{key: value for key, value in row.items() if key not in parsed} for row in rows])
    page = gather_content([], title="x", training=load_training_runs([tmp_path]))
    first, second, *_ = page["training"]["groups"][0]["rows"]
    assert (first["wellFormed"], first["answer"], len(first["steps"])) == (True, "awe", 3)
    assert (second["wellFormed"], second["answer"], second["text"]) == (False, "fear", texts[1])


def test_a_rollout_that_served_two_updates_counts_once(tmp_path):
    rows = make_rows(1, ["train-0"])
    write_step(tmp_path, 1, rows)
    write_step(tmp_path, 2, [{**row, "step": 2} for row in rows])
    write_step(tmp_path, 3, make_rows(3, ["train-0"]))
    (run,) = load_training_runs([tmp_path])
    assert [group.step for group in run.groups] == [1, 3]


def test_steps_after_the_saved_log_follow_from_the_completions(tmp_path):
    folder = write_rollouts(tmp_path / "mine", steps=3)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 1, "reward": 0.125}]}))
    (run,) = load_training_runs([folder])
    assert [entry["step"] for entry in run.log] == [1, 2, 3]
    assert run.log[0] == {"step": 1, "reward": 0.125}
    table = pd.read_parquet(folder / "completions" / "completions_00003.parquet")
    assert run.log[2]["rewards/accuracy_reward/mean"] == pytest.approx(table["accuracy_reward"].mean())
    assert run.log[2]["reward"] == pytest.approx(sum_rewards(table[list(REWARDS)], [0.8, 0.05, 0.05, 0.1]).mean())


def test_runs_are_found_in_a_folder_of_runs(tmp_path):
    for name in ("zebra", "emo_r3"):
        write_rollouts(tmp_path / name)
    shutil.copytree(tmp_path / "zebra" / "completions", tmp_path / "zebra" / "checkpoint-3" / "completions")
    assert [run.title for run in load_training_runs([tmp_path])] == ["EMO-R3", "zebra"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="0 bytes"),
        pytest.param(b"PAR1 and then nothing", id="half written"),
        pytest.param("another table", id="another table"),
    ],
)
def test_damaged_completions_are_named_and_passed_over_while_the_run_grows(tmp_path, content):
    path = write_rollouts(tmp_path) / "completions" / "completions_00004.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pd.DataFrame({"step": [4], "else": ["x"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"completions_00004\.parquet' cannot be read as completions") as error:
        load_training_runs([tmp_path])
    assert "\n" not in str(error.value)
    (run,) = load_training_runs([tmp_path], growing=True)
    assert run.unread == ["completions_00004.parquet"]
    assert len(run.groups) == 6
    write_step(tmp_path, 4, make_rows(4, ["train-1"]))
    (run,) = load_training_runs([tmp_path], growing=True)
    assert (run.unread, len(run.groups)) == ([], 7)


def test_what_has_nothing_to_report_says_why(tmp_path):
    assert load_training_runs([tmp_path]) == []
    with pytest.raises(FileNotFoundError, match="There is no evaluation in"):
        check_logged(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("lambda1: 0.1")
    assert load_training_runs([tmp_path]) == []
    with pytest.raises(FileNotFoundError, match="has logged a step with rewards yet"):
        check_logged(tmp_path)


def test_weights_are_told_in_words():
    assert weigh_rewards(PAPER, []).origin == "0.8 accuracy + 0.05 consistency + 0.05 coherence + 0.1 format"
    config = {"rewards": ["think_format"], "multi_objective_aggregation": "normalize_then_sum"}
    assert weigh_rewards(config, []).origin.startswith("1 format, each normalised")


@pytest.mark.parametrize(
    "text", ["reward_variant: pap", "reward_variant: paper\nlambda1:", "rewards: [1, 2]", "rewards: ["]
)
def test_a_damaged_configuration_is_named(tmp_path, text):
    folder = write_rollouts(tmp_path / "mine")
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml' cannot be read"):
        load_training_runs([folder])

"""recipes/grpo.py with a reward in a file of the user's: it trains, is logged and planned, and is part of the run."""

import json
from pathlib import Path

import pytest
import yaml
from forking import run_forked
from recipe_commands import ENVIRONMENT, command, finish

OWN = """
import json
from pathlib import Path


def brief(completions, coherence_answer, emotion, **columns):
    rewards = [len(completion[0]["content"]) % 5 / 4 for completion in completions]
    with Path("earned.jsonl").open("a") as file:
        file.write(json.dumps([rewards, coherence_answer, emotion]) + "\\n")
    return rewards
"""


def train(folder: Path, model: Path, **settings: object) -> list[str]:
    """Write the reward, and return the command of two steps that earn it, from a YAML."""
    (folder / "my_rewards.py").write_text(OWN)
    arguments = command(folder, "grpo", model, "run")
    names = ["accuracy", "format", "my_rewards.py:brief"]
    config = yaml.safe_load(Path(arguments[arguments.index("--config") + 1]).read_text())
    config |= {"rewards": names, "reward_weights": [0.5, 0.25, 2.0], "use_vllm": False, "logging_steps": 1} | settings
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    arguments[arguments.index("--config") + 1] = "run.yaml"
    arguments[arguments.index("--max_steps") + 1] = "2"
    arguments[arguments.index("--save_steps") + 1] = "1"
    return arguments


def refuse(arguments: list[str], folder: Path) -> str:
    """Return the one line that a command ends with."""
    done = run_forked(arguments, folder, ENVIRONMENT, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("grpo.py: error: ")]
    return line


@pytest.mark.slow
@pytest.mark.slow
def test_a_run_earns_an_own_reward_and_a_changed_one_makes_another_run(tmp_path: Path, tiny_model_dir: Path) -> None:
    arguments = train(tmp_path, tiny_model_dir)
    planned = finish([*arguments, "--plan"], tmp_path).stdout
    assert "rewards      0.5 accuracy + 0.25 format + 2 brief (my_rewards.py:brief)" in planned
    assert not (tmp_path / "run").exists()
    finish(arguments, tmp_path)

    batches = [json.loads(line) for line in (tmp_path / "earned.jsonl").read_text().splitlines()]
    log = json.loads((tmp_path / "run/trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in log if "reward" in entry]
    assert [entry["step"] for entry in steps] == [1, 2]
    for entry, (rewards, answers, emotions) in zip(steps, batches, strict=True):
        brief = sum(rewards) / len(rewards)
        assert entry["rewards/brief/mean"] == pytest.approx(brief)
        accuracy, form = entry["rewards/accuracy_reward/mean"], entry["rewards/format_reward/mean"]
        assert entry["reward"] == pytest.approx(0.5 * accuracy + 0.25 * form + 2.0 * brief)
        assert "reflection/requests" in entry  # brief has an answer of the reflection as a parameter
        assert len(answers) == len(rewards) == len(emotions)
    recorded = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert recorded["rewards"] == ["accuracy", "format", "my_rewards.py:brief"]

    (tmp_path / "run/metrics.json").unlink()  # stopped before its end
    (tmp_path / "my_rewards.py").write_text(OWN.replace("% 5", "% 3"))
    line = refuse(arguments, tmp_path)
    assert "holds an unfinished run of another configuration; different: the reward file my_rewards.py changed." in line
    (tmp_path / "my_rewards.py").write_text(OWN)
    assert "resuming from checkpoint-2" in finish(arguments, tmp_path).stdout


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        pytest.param("torn.py:brief", "'torn.py', line 3 cannot be run: NameError", id="file"),
        pytest.param(
            "tinted.py:brief", "'brief' needs colour, which is no column of the training data (id,", id="column"
        ),
    ],
)
def test_a_reward_that_cannot_be_used_is_one_line_before_a_model_loads(
    tmp_path: Path, tiny_model_dir: Path, reward: str, expected: str
) -> None:
    arguments = train(tmp_path, tiny_model_dir, rewards=["accuracy", reward], reward_weights=None)
    (tmp_path / "torn.py").write_text("\n\n" + "undefined\n")
    (tmp_path / "tinted.py").write_text("def brief(completions, colour, **columns): ...")
    assert expected in refuse(arguments, tmp_path)
    assert not (tmp_path / "run").exists()

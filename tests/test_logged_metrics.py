"""What short real trainings log is what docs/METRICS.md explains, and nothing else."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from training import cold_start_trainer, logged, spread_only_on, tiny_dataset, tiny_trainer
from wandb_files import find_run_files, read_history

from emor3_trl.evaluation.metrics import average_accuracies, summarise_predictions
from emor3_trl.evaluation.prediction import read_completion
from emor3_trl.evaluation.validation import Validation
from emor3_trl.logged_metrics import LoggedMetric
from emor3_trl.report.metrics_page import GROUPS, describe_metrics, find_metric, list_metrics
from emor3_trl.report.wandb_dashboard import SECTIONS
from emor3_trl.reproduce.figures import split_step
from emor3_trl.rewards import reward_functions

ROOT = Path(__file__).parents[1]
# What tests/diagnostics compares with runs whose probes and faults log all of them
DIAGNOSED = ("diagnostics/", "alarms/")
NOT_METRICS = {"step"}
NO_ENGINE = {"use_vllm": False, "max_steps": 2}


def collect_keys(log: Iterable[dict]) -> set[str]:
    return {key for entry in log for key in entry} - NOT_METRICS


def train_on_vllm(model_dir: Path, folder: Path) -> list[dict]:
    """A run with the paper's rewards, a reference model, validation and dynamic sampling."""
    trainer = tiny_trainer(
        model_dir, folder, max_steps=2, reward_funcs=[spread_only_on("1", "2", "4"), *reward_functions()[0]], beta=0.01,
        dynamic_sampling="spread", dynamic_sampling_tries=2, vllm_gpu_memory_utilization=0.1,
    )  # fmt: skip
    trainer.add_callback(Validation(trainer, {"held_out": tiny_dataset().select(range(2))}, steps=2))
    trainer.train()
    return trainer.state.log_history


def train_on_transformers(model_dir: Path, folder: Path) -> list[dict]:
    """Runs with named rewards, an evaluation split, each loss that logs something of its own, and a contrast."""
    history = []
    trainer = tiny_trainer(
        model_dir, folder, reward_funcs=None, rewards=["accuracy", "coherence", "format"], entropy_coef=0.01,
        reward_weights=[0.8, 0.1, 0.1], eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=4, **NO_ENGINE,
    )  # fmt: skip
    trainer.train()
    history += trainer.state.log_history
    runs: list[dict] = [
        {"loss_type": loss, "beta": beta, "delta": None, "epsilon_high": 5.0}
        for loss, beta in (("cispo", 0.01), ("vespo", 0.01), ("dapo", 0.0))
    ]
    for options in [*runs, {"contrastive_consistency": True, "reward_funcs": None}]:
        trainer = tiny_trainer(model_dir, folder, **{**NO_ENGINE, "max_steps": 1, **options})
        trainer.train()
        history += trainer.state.log_history
    return history


def train_with_wandb(model_dir: Path, folder: Path) -> list[dict]:
    """What an offline run of W&B holds, under the names of the log."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true"}.items():
            patch.setenv(name, value)
        options = {**NO_ENGINE, "max_steps": 1, "report_to": ["wandb"], "log_completions": True}
        for trainer in (
            tiny_trainer(model_dir, folder, num_completions_to_print=0, **options),
            cold_start_trainer(model_dir, folder, max_steps=1, report_to=["wandb"]),
        ):
            trainer.train()
            wandb.finish()
            assert trainer.args.report_to == ["wandb"]
        wandb.teardown()  # waits until everything is written
    history = [entry for file in find_run_files(folder) for entry in read_history(file)]
    entries = [{key.removeprefix("train/"): value for key, value in entry.items()} for entry in history]
    assert any("completions._type" in entry for entry in entries)
    own = ("_", "completions.", "global_step")  # of W&B, of the table, and the axis
    return [{key: value for key, value in entry.items() if not key.startswith(own)} for entry in entries]


def train_cold(model_dir: Path, folder: Path) -> list[dict]:
    trainer = cold_start_trainer(model_dir, folder, max_steps=1)
    trainer.train()
    return trainer.state.log_history


def evaluate(*_: Path) -> list[dict]:
    """The metrics of an evaluation, of completions that a test writes."""
    row = {"id": "1", "emotion": "awe", "label_space": ["awe", "fear"]}
    text = r"<step1>Light.</step1><step2>Wonder.</step2><step3>It is positive.</step3>\boxed{awe}"
    answers = {"completion_tokens": 9, "coherence_answer": "awe", "consistency_answer": "Yes"}
    texts = (text, text.replace("{awe}", "{fear}"))  # one right, one wrong: AUROC needs both
    sure = {**answers, "label_probabilities": [0.75, 0.25]}
    predictions = [replace(read_completion({**row, "id": str(i)}, "toons", texts[i]), **sure) for i in range(2)]
    metrics = summarise_predictions(predictions, predictions)
    return [{**metrics, **average_accuracies({"toons": (2, 2), "emoji": (0, 2)}, ["toons"]), "eval/seconds": 1.0}]


@pytest.fixture(scope="module")
def histories(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    runs = (train_on_vllm, train_on_transformers, train_with_wandb, train_cold, evaluate)
    return {run.__name__: run(tiny_model_dir, tmp_path_factory.mktemp("run")) for run in runs}


@pytest.mark.slow
def test_what_is_logged_is_documented(histories: dict[str, list[dict]]) -> None:
    keys = {key for log in histories.values() for key in collect_keys(log)}
    unknown = sorted(key for key in keys if find_metric(key) is None)
    assert not unknown, f"Logged, and not explained in logged_metrics.py: {', '.join(unknown)}"


@pytest.mark.slow
def test_what_is_documented_is_logged(histories: dict[str, list[dict]]) -> None:
    keys = {key for log in histories.values() for key in collect_keys(log)}
    expected = [metric for metric in list_metrics() if not metric.name.startswith(DIAGNOSED)]
    missing = [metric.name for metric in expected if not any(metric.matches(key) for key in keys)]
    assert not missing, f"Explained, and logged by no run: {', '.join(missing)}"


@pytest.mark.slow
def test_the_parts_of_a_step_add_up_to_it(histories: dict[str, list[dict]]) -> None:
    steps = [entry for log in histories.values() for entry in log if "time/training" in entry]
    assert len(steps) >= 6
    for entry in steps:
        parts = [entry.get(f"time/{part}", 0.0) for part in ("rollout", "reflection", "rewards", "training")]
        assert min(entry["time/rollout"], entry["time/rewards"], entry["time/training"]) > 0
        assert sum(parts) == pytest.approx(entry["step_time"])
    assert split_step([histories["train_on_vllm"]])["reflection"] > 0


def test_a_rollout_for_several_steps_counts_in_each_with_its_share(tiny_model_dir, tmp_path) -> None:
    trainer = tiny_trainer(tiny_model_dir, tmp_path, num_iterations=2, logging_steps=2, **NO_ENGINE)
    trainer.train()
    parts = [logged(trainer, f"time/{part}") for part in ("rollout", "reflection", "rewards", "training")]
    assert [len(values) for values in parts] == [1] * 4
    assert sum(value for (value,) in parts) == pytest.approx(*logged(trainer, "step_time"))


def test_a_name_says_which_keys_it_stands_for() -> None:
    metric = LoggedMetric("eval/<dataset>/accuracy", "share", "", "", "")
    assert metric.matches("eval/toons/accuracy")
    assert not metric.matches("eval/toons/class/accuracy")
    assert not metric.matches("eval/toons/accuracy_low")
    assert find_metric("eval/toons/uar_low") is find_metric("eval/toons/uar")
    assert find_metric("eval_rewards/mine/std") == find_metric("rewards/other/std")
    assert find_metric("no/such/key") is None


def test_the_page_of_metrics_is_the_generated_one() -> None:
    assert (ROOT / "docs" / "METRICS.md").read_text(encoding="utf-8") == describe_metrics()


def test_every_record_says_everything_and_stands_once() -> None:
    for title, (_, metrics) in GROUPS.items():
        names = [metric.name for metric in metrics]
        assert len(set(names)) == len(names), title
        for metric in metrics:
            assert all(vars(metric).values()), metric.name
            assert "|" not in json.dumps(vars(metric)), metric.name


def test_every_panel_draws_documented_metrics() -> None:
    documented = {metric.name for metric in list_metrics()}
    for section, plots in SECTIONS.items():
        for plot in plots:
            assert set(plot.names) <= documented, f"{section}: {plot.title}"

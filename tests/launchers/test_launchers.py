"""The launchers of recipes/accelerate are one trainer: two ranks end with one process's weights, also when resumed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

GAP = "sampling/sampling_logp_difference/mean"
SKIPPED = "rollout/skipped_share"
STEPS, STOP = 4, 2  # three steps are an epoch of seven rows
WITHOUT_IMAGE = {"3", "6"}
SCRIPT = Path(__file__).parent / "ranks.py"
GRPO: dict[str, Any] = {
    "max_steps": STEPS,
    "beta": 0.04,
    "learning_rate": 1e-4,
    "adam_epsilon": 1e-4,  # a step of Adam divides by the gradient: without it, rounding of a zero would be a full step
    "loss_type": "dapo",  # the token mean of all ranks; bnpo takes each rank's own
    "temperature": 0.2,
    # What is drawn depends on the prompt, not on the ranks; a completion ends at each eighth kind of token
    "generation_kwargs": {"seed": 3, "stop_token_ids": list(range(20, 70))},
    "save_strategy": "steps",
    "save_steps": STOP,
    # The groups of the other rows have no advantage, and no forward of their own
    "skip_flat_groups": True,
    "spread": ["0", "2", "3", "4", "6"],
}
COLD_START = {"stage": "cold_start", "num_samples": 5, "max_steps": 4}  # two and a half updates an epoch


def run_launches(jobs: list[dict[str, Any]], folder: Path) -> None:
    """Run launches one after another in one process group, which is killed where it takes too long."""
    launched = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # set by earlier tests' trainers
    environment = {key: value for key, value in os.environ.items() if key not in launched}
    environment |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    log = folder / "launches.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(jobs)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            status = process.wait(timeout=900)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert status == 0, log.read_text()[-9000:]


def describe_launch(config: str | None, model: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Return a launch of `ranks.py`: two ranks of an Accelerate file, or one process without."""
    launch = {"config": config, "ranks": 2 if config else 1, "model": str(model), "folder": str(folder)}
    rows = {} if "stage" in options else {"per_device_train_batch_size": 4 if config else 8}
    return {**launch, "patience": 240, "options": rows | options}


@pytest.fixture(scope="module")
def one_process(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one process, full and LoRA, that no one stopped."""
    folder = tmp_path_factory.mktemp("one_process")
    run_launches(
        [describe_launch(None, tiny_model_dir, folder / way, lora=way == "lora", **GRPO) for way in ("full", "lora")],
        folder,
    )
    return folder


def read_rollouts(*folders: Path) -> list[dict[str, list]]:
    """Return rows and completions of each step, those of all ranks in their order."""
    files = [[json.loads(file.read_text()) for file in sorted(folder.glob("rank_*.json"))] for folder in folders]
    return [
        {key: [value for rank in ranks for value in rank[key]] for key in ("rows", "completions")}
        for steps in files
        for ranks in zip(*steps, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "launcher", "stage"),
    [("ddp", "MULTI_CPU", None), ("zero2", "DEEPSPEED", 2), ("zero3", "DEEPSPEED", 3), ("fsdp2", "FSDP", 2)],
)
def test_two_ranks_that_were_stopped_end_as_one_process(
    config: str, launcher: str, stage: int | None, one_process: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    jobs = []
    for way in ("full", "lora"):
        how = {"lora": way == "lora", **GRPO}
        first, rest = tmp_path / f"{way}-first", tmp_path / f"{way}-rest"
        jobs.append(describe_launch(config, tiny_model_dir, first, stop_after=STOP, **how))
        jobs.append(describe_launch(config, tiny_model_dir, rest, checkpoint=f"{first}/checkpoint-{STOP}", **how))
    jobs.append(describe_launch(config, tiny_model_dir, tmp_path / "cold_start", **COLD_START))
    run_launches(jobs, tmp_path)
    for way in ("full", "lora"):
        folders = tmp_path / f"{way}-first", tmp_path / f"{way}-rest"
        history = json.loads((folders[1] / "history.json").read_text())
        assert (history["launcher"], history["stage"], history["processes"]) == (launcher, stage, 2)
        gaps = [entry[GAP] for entry in history["log"] if GAP in entry]
        assert len(gaps) == STEPS
        assert max(gaps) <= 1e-5
        assert any(entry.get(SKIPPED) for entry in history["log"])
        assert read_rollouts(*folders) == read_rollouts(one_process / way)
        (file,) = folders[1].glob("*model.safetensors")
        found, expected = load_file(file), load_file(one_process / way / file.name)
        if "lm_head.weight" not in expected and "lm_head.weight" in found:  # FSDP2 writes a tied head beside its twin
            assert torch.equal(found.pop("lm_head.weight"), found["model.embed_tokens.weight"])
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            worst = (found[name] - weight).abs().max()
            assert worst <= 1e-5, f"{way}, {name}: {worst}"
    log = json.loads((tmp_path / "cold_start" / "history.json").read_text())["log"]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_runs_have_what_could_part_the_ranks(one_process: Path) -> None:
    rollouts = read_rollouts(one_process / "full")
    assert len(rollouts) == STEPS
    without = [[row in WITHOUT_IMAGE for row in rollout["rows"][::4]] for rollout in rollouts]
    assert [False, True] in without  # the second rank without an image, then the first
    assert [True, False] in without
    lengths = [[len(ids) for ids in rollout["completions"]] for rollout in rollouts]
    assert any(set(step[:4]) != set(step[4:]) for step in lengths)
    log = json.loads((one_process / "full" / "history.json").read_text())["log"]
    skipped = [entry[SKIPPED] for entry in log if SKIPPED in entry]
    assert {0.0, 0.5} <= set(skipped)
    folder = one_process / "full"
    start, end = (load_file(place / "model.safetensors") for place in (folder / f"checkpoint-{STOP}", folder))
    assert max((end[name] - start[name]).abs().max() for name in end) > 1e-4  # ten times what may differ

"""The ranks of several launches, one after another, forked from one process that has imported everything.

Run as a script, with a JSON list of launches: each is what `accelerate launch` would start, but a start of Python and
an import of torch, TRL and vLLM for each rank. The environment is Accelerate's own, of its own command line.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from accelerate.commands import launch as accelerate_launch
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from datasets import Dataset
from ports import find_free_port
from training import cold_start_trainer, spread_only_on, tiny_dataset, tiny_trainer
from transformers import TrainerCallback
from vllm import LLM

from emor3_trl import EmoR3Trainer

CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"
WITHOUT_IMAGE = (3, 6)
__all__ = ["LLM"]  # imported before the fork: an engine is what takes longest to import


class StopAfter(TrainerCallback):
    """Ends training after a step, with a checkpoint, as a signal does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def mixed_rows() -> Dataset:
    """Return seven rows, two without an image: rollouts of two prompts leave one over, and no prompts are alike."""
    rows = tiny_dataset().select(range(7)).to_list()
    for number, row in enumerate(rows):
        row["prompt"][0]["content"] = f"Photo {number}. {row['prompt'][0]['content']}"
        row["image"] = None if number in WITHOUT_IMAGE else row["image"]
    return Dataset.from_list(rows, features=tiny_dataset().features)


def launch_environment(config: str | None, ranks: int) -> dict[str, str]:
    """Return what `accelerate launch --config_file recipes/accelerate/<config>.yaml` gives to its ranks on a CPU."""
    if config is None:
        return {}
    options = ["--config_file", str(CONFIGS / f"{config}.yaml"), "--num_processes", str(ranks)]
    options += ["--mixed_precision", "no", "--num_cpu_threads_per_process", "1", "train.py"]
    arguments = accelerate_launch.launch_command_parser().parse_args([*options])
    arguments.main_process_port = find_free_port()
    arguments, defaults, _ = accelerate_launch._validate_launch_command(arguments)
    if not arguments.use_deepspeed:
        return dict(prepare_multi_gpu_env(arguments))
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return dict(prepare_deepspeed_cmd_env(arguments)[1])


def train(model_dir: str, folder: Path, options: dict[str, Any]) -> None:
    """Train as one rank; the main one writes the log, each of GRPO the rows and completions that it had at each step.

    Args:
        model_dir: the model, which the trainer loads itself, as the recipes let it.
        folder: the run's folder.
        options: of the trainer, and `stage` ("grpo" or "cold_start"), `checkpoint` to go on from, `stop_after` a step,
            `spread`: the rows whose completions earn unequal rewards.
    """
    stage, checkpoint = options.pop("stage", "grpo"), options.pop("checkpoint", None)
    stop_after = options.pop("stop_after", None)
    if stage == "cold_start":
        trainer = cold_start_trainer(Path(model_dir), folder, **options)
    else:
        loaded = {"model": model_dir, "model_init_kwargs": {"dtype": "float32"}, "rows": mixed_rows()}
        loaded["reward_funcs"] = spread_only_on(*options.pop("spread"))
        trainer = tiny_trainer(Path(model_dir), folder, **loaded, **options)
        record_rollouts(trainer, folder)
    if stop_after:
        trainer.add_callback(StopAfter(stop_after))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(folder))
    if trainer.accelerator.is_main_process:
        state = trainer.accelerator.state
        zero, fsdp = state.deepspeed_plugin, getattr(state, "fsdp_plugin", None)
        history = {
            "launcher": str(state.distributed_type).removeprefix("DistributedType."),
            "stage": (zero and zero.zero_stage) or (fsdp and fsdp.fsdp_version),
            "processes": trainer.accelerator.num_processes,
            "log": trainer.state.log_history,
        }
        (folder / "history.json").write_text(json.dumps(history))


def record_rollouts(trainer: EmoR3Trainer, folder: Path) -> None:
    """Write the rows and the completions of this rank at each step, when they are there."""
    rollouts: list[dict[str, Any]] = []
    generate = trainer._generate_single_turn

    def recorded(*arguments: Any, **keywords: Any) -> tuple:
        completion_ids, log_probs = generate(*arguments, **keywords)
        rows = [row["id"] for row in trainer.rollout.rows]
        rollouts.append({"rows": rows, "completions": [list(ids) for ids in completion_ids]})
        (folder / f"rank_{trainer.accelerator.process_index}.json").write_text(json.dumps(rollouts))
        return completion_ids, log_probs

    trainer._generate_single_turn = recorded


def take_cpus_for_accelerators() -> None:
    """Let Accelerate shard on CPUs by gloo: it reads the settings of FSDP on accelerators alone."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)


def fork_rank(job: dict[str, Any], rank: int, environment: dict[str, str]) -> int:
    """Return the process id of a rank, whose output goes into a file of the run's folder."""
    folder = Path(job["folder"])
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(folder / f"rank_{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(environment)
        if job["ranks"] > 1:
            os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(job["ranks"])})
        torch.set_num_threads(1)
        if environment.get("ACCELERATE_USE_FSDP") == "true":
            take_cpus_for_accelerators()
            job["options"]["use_cpu"] = False
        if environment.get("ACCELERATE_USE_DEEPSPEED") == "true":  # on a CPU, Accelerate leaves this to the ranks
            import deepspeed

            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo does; this would be compiled first
            deepspeed.init_distributed(dist_backend="gloo")
        train(job["model"], folder, dict(job["options"]))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # what the parent would do at its end is not the child's


def run_launch(job: dict[str, Any]) -> str | None:
    """Run the ranks of a launch, and return what went wrong; none outlives it.

    Args:
        job: `config` (of `recipes/accelerate`, or None), `ranks`, `model`, `folder`, `options`, `patience` in seconds.
    """
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**launch_environment(job["config"], job["ranks"]), "DS_ACCELERATOR": "cpu"}
    if job["ranks"] > 1:
        environment |= {"WORLD_SIZE": str(job["ranks"]), "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(find_free_port())
    children = {fork_rank(job, rank, environment): rank for rank in range(job["ranks"])}
    limit, fault = time.monotonic() + job["patience"], None
    while children and fault is None:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            rank = children.pop(child)
            if status:
                fault = f"rank {rank} ended with status {status}"
        elif time.monotonic() > limit:
            fault = f"it hung: ranks {sorted(children.values())} were not done after {job['patience']} s"
        else:
            time.sleep(0.02)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if fault is None:
        return None
    logs = [f"--- rank {rank}\n{(folder / f'rank_{rank}.log').read_text()[-2500:]}" for rank in range(job["ranks"])]
    return "\n".join([f"{folder.name} with {job['config']}: {fault}", *logs])


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        fault = run_launch(job)
        if fault:
            raise SystemExit(fault)

"""A SLURM of one machine: `sbatch`, `srun`, `scancel` and `scontrol` as programs, and the scheduler of submitted jobs.

It stands in for SLURM alone: a job's script runs for real, on as many "nodes" of this machine as it asks for.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def install_slurm(folder: Path) -> dict[str, str]:
    """Put the programs into a folder, and return the variables that let a shell find them and this Python."""
    programs, queue = folder / "programs", folder / "queue"
    for place in (programs, queue):
        place.mkdir(parents=True)
    for name in PROGRAMS:
        file = programs / name
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {name} "$@"\n')
        file.chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"PATH": path, "SLURM_STAND_IN": str(queue)}


def run_jobs(environment: dict[str, str], watch: Callable[[dict[str, Any], subprocess.Popen], None]) -> list[str]:
    """Run the submitted jobs in the order of their dependencies, again where one was requeued.

    Args:
        environment: with what `install_slurm` returned.
        watch: gets each job and its script's process as it starts, and may send it a signal.

    Returns:
        The name and exit code of each start, as "name: code".
    """
    queue, starts, done = Path(environment["SLURM_STAND_IN"]), [], set()
    jobs = [json.loads(file.read_text()) for file in sorted(queue.glob("*.json"))]
    while jobs:
        job = next((job for job in jobs if not job["after"] or job["after"] in done), None)
        if job is None:
            return [*starts, *(f"{job['name']}: DependencyNeverSatisfied" for job in jobs)]
        variables = {
            "SLURM_JOB_ID": job["id"],
            "SLURM_JOB_NUM_NODES": str(job["nodes"]),
            "SLURM_JOB_NODELIST": f"node[1-{job['nodes']}]",
            "SLURM_GPUS_ON_NODE": str(job["gpus"]),
            "SLURM_CPUS_PER_TASK": job["cpus"],
            "SLURM_SUBMIT_DIR": job["folder"],
        }
        with (
            (queue / f"{job['name']}.log").open("a") as log,
            subprocess.Popen(
                ["bash", job["script"], *job["arguments"]],
                env={**environment, **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                watch(job, process)
                code = process.wait(timeout=400)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        starts.append(f"{job['name']}: {code}")
        requeued = queue / f"{job['id']}.requeued"
        if requeued.exists():
            requeued.unlink()
            continue
        jobs.remove(job)
        if code == 0:
            done.add(job["id"])
    return starts


def sbatch(arguments: list[str], queue: Path) -> int:
    """Write the job down and print its number; `#SBATCH` lines of the script count where the call says nothing."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--parsable", action="store_true", required=True)
    parser.add_argument("--job-name")
    parser.add_argument("--dependency", default="")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=1)
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--partition")
    for name in ("ntasks-per-node", "ntasks", "cpus-per-task", "time", "signal", "open-mode", "output"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--requeue", action="store_true")
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    script = next(argument for argument in arguments if Path(argument).is_file())
    options = re.findall(r"^#SBATCH (\S+)", Path(script).read_text(), re.MULTILINE)
    job = parser.parse_args([*options, *arguments])
    number = str(len(list(queue.glob("*.json"))) + 1)
    (queue / f"{number}.json").write_text(
        json.dumps({
            "id": number, "name": job.job_name, "after": job.dependency.removeprefix("afterok:"), "nodes": job.nodes,
            "gpus": job.gpus_per_node, "cpus": job.cpus_per_task, "partition": job.partition, "signal": job.signal,
            "requeue": job.requeue, "script": job.script, "arguments": job.arguments, "folder": os.getcwd(),
        })
    )  # fmt: skip
    print(number)
    return 0


def srun(arguments: list[str], queue: Path) -> int:
    """Start the command once on each node, and end them all when one fails, or at once on SIGTERM, which none sees."""
    command = arguments[[argument.startswith("-") for argument in arguments].index(False) :]
    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(node)}) for node in range(nodes)]
    running = queue / f"{os.environ['SLURM_JOB_ID']}.tasks"
    running.write_text(" ".join(str(task.pid) for task in tasks))

    def kill_all(*_: Any) -> None:
        for task in tasks:
            task.kill()

    signal.signal(signal.SIGTERM, kill_all)
    while any(task.poll() is None for task in tasks):
        if any(task.poll() for task in tasks) and "--kill-on-bad-exit=1" in arguments:
            time.sleep(30)  # as long as SLURM's KillWait
            kill_all()
        time.sleep(0.05)
    running.unlink()
    return max(abs(task.returncode) for task in tasks)


def scancel(arguments: list[str], queue: Path) -> int:
    """`--signal=TERM <job>` sends the signal to what the job's `srun` has started, and not to the job's script."""
    option, job = arguments
    tasks = queue / f"{job}.tasks"
    for task in tasks.read_text().split() if tasks.exists() else ():
        os.kill(int(task), signal.Signals[f"SIG{option.removeprefix('--signal=')}"])
    return 0


def scontrol(arguments: list[str], queue: Path) -> int:
    """`show hostnames` prints this machine for each node; `requeue` marks a job."""
    if arguments[:2] == ["show", "hostnames"]:
        print("\n".join(["127.0.0.1"] * int(os.environ["SLURM_JOB_NUM_NODES"])))
        return 0
    if arguments[0] == "requeue":
        (queue / f"{arguments[1]}.requeued").touch()
        return 0
    return 1


PROGRAMS = {"sbatch": sbatch, "srun": srun, "scancel": scancel, "scontrol": scontrol}

if __name__ == "__main__":
    raise SystemExit(PROGRAMS[sys.argv[1]](sys.argv[2:], Path(os.environ["SLURM_STAND_IN"])))

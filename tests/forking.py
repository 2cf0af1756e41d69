"""Commands in processes forked from one that has imported what takes longest: torch, TRL, vLLM and W&B.

Each starts as a command does, with an environment, a folder and outputs of its own, but 5 to 10 seconds earlier.
tests/launchers, and all tests that send signals, start Python anew as users do.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["trl.trainer.grpo_trainer", "vllm.entrypoints.llm", "wandb"])


def start_forked(
    script: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], outputs: Sequence[Path]
) -> ForkServerProcess:
    """Start `python script arguments` in a folder.

    Args:
        script: a file.
        arguments: its own.
        folder: to start it in.
        environment: all of it.
        outputs: files for what it prints, and for its errors.
    """
    process = FORKING.Process(target=_become, args=(script, list(arguments), folder, dict(environment), outputs))
    process.start()
    return process


def run_forked(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess:
    """Do what `subprocess.run(command, ..., capture_output=True, text=True)` does, if the command starts a script."""
    python, script, *arguments = command
    assert python == sys.executable
    assert script.endswith(".py")
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [Path(scratch) / name for name in ("printed", "errors")]
        process = start_forked(script, arguments, folder, environment, outputs)
        wait_for([process], timeout)
        printed, errors = (output.read_text() if output.is_file() else "" for output in outputs)
    return subprocess.CompletedProcess(command, process.exitcode, printed, errors)


def wait_for(processes: Sequence[ForkServerProcess], timeout: float) -> None:
    """Wait until all processes end, or one fails: the others might wait for it. Kill what is left then."""
    limit = time.monotonic() + timeout
    while any(process.is_alive() for process in processes) and not any(process.exitcode for process in processes):
        if time.monotonic() > limit:
            break
        time.sleep(0.05)
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def _become(
    script: str, arguments: list[str], folder: Path, environment: dict[str, str], outputs: Sequence[Path]
) -> None:
    for descriptor, output in zip((1, 2), outputs, strict=True):
        with output.open("a") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv, sys.path[0] = [script, *arguments], str(Path(script).parent)
    sys.path[1:1] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    gc.freeze()  # what the server has imported
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a forked process leaves them out
        sys.stdout.flush()
        sys.stderr.flush()

"""The grid is run cell by cell: what is finished is kept, and what fails is shown and does not stop the rest."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from emor3_trl.files import write_text
from emor3_trl.reproduce.cells import JUDGING, RECIPES, Cell, Command
from emor3_trl.reproduce.estimates import Estimates, format_seconds

STOPPED = 128 + signal.SIGTERM  # exit code
JUDGED_BY = ["-m", "emor3_trl.reproduce.judging"]
LAST_LINES = 8  # of the log of a cell that failed
# What a parent's launch leaves in the environment would make a recipe take itself for one of its processes
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Failure:
    """A cell that did not end.

    Args:
        cell: the cell.
        reason: what failed, in a line.
        log: the file that tells more.
        lines: its last lines.
    """

    cell: Cell
    reason: str
    log: Path | None = None
    lines: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the failure as text for a terminal."""
        shown = [f"FAILED {self.cell.title}: {self.reason}", *(f"    | {line}" for line in self.lines)]
        return "\n".join([*shown, f"    log: {self.log}"] if self.log else shown)


@dataclass
class Grid:
    """Runs cells.

    Args:
        cells: what to run, each after what it needs.
        recipes: the folder of recipes.
        estimates: how long a cell takes.
        accelerate: the file that `accelerate launch` starts a training with.
        jobs: cells at once.
        overwrite: replace what another configuration left.
        say: prints a line.
    """

    cells: Sequence[Cell]
    recipes: Path
    estimates: Estimates
    accelerate: str | None = None
    jobs: int = 1
    overwrite: bool = False
    say: Callable[[str], None] = print
    failures: list[Failure] = field(default_factory=list)
    _done: set[Path] = field(default_factory=set)
    _waiting: dict[Path, list[Command]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _running: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    _is_stopping: bool = False

    def run(self) -> list[Failure]:
        """Run what is not finished, and return what failed.

        Ctrl-C, and SIGTERM where it is raised, stop the recipes too, which keep what they have; a second kills them.
        """
        self._waiting = {cell.folder: cell.list_waiting() for cell in self.cells}
        self._done = {folder for folder, waiting in self._waiting.items() if not waiting}
        if self._done:
            self.say(f"{len(self._done)} of {len(self.cells)} cells are finished already")
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                self._run_all(pool)
            except BaseException:
                self._stop(pool)
                raise
        return self.failures

    def _run_all(self, pool: ThreadPoolExecutor) -> None:
        """Run as many cells at once as there are jobs; one that waits for another takes no job meanwhile."""
        to_start = [cell for cell in self.cells if cell.folder not in self._done]
        running: dict[Future[None], Cell] = {}
        while to_start or running:
            to_come = {cell.folder for cell in (*to_start, *running.values())}
            ready = [cell for cell in to_start if not (cell.needs and cell.needs.folder in to_come)]
            for cell in ready[: self.jobs - len(running)]:
                running[pool.submit(self._run_cell, cell)] = cell
                to_start.remove(cell)
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                del running[future]
                future.result()

    def _stop(self, pool: ThreadPoolExecutor) -> None:
        """Start no further recipe, and wait for those that run to save what they have."""
        with self._lock:
            self._is_stopping = True
            running = list(self._running)
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.terminate()
        try:
            for process in running:
                process.wait()
        except BaseException:
            for process in running:
                process.kill()
            raise

    def _run_cell(self, cell: Cell) -> None:
        """Run one cell, and say how it went and how much is left."""
        start = time.monotonic()
        try:
            failure = self._try_cell(cell)
        except OSError as error:
            failure = Failure(cell, f"{error.strerror or error}: '{error.filename or cell.folder}'")
        if not self._is_stopping:
            self._end(cell, failure, time.monotonic() - start)

    def _try_cell(self, cell: Cell) -> Failure | None:
        """Run the recipes of a cell that have not ended, and return how it failed."""
        if cell.needs and cell.needs.folder in {failure.cell.folder for failure in self.failures}:
            return Failure(cell, f"it starts from {cell.needs.title}, which failed")
        waiting, log = cell.list_waiting(), cell.folder / "log.txt"
        self.say(f"{cell.title}: about {format_seconds(self.estimates.estimate(cell, waiting))}, log: {log}")
        for command in waiting:
            code = self._run_command(cell, command)
            if self._is_stopping:
                return None
            if code or not command.finished.is_file():
                reason = f"{RECIPES[command.kind]} ended with exit code {code}"
                reason += "" if code else f", but without '{command.finished}'"
                return Failure(cell, reason, log, read_last_lines(log))
        return None

    def _run_command(self, cell: Cell, command: Command) -> int:
        """Run one recipe with its output in the cell's log, note it in the cell's record, and return its exit code."""
        digest, has_results = cell.digest(command), command.has_results()
        record: dict[str, Any] = {"title": cell.title, "commands": cell.read_record().get("commands", {})}
        earlier = record["commands"].get(command.kind, {}).get("digest")
        is_other = has_results and earlier != digest
        replaces = self.overwrite and is_other
        # A folder stays another run's until this one has ended: until then --overwrite has something to replace
        started = digest if not is_other else None if replaces else earlier
        run = record["commands"][command.kind] = {"digest": started, "exit_code": None}
        cell.write_record(record)
        start = time.monotonic()
        code = self._call_recipe(cell, command, replaces)
        run |= {"exit_code": code, "seconds": round(time.monotonic() - start, 1)}
        if code == 0:  # of a run that was resumed, or had nothing to do, the seconds are not the whole
            run |= {"digest": digest, "is_whole": replaces or not has_results}
        cell.write_record(record)
        return code

    def _call_recipe(self, cell: Cell, command: Command, replaces: bool) -> int:
        config = cell.folder / f"{command.kind}.yaml"
        write_text(config, yaml.safe_dump(command.values, sort_keys=False, allow_unicode=True))
        launcher = [sys.executable]
        if self.accelerate and command.kind not in ("evaluation", JUDGING):
            launcher += ["-m", "accelerate.commands.launch", "--config_file", self.accelerate]
        started = JUDGED_BY if command.kind == JUDGING else [str(self.recipes / RECIPES[command.kind])]
        arguments = [*launcher, *started, "--config", str(config)]
        arguments += ["--overwrite", "true"] if replaces else []
        with (cell.folder / "log.txt").open("ab") as log:
            log.write(f"\n$ {' '.join(arguments)}\n".encode())
            log.flush()
            with self._lock:
                if self._is_stopping:
                    return STOPPED
                process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=share_machine(self.jobs),
                )
                self._running.add(process)
            code = process.wait()
        with self._lock:
            self._running.discard(process)
        return code

    def _end(self, cell: Cell, failure: Failure | None, seconds: float) -> None:
        """Note how a cell ended, and say how much is left."""
        with self._lock:
            if failure:
                self.failures.append(failure)
                self.say(failure.describe())
            else:
                self._done.add(cell.folder)
                self.estimates.learn(cell)
            ended = self._done | {failure.cell.folder for failure in self.failures}
            left = [other for other in self.cells if other.folder not in ended]
            to_come = sum(self.estimates.estimate(other, self._waiting[other.folder]) for other in left) / self.jobs
            self.say(
                f"[{len(self._done)}/{len(self.cells)}] {cell.title} "
                f"{'failed' if failure else f'finished in {format_seconds(seconds)}'}; "
                f"about {format_seconds(to_come)} left"
            )


def share_machine(jobs: int) -> dict[str, str]:
    """Return the variables of a recipe that is one of so many at once: it gets its share of the cores."""
    variables = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    if jobs > 1:
        variables["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    return variables


def read_last_lines(log: Path) -> tuple[str, ...]:
    """Return the last lines of a log as a terminal would show them."""
    lines = log.read_text(errors="replace").rstrip().splitlines()[-LAST_LINES:]
    return tuple(line.split("\r")[-1][:300] for line in lines)

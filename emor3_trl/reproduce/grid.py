"""The grid is run cell by cell: what is finished is kept, and what fails is shown and does not stop the rest."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from emor3_trl.files import write_text
from emor3_trl.reproduce.cells import RECIPES, Cell, Command
from emor3_trl.reproduce.estimates import Estimates, format_seconds

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
    _lock: Lock = field(default_factory=Lock)

    def run(self) -> list[Failure]:
        """Run what is not finished, and return what failed."""
        digests = {cell.folder: cell.digest() for cell in self.cells}
        self._done = {cell.folder for cell in self.cells if cell.is_finished(digests[cell.folder])}
        if self._done:
            self.say(f"{len(self._done)} of {len(self.cells)} cells are finished already")
        futures: dict[Path, Future[bool]] = {}
        with ThreadPoolExecutor(self.jobs) as pool:  # a cell starts after what it needs, which stands before it
            for cell in self.cells:
                if cell.folder not in self._done:
                    needed = futures.get(cell.needs.folder) if cell.needs else None
                    futures[cell.folder] = pool.submit(self._run_cell, cell, needed)
            try:
                for future in futures.values():
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return self.failures

    def _run_cell(self, cell: Cell, needed: "Future[bool] | None") -> bool:
        """Run one cell, and say how it went and how much is left."""
        if needed is not None and not needed.result():
            return self._end(cell, Failure(cell, f"it starts from {cell.needs and cell.needs.title}, which failed"))
        self.say(f"{cell.title}: about {format_seconds(self.estimates.estimate(cell))}, log: {cell.folder / 'log.txt'}")
        digest, earlier = cell.digest(), cell.read_record()
        is_other = earlier.get("digest") not in (None, digest)
        replaces = self.overwrite and is_other
        # The digest of another run stays until this one has ended: until then --overwrite has something to replace
        record: dict[str, Any] = {"title": cell.title, "digest": earlier["digest"] if is_other else digest}
        record["commands"] = {} if is_other else earlier.get("commands", {})
        for command in cell.commands:
            ran = record["commands"].get(command.kind, {})
            if ran.get("exit_code") == 0 and command.finished.is_file():
                continue
            start = time.monotonic()
            code = self._run_command(cell, command, replaces)
            record["commands"][command.kind] = {"exit_code": code, "seconds": round(time.monotonic() - start, 1)}
            if not code and command is cell.commands[-1]:
                record["digest"] = digest
            cell.write_record(record)
            if code:
                log = cell.folder / "log.txt"
                lines = log.read_text(errors="replace").rstrip().splitlines()[-LAST_LINES:]
                reason = f"{RECIPES[command.kind]} ended with exit code {code}"
                return self._end(cell, Failure(cell, reason, log, tuple(line.split("\r")[-1][:300] for line in lines)))
        return self._end(cell, None)

    def _run_command(self, cell: Cell, command: Command, replaces: bool) -> int:
        """Run one recipe with its output in the cell's log, and return its exit code."""
        config = cell.folder / f"{command.kind}.yaml"
        write_text(config, yaml.safe_dump(command.values, sort_keys=False, allow_unicode=True))
        launcher = [sys.executable]
        if self.accelerate and command.kind != "evaluation":
            launcher += ["-m", "accelerate.commands.launch", "--config_file", self.accelerate]
        arguments = [*launcher, str(self.recipes / RECIPES[command.kind]), "--config", str(config)]
        arguments += ["--overwrite", "true"] if replaces else []
        with (cell.folder / "log.txt").open("ab") as log:
            log.write(f"\n$ {' '.join(arguments)}\n".encode())
            log.flush()
            return subprocess.call(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self._environment()
            )

    def _environment(self) -> dict[str, str]:
        variables = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
        if self.jobs > 1:
            variables["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.jobs))
        return variables

    def _end(self, cell: Cell, failure: Failure | None) -> bool:
        """Note how a cell ended, and say how much is left."""
        with self._lock:
            if failure:
                self.failures.append(failure)
                self.say(failure.describe())
            else:
                self._done.add(cell.folder)
                self.estimates.learn(cell)
            ended = self._done | {failure.cell.folder for failure in self.failures}
            left = sum(self.estimates.estimate(other) for other in self.cells if other.folder not in ended) / self.jobs
            self.say(
                f"[{len(self._done)}/{len(self.cells)}] {cell.title} "
                f"{'failed' if failure else f'finished in {format_seconds(sum_seconds(cell.read_record()))}'}; "
                f"about {format_seconds(left)} left"
            )
        return failure is None


def sum_seconds(record: dict[str, Any]) -> float:
    """Return what the commands of a cell took."""
    return float(sum(run.get("seconds", 0) for run in record.get("commands", {}).values()))

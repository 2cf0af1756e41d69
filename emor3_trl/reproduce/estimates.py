"""How long the cells of a grid take: measured where such a command has ended, else the scale's guess."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from emor3_trl.reproduce.cells import JUDGING, Cell, Command
from emor3_trl.reproduce.scales import Scale


class Estimates:
    """Seconds of commands.

    Args:
        scale: the scale, whose guesses count until a command has been measured.
        cells: cells whose finished commands are known.
    """

    def __init__(self, scale: Scale, cells: Sequence[Cell]) -> None:
        self.scale = scale
        self._measured: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for cell in cells:
            self.learn(cell)

    def learn(self, cell: Cell) -> None:
        """Take up what the commands of a cell took."""
        for kind, run in cell.read_record().get("commands", {}).items():
            if run.get("exit_code") == 0 and run.get("is_whole", True):
                for key in _list_likenesses(cell, kind):
                    self._measured[key].append(run["seconds"])

    def estimate(self, cell: Cell, commands: Sequence[Command]) -> float:
        """Return the seconds that some commands of a cell take, as measured in cells like it."""
        return sum(self._estimate_command(cell, command) for command in commands)

    def estimate_devices(self, cell: Cell, commands: Sequence[Command]) -> float:
        """Return the seconds that some commands of a cell take, times the devices: one for what trains nothing."""
        count = self.scale.devices["count"]
        return sum(
            self._estimate_command(cell, command)
            * (1 if self.scale.accelerate and command.kind in ("evaluation", JUDGING) else count)
            for command in commands
        )

    def is_measured(self, cell: Cell) -> bool:
        """Return whether every command of a cell, or one like it, has been measured."""
        return all((command.kind,) in self._measured for command in cell.commands)

    def _estimate_command(self, cell: Cell, command: Command) -> float:
        # A judging takes no longer than an evaluation
        kinds = (JUDGING, "evaluation") if command.kind == JUDGING else (command.kind,)
        for key in (key for kind in kinds for key in _list_likenesses(cell, kind)):
            if self._measured.get(key):
                return median(self._measured[key])
        guess = float(self.scale.seconds[kinds[-1]])
        # Seconds are those at G 8; completions, which take most of them, go with G
        return guess * (cell.system.group_size or 8) / 8 if command.kind == "grpo" else guess


def _list_likenesses(cell: Cell, kind: str) -> tuple[tuple[str, ...], ...]:
    """Return what a command of a cell has in common with others, the closest first: its system, its G, its kind."""
    return (cell.system.name, kind), (str(cell.system.group_size), kind), (kind,)


def describe_plan(scale: Scale, cells: Sequence[Cell], estimates: Estimates, steps: Mapping[str, Any]) -> str:
    """Return the cells as a table for a terminal: state, time, what is trained; and the sums.

    Args:
        scale: the scale.
        cells: the cells, in their order.
        estimates: how long they take.
        steps: (optimizer steps, completions) by title of cell; see `budgets.plan_budget`.
    """
    count, kind = scale.devices["count"], scale.devices["kind"]
    lines = [f"{'state':<10}{'time':>10}  {'steps':>6} {'completions':>11}  cell"]
    todo = devices = 0.0
    waiting = {cell.folder: cell.list_waiting() for cell in cells}
    for cell in cells:
        left = waiting[cell.folder]
        seconds = estimates.estimate(cell, left or cell.commands)
        todo += seconds if left else 0
        devices += estimates.estimate_devices(cell, left)
        state = "to run" if len(left) == len(cell.commands) else "to finish" if left else "finished"
        mark = "" if not left or estimates.is_measured(cell) else "~"
        updates, completions = steps.get(cell.title, (None, None))
        counts = [f"{value:,}" if value else "–" for value in (updates, completions)]
        lines.append(f"{state:<10}{mark + format_seconds(seconds):>10}  {counts[0]:>6} {counts[1]:>11}  {cell.title}")
    to_run = [cell for cell in cells if waiting[cell.folder]]
    guessed = any(not estimates.is_measured(cell) for cell in to_run)
    lines += [
        "",
        f"{len(cells)} cells, {len(to_run)} to run: about {format_seconds(todo)} one after the other, "
        f"{devices / 3600:,.1f} {kind} hours ({count} {kind}{'s' if count > 1 else ''})",
    ]
    if guessed:
        lines.append("~ nothing like it has been measured here yet: the guess of the scale's reproduce.yaml")
    return "\n".join(lines)


def format_seconds(seconds: float) -> str:
    """Return a time for people.

    >>> format_seconds(42), format_seconds(150), format_seconds(9000)
    ('42 s', '2.5 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""The tables of finished cells: medians over seeds as in the paper, the spread, and the paper's figure beside."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from emor3_trl.files import read_mapping
from emor3_trl.reproduce.budgets import measure_budget, plan_budget, summarise_budgets
from emor3_trl.reproduce.cells import Cell, list_rows
from emor3_trl.reproduce.paper import PAPER, average_columns
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.systems import BASELINE, SYSTEMS, TABLES, System

ColumnName = tuple[str, str]  # (trained on, tested on)
# Accuracy in percent by cell of the grid, (system, trained on, seed), and data set
Accuracies = Mapping[tuple[str, str | None, int], Mapping[str, float]]


def read_accuracies(
    cells: Sequence[Cell], datasets: Sequence[str]
) -> dict[tuple[str, str | None, int], dict[str, float]]:
    """Return the accuracies of the finished cells in percent."""
    accuracies = {}
    for cell in cells:
        if cell.is_finished():
            metrics = read_mapping(cell.commands[-1].finished, f"Delete '{cell.folder}' and run the grid again.")
            shares = {name: 100 * metrics[f"eval/{name}/accuracy"] for name in datasets}
            accuracies[cell.system.name, cell.train, cell.seed] = shares
    return accuracies


def list_columns(scale: Scale, table: int) -> list[ColumnName]:
    """Return the columns of a table, those of the in-domain test first, as in the paper."""
    trained = scale.list_trainings(table)
    return [(train, test) for train in trained for test in (train, *(name for name in scale.data if name != train))]


def list_averages(table: int) -> tuple[str, ...]:
    """Return the averages over columns that a table shows, as in the paper."""
    return ("A^I", "A^O", "A") if table == 1 else ("A",)


def build_table(scale: Scale, table: int, accuracies: Accuracies, seeds: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Return one table: rows by system, columns by name, each with `median`, `low`, `high`, `seeds` and `paper`.

    Averages are taken of each seed whose columns are all there, and then the median over seeds. A column without a
    finished cell is left out, and so is a row without a column.

    Args:
        scale: the scale.
        table: its number.
        accuracies: of the finished cells.
        seeds: how many were asked for.
    """
    columns, rows = list_columns(scale, table), {}
    for name in TABLES[table]:
        system, cells = SYSTEMS[name], {}
        by_seed = [
            _read_seed(system, columns, accuracies, seed) for seed in range(1, (seeds if system.stage else 1) + 1)
        ]
        for column in columns:
            cells[name_column(column)] = [values[column] for values in by_seed if column in values]
        complete = [average_columns(values) for values in by_seed if len(values) == len(columns)]
        for average in list_averages(table):
            cells[average] = [values[average] for values in complete]
        keys: list[ColumnName | str] = [*columns, *list_averages(table)]
        paper = {name_column(key): _find_paper(scale, table, name, key) for key in keys}
        row = {key: _summarise(values, paper[key]) for key, values in cells.items() if values}
        if row:
            rows[name] = row
    return rows


def name_column(column: ColumnName | str) -> str:
    """Return the key of a column in tables.json.

    >>> name_column(("sketches", "toons")), name_column("A^I")
    ('sketches > toons', 'A^I')
    """
    return column if isinstance(column, str) else " > ".join(column)


def build_tables(scale: Scale, tables: Sequence[int], cells: Sequence[Cell], seeds: int) -> dict[str, Any]:
    """Return what tables.json holds: `{table: {row: {column: …}}}`, and beside the tables `budgets` and `missing`.

    Args:
        scale: the scale.
        tables: the tables that are asked for; others stand in it where they have a row, and nothing of them is missing.
        cells: those of all tables.
        seeds: how many were asked for.
    """
    accuracies = read_accuracies(cells, list(scale.data))
    built = {table: build_table(scale, table, accuracies, seeds) for table in TABLES}
    if built[4].keys() <= {BASELINE}:  # Tables 1 to 3 have run it, which makes no Table 4
        built[4] = {}
    content: dict[str, Any] = {str(table): rows for table, rows in built.items() if rows or table in tables}
    budgets: dict[str, Any] = {}
    for cell in cells:
        if cell.system.stage is not None and (cell.system.name, cell.train, cell.seed) in accuracies:
            planned = plan_budget(cell, scale.count_train_rows(cell.train or ""))
            budgets.setdefault(f"{cell.system.name} on {cell.train}", []).append(measure_budget(cell, planned))
    content["budgets"] = {name: summarise_budgets(filter(None, runs)) for name, runs in sorted(budgets.items())}
    content["missing"] = list_missing(scale, tables, accuracies, seeds)
    return content


def list_missing(scale: Scale, tables: Sequence[int], accuracies: Accuracies, seeds: int) -> list[str]:
    """Return the cells of tables that are not finished, and the systems that the scale does not have."""
    lacking = [SYSTEMS[name].title for number in tables for name in TABLES[number] if not scale.offers(SYSTEMS[name])]
    missing = [f"{title}: this scale has no base model of its family" for title in dict.fromkeys(lacking)]
    for system, train in list_rows(scale, tables):
        wanted = range(1, (seeds if system.stage else 1) + 1)
        absent = [seed for seed in wanted if (system.name, train, seed) not in accuracies]
        if absent:
            place = f" on {train}, seed {', '.join(map(str, absent))}" if train else ""
            missing.append(f"{system.title}{place}: not run, or failed")
    return missing


def format_table(scale: Scale, table: int, rows: Mapping[str, Any], *, markdown: bool = False) -> str:
    """Return a table as text: the median and [low, high] over seeds, the paper's figure in brackets.

    Args:
        scale: the scale.
        table: its number.
        rows: what `build_table` returned.
        markdown: pipes instead of spaces.
    """
    names = [*map(name_column, list_columns(scale, table)), *list_averages(table)]
    grid = [["", *names]]
    for name, row in rows.items():
        grid.append([SYSTEMS[name].title, *(_format_cell(row[key]) if key in row else "–" for key in names)])
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in grid]
        return "\n".join([lines[0], "|" + "---|" * len(grid[0]), *lines[1:]])
    widths = [max(len(row[index]) for row in grid) for index in range(len(grid[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in grid
    )


def _format_cell(cell: Mapping[str, Any]) -> str:
    spread = f" [{cell['low']:.1f}, {cell['high']:.1f}]" if len(cell["seeds"]) > 1 else ""
    paper = f" (paper {cell['paper']:.2f})" if cell["paper"] is not None else ""
    return f"{cell['median']:.1f}{spread}{paper}"


def _read_seed(
    system: System, columns: Sequence[ColumnName], accuracies: Accuracies, seed: int
) -> dict[ColumnName, float]:
    """Return the accuracies of one seed by column; a model as it is has the same in each training's columns."""
    found = {}
    for train, test in columns:
        values = accuracies.get((system.name, train if system.stage else None, seed))
        if values is not None:
            found[train, test] = values[test]
    return found


def _find_paper(scale: Scale, table: int, name: str, key: ColumnName | str) -> float | None:
    paper_key = key if isinstance(key, str) else (scale.stands_for[key[0]], scale.stands_for[key[1]])
    return PAPER.get(table, {}).get(name, {}).get(paper_key)


def _summarise(values: Sequence[float], paper: float | None) -> dict[str, Any]:
    rounded = [round(value, 4) for value in values]
    spread = {"median": round(median(rounded), 4), "low": min(rounded), "high": max(rounded)}
    return {**spread, "seeds": rounded, "paper": paper}

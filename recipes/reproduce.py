"""The paper's Tables 1 to 3 and Figures 3 to 5: every system, training set and seed, from one command.

    python recipes/reproduce.py --table 1 --scale demo --seeds 3
    python recipes/reproduce.py --table 4 --scale demo --seeds 3      # what lies beyond the paper, beside EMO-R3
    python recipes/reproduce.py --scale qwen2_5_vl_3b --plan          # what it would run, how long, and at what cost
    python recipes/reproduce.py --scale demo --write_results          # docs/RESULTS.md from what is finished

A run is a folder, <output_dir>/<scale>/<train>/<system>/seed<k>. The same command again keeps what is finished and goes
on where it was stopped. A run that fails is shown and does not stop the others. <output_dir>/<scale> gets tables.json,
RESULTS.md and the figures. docs/SYSTEMS.md says how the systems differ.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from emor3_trl.files import write_json, write_text
from emor3_trl.printing import escape_controls
from emor3_trl.reproduce.arguments import ReproduceArguments
from emor3_trl.reproduce.beyond import build_beyond, compare_with_paper, measure_costs
from emor3_trl.reproduce.budgets import plan_budget
from emor3_trl.reproduce.cells import Cell, list_cells
from emor3_trl.reproduce.claims import compare_prompts, judge_claims
from emor3_trl.reproduce.estimates import Estimates, describe_plan
from emor3_trl.reproduce.figures import save_figures
from emor3_trl.reproduce.grid import Grid
from emor3_trl.reproduce.judging import list_judgings
from emor3_trl.reproduce.results_page import describe_budgets, place_figures, write_results
from emor3_trl.reproduce.scales import Scale, find_scale, read_scale
from emor3_trl.reproduce.systems import SYSTEMS, TABLES
from emor3_trl.reproduce.tables import build_tables, format_table
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.lock import lock_folder
from emor3_trl.run.recipe import run_recipe, user_errors

RECIPES = Path(__file__).parent


def main() -> None:
    """Parse, list the runs, run what is not finished, then write and print the tables."""
    (args,) = parse_arguments([ReproduceArguments], about=__doc__).arguments
    with user_errors():
        scale = read_scale(find_scale(args.scale, RECIPES / "configs")).move_table_4(args.train_on or ())
        cells = list_cells(scale, args.tables, args.seeds, Path(args.output_dir), args.systems)
        all_cells = list_cells(scale, list(TABLES), args.seeds, Path(args.output_dir))
        if not cells:
            raise ValueError(f"Scale '{scale.name}' has no base model for the rows that are asked for.")
        judgings = list_judgings(scale, all_cells)
        followers = {row.needs.folder: row for row in judgings if row.needs and 4 in args.tables}
        to_run = [row for cell in cells for row in (cell, followers.get(cell.folder)) if row]
        estimates = Estimates(scale, [*all_cells, *judgings])
        if args.plan:
            print(describe_plan(scale, to_run, estimates, plan_budgets(scale, cells)))
            return
        folder = Path(args.output_dir) / scale.name
        if args.write_results and not any(cell.is_finished() for cell in all_cells):
            raise ValueError(f"Nothing in '{folder}' is finished, so there is no result. Leave out --write_results.")
        if not args.write_results:
            scale.check_prepared()
            folder.mkdir(parents=True, exist_ok=True)
            lock_folder(folder)
    failures = []
    if not args.write_results:
        grid = Grid(to_run, RECIPES, estimates, scale.accelerate, args.jobs, args.overwrite, say)
        failures = grid.run()
    with user_errors():
        write_all(scale, args, all_cells, judgings, folder)
    if failures:
        titles = "\n".join(failure.describe() for failure in failures)
        say(f"\n{len(failures)} of {len(to_run)} cells failed; the same command runs them again:\n{titles}")
        raise SystemExit(1)


def plan_budgets(scale: Scale, cells: Sequence[Cell]) -> dict[str, tuple[int, int]]:
    """Return (optimizer steps, completions or examples) of each cell that trains, by its title."""
    budgets = {cell.title: plan_budget(cell, scale.count_train_rows(cell.train or scale.train_on[0])) for cell in cells}
    return {title: (int(budget.steps), int(budget.trained)) for title, budget in budgets.items() if budget}


def write_all(
    scale: Scale, args: ReproduceArguments, cells: Sequence[Cell], judgings: Sequence[Cell], folder: Path
) -> None:
    """Write tables.json, the figures and RESULTS.md of all finished cells, and print the tables that are asked for."""
    content = build_tables(scale, args.tables, cells, args.seeds)
    comparisons = compare_with_paper(scale, cells) if content.get("4") else []
    if comparisons:
        content["beyond"] = build_beyond(comparisons, measure_costs(scale, cells), judgings)
    verdicts = judge_claims(scale, [number for number in TABLES if str(number) in content], cells)
    write_json(folder / "tables.json", content)
    figures = save_figures(scale, cells, folder)
    prompts = compare_prompts(cells)
    page = write_results(scale, content, verdicts, prompts, args.seeds, place_figures(figures, folder), comparisons)
    write_text(folder / "RESULTS.md", page)
    for number in args.tables:
        say(f"\nTable {number}\n{format_table(scale, number, content[str(number)])}")
    asked = [verdict for verdict in verdicts if verdict.claim.table in args.tables]
    say("\n" + "\n".join(f"{verdict.claim.text}: {verdict.judge()}" for verdict in asked))
    if 4 in args.tables:
        say("\n" + "\n".join(f"{SYSTEMS[row.name].title} beside EMO-R3: {row.judge()}" for row in comparisons))
    say(f"\n{describe_budgets(content['budgets'])}")
    if content["missing"]:
        say("\nMissing:\n" + "\n".join(f"- {line}" for line in content["missing"]))
    say(f"\nWritten to {folder}: tables.json, RESULTS.md{''.join(f', {path.name}' for path in figures)}")
    if args.write_results:
        places = [RECIPES.parent / "docs" / f"results_{path.name}" for path in figures]
        for source, target in zip(figures, places, strict=True):
            shutil.copyfile(source, target)
        named = {path.name: target.name for path, target in zip(figures, places, strict=True)}
        page = write_results(scale, content, verdicts, prompts, args.seeds, named, comparisons)
        write_text(RECIPES.parent / "docs" / "RESULTS.md", page)
        say(f"Written to docs: RESULTS.md{''.join(f', {path.name}' for path in places)}")


def say(text: str) -> None:
    """Print without delay and without control characters."""
    print(escape_controls(text), flush=True)


if __name__ == "__main__":
    run_recipe(main)

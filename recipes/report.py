"""Report on runs: one HTML page to look through, and in the terminal a table and three completions to read.

    python recipes/report.py                       # runs/demo
    python recipes/report.py runs/other --baseline base --trained emo_r3_cold_start
    python recipes/report.py runs/one runs/two --page runs/both.html
    python recipes/report.py runs/mine --serve     # watch a run that is training, on this machine only

Reads <run>/evaluation/<model>/, what trainings with rewards logged, and the pictures; writes report.html (for several
folders into the first), and summary.json, rewards.png, examples.txt and example_*.png into each that is evaluated.
--serve writes nothing: it shows the page at http://127.0.0.1:8000 and draws it again when the run's files grow.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emor3_trl.files import write_json, write_text
from emor3_trl.printing import escape_controls
from emor3_trl.report.arguments import ReportArguments
from emor3_trl.report.evaluated import (
    Evaluation,
    choose_in_domain,
    choose_model,
    find_evaluated_runs,
    load_evaluations,
)
from emor3_trl.report.examples import choose_examples, format_example, save_example_images
from emor3_trl.report.page import gather_content, write_page
from emor3_trl.report.reward_plot import plot_rewards
from emor3_trl.report.rollouts import check_logged, list_watched_files, load_training_runs
from emor3_trl.report.serving import serve_page
from emor3_trl.report.terminal import Summary, check_summary, format_calibration, format_table, summarise_run
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.recipe import run_recipe, user_errors


def main() -> None:
    """Parse, gather everything, then write and print."""
    (args,) = parse_arguments([ReportArguments], argv=_folders_first(sys.argv[1:]), about=__doc__).arguments
    runs = [Path(run) for run in dict.fromkeys(args.runs)]
    if args.serve:
        with user_errors():
            find_evaluated_runs(runs)  # names a folder that is not there
            serve_page(lambda: gather_page(runs, args, growing=True)[0], lambda: list_watched_files(runs), args.port)
        return
    with user_errors():
        page, evaluations = gather_page(runs, args)
        evaluated = list(dict.fromkeys(row.run for row in evaluations))
        in_domain = dict(
            zip((row.run for row in evaluations), choose_in_domain(evaluations, args.in_domain), strict=True)
        )
        summaries = {run: summarise_run(run / "evaluation", in_domain[run][0]) for run in evaluated}
        for run, summary in summaries.items():
            check_summary(summary, [row for row in evaluations if row.run == run], in_domain[run][0])
    path = write_page(page, args.page or runs[0] / "report.html")
    for run in evaluated:
        report_on(run, summaries[run], [row for row in evaluations if row.run == run], args, in_domain[run][0])
    groups = f" and {len(page['training']['groups']):,} groups of training" if page["training"]["groups"] else ""
    print(f"To look through: {path} ({path.stat().st_size / 1e6:.1f} MB, {len(page['cases']):,} cases{groups})")


def gather_page(
    runs: Sequence[Path], args: ReportArguments, *, growing: bool = False
) -> tuple[dict[str, Any], list[Evaluation]]:
    """Return what the page shows, and the evaluated models; `growing` files may be half written, or not there yet."""
    evaluated = find_evaluated_runs(runs)
    evaluations = load_evaluations(evaluated) if evaluated else []
    training = load_training_runs(runs, growing=growing)
    for run in [] if growing else runs:
        if run not in evaluated and not any(row.parent == run for row in training):
            check_logged(run)
    page = gather_content(
        evaluations,
        title=", ".join(map(str, runs)),
        training=training,
        in_domain=args.in_domain,
        baseline=args.baseline,
        trained=args.trained,
        data=args.data,
        max_cases=args.max_cases,
    )
    return page, evaluations


def report_on(
    run: Path, summary: Summary, evaluations: Sequence[Evaluation], args: ReportArguments, dataset: str
) -> None:
    """Write and print what there is to say about one folder; examples are of one data set."""
    names = [row.name for row in evaluations]
    before, after = (
        evaluations[choose_model(evaluations, name if name in names else None, usual, otherwise)]
        for name, usual, otherwise in ((args.baseline, "base", 0), (args.trained, "emo_r3", -1))
    )
    examples = choose_examples(before.predictions.get(dataset, []), after.predictions.get(dataset, []))
    shown = "\n\n".join(format_example(example) for example in examples)
    histories = {row.title: row.log for row in evaluations if any("reward" in entry for entry in row.log)}

    write_json(run / "summary.json", summary)
    if histories:
        plot_rewards(histories, run / "rewards.png")
    save_example_images(examples, {dataset: after.find_image_file(dataset, args.data)}, run)
    write_text(run / "examples.txt", shown + "\n")

    tables = "\n\n".join(filter(None, (format_table(summary), format_calibration(summary))))
    print(escape_controls(f"\n{tables}\n\nThree completions of {after.title}:\n\n{shown}\n"))
    files = ["summary.json", "rewards.png", "examples.txt", *(f"example_{example.kind}.png" for example in examples)]
    print(f"Written to {run}: {', '.join(name for name in files if (run / name).is_file())}")


def _folders_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--runs` before folders that stand first."""
    return ["--runs", *arguments] if arguments and not arguments[0].startswith("-") else list(arguments)


if __name__ == "__main__":
    run_recipe(main)

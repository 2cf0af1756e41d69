"""Prepare what the other recipes read: the demo's pictures and the demo's base model.

    python recipes/prepare_data.py                        # draws runs/demo/data, teaches runs/demo/base
    python recipes/prepare_data.py --output_dir runs/other --seed 1

Needs the `demo` extra, no network and no GPU. What is there already is kept, and said so.
"""

import argparse
from pathlib import Path

from emor3_trl.config import cli, user_errors


def main() -> None:
    """Parse, draw the data set, teach the base model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"), help="holds data/ and base/")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures and of the base model")
    args = parser.parse_args()

    with user_errors():
        from emor3_trl.data.demo import write_demo_data
        from emor3_trl.data.demo_model import build_demo_model

        manifest = write_demo_data(args.output_dir / "data", seed=args.seed)
        print("Pictures: " + ", ".join(f"{split} {count}" for split, count in manifest["counts"].items()))
        build_demo_model(args.output_dir / "data", args.output_dir / "base", seed=args.seed)


if __name__ == "__main__":
    cli(main)

"""Prepare what the other recipes read: the demo's pictures and base model, one of the paper's data sets, or your own.

    python recipes/prepare_data.py                                        # the demo: runs/demo/data and runs/demo/base
    python recipes/prepare_data.py --dataset emoset --source downloads/EmoSet-118K --output_dir data/emoset
    python recipes/prepare_data.py --dataset emotion6 --source downloads/Emotion6 --output_dir data/emotion6
    python recipes/prepare_data.py --dataset webemo --source downloads/WebEmo --train 0 --output_dir data/webemo
    python recipes/prepare_data.py --dataset own --source pictures/ --label_space my.yaml --output_dir data/mine

Train and test are drawn with a seed and share no picture. manifest.json says what was drawn and what was dropped, and
why; contact_sheet.png shows it. No GPU is needed. A data set that is prepared already is kept.
"""

from pathlib import Path

from emor3_trl.data.arguments import PreparationArguments, open_source
from emor3_trl.printing import escape_controls
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.recipe import run_recipe, user_errors


def main() -> None:
    """Parse, list the candidates, then draw and write."""
    (args,) = parse_arguments([PreparationArguments], about=__doc__).arguments
    if args.dataset == "demo":
        prepare_demo(Path(args.output_dir), args.seed)
        return
    with user_errors():
        from emor3_trl.data.preparation import prepare
        from emor3_trl.data.sources.candidates import Dropped, describe_dropped

        source = open_source(args)
        print(", ".join(f"{name}: {len(pool):,} candidates" for name, pool in source.pools.items()), flush=True)
        for note in source.notes:
            print(escape_controls(f"Note: {note}"))
        if source.dropped:
            print(escape_controls(f"Left out: {describe_dropped(source.dropped)}"), flush=True)
        manifest = prepare(
            source,
            args.output_dir,
            args.build_sampling(),
            args.build_budget(),
            args.describe_origin(),
            workers=args.workers,
            overwrite=args.overwrite,
        )
    for split, counts in manifest["counts"].items():
        wanted, dropped = manifest["wanted"][split], manifest["dropped"][split]
        short = f" of {wanted:,} wanted: there are no more" if sum(counts.values()) < wanted else ""
        print(f"{split}: {sum(counts.values()):,} pictures{short}, {len(dropped):,} dropped on the way")
        if dropped:
            print(escape_controls(f"  dropped: {describe_dropped([Dropped(**item) for item in dropped])}"))
        print(escape_controls("  " + ", ".join(f"{label} {count}" for label, count in counts.items())))
    files = ", ".join(f"{split}.parquet" for split in manifest["counts"])
    print(f"Written to {args.output_dir}: {files}, manifest.json, contact_sheet.png")


def prepare_demo(output_dir: Path, seed: int) -> None:
    """Draw the demo's three data sets and teach its base model."""
    with user_errors():
        from emor3_trl.data.output_folder import lock_folder
        from emor3_trl.demo.model import build_demo_model
        from emor3_trl.demo.pictures import write_demo_data

        with lock_folder(output_dir):
            manifest = write_demo_data(output_dir / "data", seed=seed)
            for world, counts in manifest["counts"].items():
                print(f"{world}: " + ", ".join(f"{split} {count}" for split, count in counts.items()))
            build_demo_model(output_dir / "data", output_dir / "base", seed=seed)


if __name__ == "__main__":
    run_recipe(main)

"""Is data taken rightly, or refused with the reason, in the forms in which people have it?

    python benchmarks/data_cases.py                  # the project's own made cases, about a minute on two cores
    python benchmarks/data_cases.py FOLDER           # other cases: FOLDER/commands.txt has a command a line

Writes each case as it lies on a disk and runs what people type, each command in a process of its own. The project's own
cases know what is right: the number of images of each split and their emotions, or the words of a refusal. A refusal is
one line of at most 700 characters, hint included. Other cases are listed with what became of them. Figures:
runs/benchmarks/data_cases.json.
"""

import argparse
import json
import multiprocessing
import os
import re
import shlex
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
TIME_LIMIT = 120.0  # seconds


def run_options(options: list[str], folder: Path) -> None:
    """Run the recipe with its output in files. Runs in a process of its own."""
    for descriptor, name in ((1, "out"), (2, "error")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), descriptor)
    sys.path.insert(0, str(REPOSITORY / "recipes"))
    import prepare_data

    from emor3_trl.run.recipe import run_recipe

    sys.argv = ["prepare_data.py", *options]
    code: Any = 0
    try:
        run_recipe(prepare_data.main)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def run_command(options: list[str], folder: Path) -> dict[str, Any]:
    """Run a command; return its exit code, its output, and the counts of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    output = Path(options[options.index("--output_dir") + 1])
    shutil.rmtree(output, ignore_errors=True)
    process = multiprocessing.get_context("fork").Process(target=run_options, args=(options, folder))
    process.start()
    process.join(TIME_LIMIT)
    if process.is_alive():
        process.kill()
        process.join()
    said = (folder / "out").read_text(errors="replace")
    lines = [line.split("\r")[-1] for line in (folder / "error").read_text(errors="replace").split("\n")]
    errors = [
        line for line in lines if line.strip() and not re.search(r"(it|examples|files|picture|ba)/s\b|it\]", line)
    ]
    manifest = output / "manifest.json"
    counts = json.loads(manifest.read_text(encoding="utf-8"))["counts"] if manifest.exists() else None
    return {"code": process.exitcode, "said": said, "errors": errors, "counts": counts}


def run_own_cases(folder: Path) -> list[dict[str, Any]]:
    """Write the project's own cases, run their commands, and return what became of each."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from made_cases import CASES
    from made_cases.judging import SMALL, judge

    results = []
    for number, case in enumerate(CASES):
        root = folder / f"case{number}"
        root.mkdir()
        case.write(root)
        for place, command in enumerate(case.commands):
            options = shlex.split(command.options.replace("{out}", str(root)))
            output = folder / f"out{number}-{place}"
            result = run_command([*options, *SMALL, "--output_dir", str(output)], folder / "log")
            error = "\n".join(result["errors"]) if result["code"] == 2 else None
            verdict = judge(command, output, result["said"], error)
            verdict = verdict if result["code"] in (0, 2) else "ended with a traceback"
            results.append({"case": case.name, "command": command.options, "verdict": verdict, **result})
            if verdict != "right":
                print(f"WRONG: {case.name}: {command.options}\n  {verdict}\n  {result['said']}{result['errors']}")
    return results


def run_other_cases(folder: Path, scratch: Path) -> list[dict[str, Any]]:
    """Run each command of a folder's commands.txt and print what became of it."""
    results, case = [], folder.name
    for line in (folder / "commands.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            case = line.lstrip("# ")
        elif line.strip():
            options = shlex.split(line)[2:]
            result = run_command(options, scratch / "log")
            outcome = "traceback" if result["code"] not in (0, 2) else "taken" if result["counts"] else "refused"
            results.append({"case": case, "command": line, "verdict": outcome, **result})
            said = result["counts"] or " ".join(result["errors"])[:400]
            print(f"{case}: {' '.join(options)[:200]}\n  {outcome}: {said}")
    return results


def format_table(results: list[dict[str, Any]]) -> str:
    """Return the commands of each case by what became of them."""
    verdicts = list(Counter(result["verdict"] for result in results))
    lines = [f"{'case':34}{'commands':>9}{'taken':>7}{'refused':>9}  verdicts"]
    for case in [*dict.fromkeys(result["case"] for result in results), "all"]:
        some = [result for result in results if case in (result["case"], "all")]
        taken = sum(result["counts"] is not None for result in some)
        counts = Counter(result["verdict"] for result in some)
        listed = ", ".join(f"{counts[verdict]} {verdict}" for verdict in verdicts if counts[verdict])
        lines.append(f"{case:34}{len(some):9}{taken:7}{len(some) - taken:9}  {listed}")
    return "\n".join(lines)


def main() -> None:
    """Run the cases, print the table and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of other cases, with commands.txt")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    # Imported once for all processes
    import datasets  # noqa: F401

    import emor3_trl.data.preparation
    import emor3_trl.data.sources.own
    import emor3_trl.run.command_line  # noqa: F401

    with tempfile.TemporaryDirectory() as temporary:
        os.environ["HF_HOME"] = str(Path(temporary) / "cache")
        scratch = Path(temporary)
        results = run_other_cases(args.folder, scratch) if args.folder else run_own_cases(scratch)
    print(format_table(results))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "data_cases.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.output_dir / 'data_cases.json'}")


if __name__ == "__main__":
    main()

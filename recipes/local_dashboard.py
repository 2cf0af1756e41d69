"""The local dashboard of runs that were trained with --report_to trackio: no account, nothing leaves this machine.

    python recipes/grpo.py --config recipes/configs/demo/emo_r3.yaml --report_to trackio
    python recipes/local_dashboard.py runs/demo/emo_r3

It serves trackio's page on the loopback address until Ctrl+C. docs/TRACKING.md says what is on it.
"""

import sys
from pathlib import Path

from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.dashboards import LocalDashboardArguments, check_port, find_database, serve_database
from emor3_trl.run.recipe import run_recipe, user_errors


def main() -> None:
    """Parse, check, serve."""
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--runs", *arguments]
    (args,) = parse_arguments([LocalDashboardArguments], argv=arguments, about=__doc__).arguments
    with user_errors():
        database = find_database(Path(args.runs[0]))
        check_port(args.port)
    serve_database(database, args.port, args.open_browser)


if __name__ == "__main__":
    run_recipe(main)

"""The W&B dashboard of this project, as code: written to a file, and sent with --send.

    python recipes/wandb_dashboard.py --run runs/demo/emo_r3 --evaluation runs/demo/evaluation/emo_r3
    python recipes/wandb_dashboard.py --run runs/mine --entity my-team --send

Its panels are those of the metrics that the run and the evaluation logged; docs/METRICS.md explains each. Nothing
leaves this machine without --send, which needs a key of W&B.
"""

from pathlib import Path

from emor3_trl.report.wandb_dashboard import (
    build_dashboard,
    collect_keys,
    plan_sections,
    read_dashboard,
    write_dashboard,
)
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.dashboards import WandbDashboardArguments, check_sending, send_dashboard
from emor3_trl.run.recipe import run_recipe, user_errors


def main() -> None:
    """Parse, build, write, read back and, if asked to, send."""
    (args,) = parse_arguments([WandbDashboardArguments], about=__doc__).arguments
    with user_errors():
        logged, evaluated = collect_keys(Path(args.run), Path(args.evaluation) if args.evaluation else None)
        sections = plan_sections(logged, evaluated)
        file = Path(args.output or Path(args.run, "wandb_dashboard.json"))
        write_dashboard(build_dashboard(sections, args.project, args.entity or ""), file)
        dashboard = read_dashboard(file)
        panels = {section.name: len(section.panels) for section in dashboard.sections}
        print(f"Written to {file}: {', '.join(f'{name} ({count})' for name, count in panels.items())}")
        if not args.send:
            return
        check_sending()
        print(f"Sent: {send_dashboard(dashboard)}")


if __name__ == "__main__":
    run_recipe(main)

"""How fast is a report of 5,000 cases ready in a browser, how fast does it filter, and what does it weigh?

    python benchmarks/report_page.py                   # about a minute; needs Chromium (make browser)

Four models and three data sets are made up, with a drawn picture per case and completions of realistic length, and two
runs with as many completions of training as a page holds.
Figures: runs/benchmarks/report_page.json.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import SET_FILTER, find_browser, open_browser, open_page  # noqa: E402
from fabricated_run import fabricate  # noqa: E402
from written_rollouts import write_rollouts  # noqa: E402

from emor3_trl.report.evaluated import load_evaluations  # noqa: E402
from emor3_trl.report.page import gather_content, write_page  # noqa: E402
from emor3_trl.report.rollouts import load_training_runs  # noqa: E402

SIZES = {"test": 3_000, "emotion6": 1_000, "webemo": 1_000}
FILTERS = (
    ("Outcome", "changed"), ("Data set", "1"), ("Emotion", "fear"), ("malformed", True), ("Outcome", ""),
    ("malformed", False), ("Emotion", ""), ("Data set", ""), ("To", "3"), ("text", "balloons"), ("text", ""),
)  # fmt: skip
STEPS = 300  # of each of the two runs: more completions than the page shows
ROLLOUT_CHOICES = (("Sort by", "spread"), ("Sort by", "last"), ("Emotion", "joy"), ("Sort by", "disagreement"))
# Runs in the page: sets a control of the training half, and waits until the result has been painted
CHOOSE = """([name, value]) => new Promise((done) => {
  const control = document.querySelector(`#rollouts select[name="${name}"]`);
  const start = performance.now();
  control.value = value;
  control.dispatchEvent(new Event('change', { bubbles: true }));
  requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - start) / 1000)));
})"""


def make_report(folder: Path) -> dict[str, Any]:
    """Write report.html and return how long its parts took and what they weigh."""
    run = fabricate(folder, SIZES)
    for seed, name in enumerate(("emo_r3", "emo_r3_cold_start")):
        write_rollouts(folder / name, STEPS, seed)
    start = time.perf_counter()
    page = gather_content(load_evaluations([run]), title="5,000 cases", training=load_training_runs([run]))
    path = write_page(page, folder / "report.html")
    return {
        "cases": len(page["cases"]),
        "models": len(page["models"]),
        "completions_of_training": sum(len(group["rows"]) for group in page["training"]["groups"]),
        "write_seconds": round(time.perf_counter() - start, 1),
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "megabytes_of_pictures": round(sum(map(len, page["pictures"])) / 1e6, 1),
    }


def measure(browser: Any, path: Path) -> dict[str, Any]:
    """Open the page in a fresh context; return seconds until it is ready and until each filter has been painted."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    start = time.perf_counter()
    page, faults = open_page(context, path)
    ready = time.perf_counter() - start
    filters: dict[str, float] = {}
    for name, value in FILTERS:
        seconds = page.evaluate(SET_FILTER, [name, value])
        filters[name] = max(filters.get(name, 0.0), round(seconds, 3))
    for name, value in ROLLOUT_CHOICES:
        seconds = page.evaluate(CHOOSE, [name, value])
        filters[f"training: {name}"] = max(filters.get(f"training: {name}", 0.0), round(seconds, 3))
    context.close()
    return {"ready": ready, "filters": filters, "faults": faults}


def main() -> None:
    """Make the report, measure it three times, write and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "benchmarks" / "report_page.json")
    output = parser.parse_args().output
    executable = find_browser()
    if executable is None:
        raise SystemExit("There is no Chromium here: 'make browser' installs it where apt-get can.")
    with tempfile.TemporaryDirectory() as folder:
        figures = make_report(Path(folder))
        with open_browser(executable) as browser:
            runs = [measure(browser, Path(folder) / "report.html") for _ in range(3)]
            figures["browser"] = f"Chromium {browser.version}"
    figures["ready_seconds"] = round(statistics.median(run["ready"] for run in runs), 2)
    figures["filter_seconds"] = {
        name: statistics.median(run["filters"][name] for run in runs) for name in runs[0]["filters"]
    }
    figures["faults"] = [fault for run in runs for fault in run["faults"]]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

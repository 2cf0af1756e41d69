"""recipes/reproduce.py as a user starts it: mistakes, plan, results; and, slowly, real runs that are killed."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from recipe_commands import ENVIRONMENT, ROOT, load_recipe
from small_grid import write_scale, write_stand_ins

from emor3_trl.reproduce import grid
from emor3_trl.run.recipe import run_recipe

TINY = ["--scale", "configs/tiny/reproduce.yaml"]


class Runner:
    """Runs the recipe in this process, with stand-ins for the recipes that it starts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        write_scale(folder)
        self.module = load_recipe("reproduce", monkeypatch)
        recipes = write_stand_ins(folder)
        monkeypatch.setattr(self.module, "RECIPES", recipes)
        monkeypatch.setattr(grid, "JUDGED_BY", [str(recipes / "judging.py")])
        monkeypatch.chdir(folder)
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess:
        self.monkeypatch.setattr("sys.argv", ["reproduce.py", *TINY, *arguments])
        self.capsys.readouterr()
        code: object = 0
        try:
            run_recipe(self.module.main)
        except SystemExit as end:
            code = end.code
        printed = self.capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(str(code)), printed.out, printed.err)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Runner:
    return Runner(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--table", "5"], "--table names 5. Expected some of 1, 2, 3, 4.", id="unknown table"),
        pytest.param(
            ["--table", "4", "--train_on", "cats"], "--train_on names cats. Expected some of", id="no such set"
        ),
        pytest.param(["--table", "one"], "tables is set to 'one'; expected a whole number.", id="table in words"),
        pytest.param(["--seeds", "0"], "seeds is 0. Expected 1 or more.", id="no seed"),
        pytest.param(["--jobs", "0"], "jobs is 0. Expected 1 or more.", id="no job"),
        pytest.param(["--scale", "big"], "There is no scale 'big'.", id="unknown scale"),
        pytest.param(["--systems", "ppo"], "--systems names ppo. Expected some of", id="unknown system"),
        pytest.param(["--table", "3", "--systems", "sft"], "names sft, no row of table 3", id="row of another table"),
        pytest.param(["--systems", "llava_sepm"], "has no base model for the rows", id="no such base model"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(run: Runner, arguments: list[str], expected: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("reproduce.py: error: ")
    assert expected in line
    assert not Path("runs").exists()


def test_missing_data_is_said_before_anything_runs(run: Runner) -> None:
    Path("data/toons/validation.parquet").unlink()
    done = run("--table", "1")
    assert done.returncode == 2
    assert "The data of 'toons' is not there: 'data/toons/validation.parquet'. Make it: make it" in done.stderr
    assert not Path("calls.txt").exists()


def test_a_plan_runs_nothing_and_needs_no_data(run: Runner) -> None:
    Path("data/toons/test.parquet").unlink()
    done = run("--plan", "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "EMO-R3, G 4 on toons, seed 2" in done.stdout
    assert not Path("calls.txt").exists()
    assert not Path("runs").exists()


def test_a_grid_ends_in_tables_figures_and_a_page(run: Runner) -> None:
    Path("right.json").write_text(json.dumps({"emo_r3_g8": 4, "grpo_g8": 3, "set_only_g8": 3}))
    done = run("--table", "3", "--seeds", "2")
    assert done.returncode == 0, done.stderr
    tables = json.loads(Path("runs/reproduce/tiny/tables.json").read_text())
    assert tables["3"]["emo_r3_g8"]["A"] == {
        "median": 100.0, "low": 100.0, "high": 100.0, "seeds": [100.0, 100.0], "paper": 61.79,
    }  # fmt: skip
    assert tables["budgets"]["grpo_g8 on sketches"]["optimizer_steps"] == 4
    assert tables["missing"] == []
    page = Path("runs/reproduce/tiny/RESULTS.md").read_text()
    assert "| RER helps beside SET | 3 | +0.57 | +25.0 [" in page
    assert "| SET helps | 3 | +0.29 | +0.0 [" in page
    assert all(f"](figure{number}.png)" in page for number in (3, 4, 5))
    assert "RER helps beside SET: agrees" in done.stdout
    assert "Table 3" in done.stdout
    again = run("--table", "3", "--seeds", "2")
    assert "12 of 12 cells are finished already" in again.stdout
    assert Path("runs/reproduce/tiny/RESULTS.md").read_text() == page


def test_table_4_tests_each_row_against_a_baseline_that_tables_1_to_3_have_run(run: Runner) -> None:
    Path("right.json").write_text(json.dumps({"emo_r3_g8": 0, "masked_g8": 4}))
    assert run("--table", "2", "--seeds", "3", "--systems", "emo_r3_g8").returncode == 0
    page = Path("runs/reproduce/tiny/RESULTS.md")
    assert "Table 4" not in page.read_text()
    Path("calls.txt").unlink()
    asked = ["--table", "4", "--seeds", "3", "--systems", "emo_r3_g8", "masked_g8"]
    done = run(*asked)
    assert done.returncode == 0, done.stderr
    calls = Path("calls.txt").read_text().splitlines()
    assert [call for call in calls if "/emo_r3_g8/" in call] == [
        f"judge runs/reproduce/tiny/sketches/emo_r3_g8/seed{seed}/judging" for seed in (1, 2, 3)
    ]
    assert [call.split()[0] for call in calls] == ["judge", "train", "evaluate", "judge"] * 3
    assert "masked coherence, G 8 beside EMO-R3: better" in done.stdout
    tables = json.loads(Path("runs/reproduce/tiny/tables.json").read_text())
    assert tables["4"]["masked_g8"]["sketches > toons"]["median"] == 100.0
    assert tables["4"]["masked_g8"]["sketches > toons"]["paper"] is None
    row = tables["beyond"]["masked_g8"]
    assert row["against_emo_r3"]["by_seed"] == [1.0, 1.0, 1.0]
    assert row["against_emo_r3"]["p_holm"] == pytest.approx(14 * row["against_emo_r3"]["p_value"])
    assert row["against_emo_r3"]["p_value"] < 1e-3  # of 12 pictures, all in one direction
    assert row["reflection"] == {"yes": 0.75, "shuffled_yes": 0.25, "coherence": 1.0, "masked_coherence": 0.5}
    assert "against_emo_r3" not in tables["beyond"]["emo_r3_g8"]
    text = page.read_text()
    assert "Better: masked coherence, G 8. Worse: none." in text
    assert "| masked coherence, G 8 | 75.0 | 25.0 | 50.0 | 100.0 | 50.0 | 0 | 0 |" in text
    assert "soft reflection, raw, G 8 on sketches, seed 1, 2, 3: not run, or failed" in text
    assert "12 of 12 cells are finished already" in run(*asked).stdout
    assert page.read_text() == text


def test_the_page_says_whether_thinking_is_worth_it(run: Runner) -> None:
    Path("right.json").write_text(json.dumps({"vanilla_think": 0, "vanilla_direct": 4, "vanilla_set": 3}))
    run("--table", "1", "--seeds", "1", "--systems", "vanilla_think", "vanilla_direct", "vanilla_set")
    page = Path("runs/reproduce/tiny/RESULTS.md").read_text()
    assert "## Is thinking worth it without training?" in page
    assert re.search(r"^\| Vanilla, think \| -100\.0 \[.*\] \| 0\.0\d+ \| \*\*no\*\* \|$", page, re.MULTILINE)
    assert re.search(r"^\| Vanilla, SET \| -25\.0 \[.*\*\*within chance\*\* \|$", page, re.MULTILINE)


def test_results_are_written_from_finished_runs_alone(run: Runner) -> None:
    run("--table", "3", "--seeds", "1")
    calls = Path("calls.txt").read_text()
    Path("docs").mkdir()
    done = run("--write_results", "--seeds", "1", "--table", "3")
    assert done.returncode == 0, done.stderr
    assert Path("calls.txt").read_text() == calls
    page = Path("docs/RESULTS.md").read_text()
    assert "](results_figure3.png)" in page
    assert Path("docs/results_figure3.png").read_bytes() == Path("runs/reproduce/tiny/figure3.png").read_bytes()


def test_no_results_do_not_replace_results(run: Runner) -> None:
    """The page and tables.json are kept in git, the runs are not."""
    Path("docs").mkdir()
    Path("docs/RESULTS.md").write_text("of another machine")
    done = run("--write_results")
    assert done.returncode == 2
    assert "Nothing in 'runs/reproduce/tiny' is finished" in done.stderr
    assert Path("docs/RESULTS.md").read_text() == "of another machine"
    assert not Path("runs").exists()


def test_a_plan_shows_the_steps_of_each_training(run: Runner) -> None:
    file = Path("configs/tiny/grpo.yaml")
    values = {**yaml.safe_load(file.read_text()), "num_train_epochs": 2}
    del values["max_steps"]
    file.write_text(yaml.safe_dump(values))
    rows = pq.read_table("data/toons/train.parquet")
    pq.write_table(rows.slice(0, 2), "data/toons/train.parquet")
    done = run("--plan", "--seeds", "1", "--table", "1", "--systems", "grpo_g8")
    steps = {line.split(" on ")[1]: line.split()[4] for line in done.stdout.splitlines() if " on " in line}
    assert steps == {"sketches, seed 1": "8", "toons, seed 1": "4"}


def test_a_failed_cell_ends_in_exit_code_1_with_the_rest_in_the_tables(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "sketches/grpo_g8")
    done = run("--table", "3", "--seeds", "1")
    assert done.returncode == 1
    assert "1 of 6 cells failed" in done.stdout
    assert "it broke" in done.stdout
    assert "log: runs/reproduce/tiny/sketches/grpo_g8/seed1/log.txt" in done.stdout
    tables = json.loads(Path("runs/reproduce/tiny/tables.json").read_text())
    assert "grpo_g8" not in tables["3"]
    assert "emo_r3_g8" in tables["3"]
    assert tables["missing"] == ["GRPO, G 8 on sketches, seed 1: not run, or failed"]


GRID = [sys.executable, str(ROOT / "recipes" / "reproduce.py"), *TINY, "--table", "3", "--seeds", "1"]
GRID += ["--systems", "emo_r3_g8", "consistency_g8"]
# A random model earns none of the paper's rewards, so without one of its own it would learn nothing, killed or not
REWARD = """
def vary(completions, **columns):
    return [sum(map(ord, completion[-1]["content"])) % 7 / 7 for completion in completions]
"""


def write_learning_scale(folder: Path, model: Path) -> None:
    """Write a scale whose EMO-R3 is paid by `REWARD`."""
    (folder / "own.py").write_text(REWARD)
    rewards = {"rewards": ["own.py:vary"], "reward_weights": [1.0]}
    write_scale(folder, model, settings={"grpo": {"validation_steps": 2, **rewards}})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """The folder in which two real cells were run to their end."""
    folder = tmp_path_factory.mktemp("grid")
    write_learning_scale(folder, tiny_model_dir)
    done = subprocess.run(GRID, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def read_outcome(folder: Path) -> tuple[dict, dict, dict]:
    """Return what a grid found out: tables, predictions by file, and the weights by file, as digests."""
    grid = folder / "runs/reproduce/tiny"
    files = sorted(grid.rglob("predictions.parquet"))
    predictions = {str(file.relative_to(grid)): pq.read_table(file).to_pylist() for file in files}
    models = sorted(grid.glob("*/*/*/model/model.safetensors"))
    weights = {str(file.relative_to(grid)): hashlib.sha256(file.read_bytes()).hexdigest() for file in models}
    return json.loads((grid / "tables.json").read_text()), predictions, weights


@pytest.mark.slow
def test_two_real_cells_end_in_a_table(uninterrupted: Path) -> None:
    tables, predictions, weights = read_outcome(uninterrupted)
    assert set(tables["3"]) == {"emo_r3_g8", "consistency_g8"}
    assert len(predictions) == len(set(weights.values())) == 2
    for name in ("emo_r3_g8", "consistency_g8"):
        budget = tables["budgets"][f"{name} on sketches"]
        assert budget == {"optimizer_steps": 4, "trained_on": 32.0, "completions_written": 32.0}
        (rows,) = (rows for file, rows in predictions.items() if name in file)
        assert len(rows) == 12
        right = 100 * sum(row["correct"] for row in rows if row["dataset"] == "toons") / 4
        assert tables["3"][name]["sketches > toons"]["seeds"] == [right]
    state = uninterrupted / "runs/reproduce/tiny/sketches/emo_r3_g8/seed1/model/trainer_state.json"
    log = json.loads(state.read_text())["log_history"]
    assert {entry["step"] for entry in log if "eval/toons_validation/accuracy" in entry} == {0, 2, 4}
    assert all(entry["time/rollout"] > 0 for entry in log if "step_time" in entry)
    assert all(entry["grad_norm"] > 0 for entry in log if "grad_norm" in entry), "it learns: a lost step would show"


def measure_logs(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("log.txt"))


@pytest.mark.long
def test_a_real_grid_that_is_killed_twice_ends_as_an_uninterrupted_one(
    uninterrupted: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    write_learning_scale(tmp_path, tiny_model_dir)
    record = uninterrupted / "runs/reproduce/tiny/sketches/emo_r3_g8/seed1/cell.json"
    usual = sum(run["seconds"] for run in json.loads(record.read_text())["commands"].values())
    draw, killed = random.Random(), 0
    print("seed of the moments:", seed := draw.randrange(10**6))
    draw.seed(seed)
    for _ in range(2):
        written = measure_logs(tmp_path)
        process = subprocess.Popen(
            GRID, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while measure_logs(tmp_path) == written and time.monotonic() < deadline:  # nothing runs before
            time.sleep(0.1)
        time.sleep(draw.uniform(0.05, 0.3) * usual)  # of one cell's time; both fit even if it is faster now
        if process.poll() is None:
            killed += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert killed == 2
    done = subprocess.run(GRID, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert read_outcome(tmp_path) == read_outcome(uninterrupted)

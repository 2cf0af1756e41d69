"""The W&B dashboard as code, and trackio's page in a real browser."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ports import find_free_port
from recipe_commands import ENVIRONMENT, ROOT, RecipeRunner
from training import tiny_trainer
from wandb_files import find_run_files, read_history

from emor3_trl.report.metrics_page import find_metric
from emor3_trl.report.wandb_dashboard import (
    SECTIONS,
    build_dashboard,
    collect_keys,
    name_in_wandb,
    plan_sections,
    read_dashboard,
    write_dashboard,
)

EVALUATED = ["eval/toons/accuracy", "eval/toons/accuracy_low", "eval/toons/macro_f1", "eval/mean/overall"]
LOCAL = [sys.executable, str(ROOT / "recipes" / "local_dashboard.py")]
NO_KEY = {key: value for key, value in ENVIRONMENT.items() if not key.startswith("WANDB_")} | {"HOME": "/nonexistent"}


@pytest.fixture(scope="module")
def logged_run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real GRPO run that reported to W&B, offline."""
    import wandb

    folder = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true"}.items():
            patch.setenv(name, value)
        trainer = tiny_trainer(
            tiny_model_dir, folder, use_vllm=False, max_steps=2, reward_funcs=None, report_to=["wandb"]
        )
        trainer.train()
        trainer.save_state()
        wandb.finish()
        wandb.teardown()  # waits until everything is written
    return folder


def list_curves(dashboard: object) -> list[str]:
    """Return the keys of all curves and bars of a dashboard."""
    panels = [panel for section in dashboard.sections for panel in section.panels]
    return [
        str(getattr(key, "name", key))
        for panel in panels
        for key in [*(getattr(panel, "y", None) or ()), *(getattr(panel, "metrics", None) or ())]
    ]


def test_a_dashboard_comes_back_from_its_file_as_it_was(logged_run: Path, tmp_path: Path) -> None:
    logged, _ = collect_keys(logged_run)
    dashboard = build_dashboard(plan_sections(logged, EVALUATED), "project", "team")
    write_dashboard(dashboard, tmp_path / "dashboard.json")
    read = read_dashboard(tmp_path / "dashboard.json")
    assert [section.name for section in read.sections] == [section.name for section in dashboard.sections]
    assert [section.name for section in read.sections][:4] == list(SECTIONS)
    assert (read.entity, read.project) == ("team", "project")
    assert sorted(list_curves(read)) == sorted(list_curves(dashboard))
    write_dashboard(read, tmp_path / "again.json")
    first, again = (json.loads((tmp_path / name).read_text()) for name in ("dashboard.json", "again.json"))
    assert first["spec"]["section"]["panelBankConfig"] == again["spec"]["section"]["panelBankConfig"]


def test_the_text_of_a_section_is_made_of_whole_sentences(logged_run: Path) -> None:
    logged, _ = collect_keys(logged_run)
    sections = build_dashboard(plan_sections(logged, EVALUATED), "project").sections
    texts = [section.panels[0].markdown for section in sections]
    assert len(texts) > len(SECTIONS)
    assert not [line for text in texts for line in text.splitlines() if ".." in line]


def test_every_curve_is_a_key_of_the_offline_run_and_documented(logged_run: Path) -> None:
    logged, _ = collect_keys(logged_run)
    curves = list_curves(build_dashboard(plan_sections(logged, EVALUATED), "project"))
    (file,) = find_run_files(logged_run)
    in_wandb = {key for entry in read_history(file) for key in entry}
    assert len(curves) > 30
    assert set(curves) - set(EVALUATED) <= in_wandb
    for key in curves:
        name = key.removeprefix("train/")
        assert find_metric(name), f"{key} is not documented"
    assert {"train/reward", "train/time/training", "train/diagnostics/zero_spread/overall"} <= set(curves)


def test_the_callback_gives_keys_the_names_that_the_dashboard_expects(logged_run: Path) -> None:
    logged, _ = collect_keys(logged_run)
    (file,) = find_run_files(logged_run)
    in_wandb = {key for entry in read_history(file) for key in entry if not key.startswith("_")}
    names = {name_in_wandb(key) for key in logged}
    assert in_wandb - {"train/global_step"} == {name for name in names if name.startswith("train/")}


def test_a_data_set_has_a_section_with_both_its_curve_and_its_evaluation() -> None:
    sections = plan_sections(["eval/toons/accuracy", "eval/sketches_validation/accuracy"], EVALUATED)
    assert list(sections) == ["Evaluation: toons", "Evaluation: sketches_validation"]
    keys = [key for _, keys in sections["Evaluation: toons"] for key in keys]
    assert keys == ["train/eval/toons/accuracy", "eval/toons/accuracy", "eval/toons/macro_f1"]


@pytest.fixture
def without_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(["--run", "nowhere"], "no trainer_state.json", id="no run"),
        pytest.param(["--evaluation", "nowhere"], "is not there", id="no evaluation"),
        pytest.param(["--send"], "send is set, but W&B has no key", id="no key"),
    ],
)
def test_a_dashboard_that_cannot_be_made_or_sent_is_one_line(
    logged_run: Path, monkeypatch, capsys, without_key: None, options: list[str], reason: str
) -> None:
    options = options if "--run" in options else ["--run", str(logged_run), *options]
    done = RecipeRunner("wandb_dashboard", monkeypatch, capsys)(logged_run, *options)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert (logged_run / "wandb_dashboard.json").is_file() is ("--send" in options)
    (logged_run / "wandb_dashboard.json").unlink(missing_ok=True)


def test_a_dashboard_is_not_sent_to_a_server_that_cannot_be_reached(
    logged_run: Path, monkeypatch, capsys, without_key: None
) -> None:
    port = find_free_port()
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    run = RecipeRunner("wandb_dashboard", monkeypatch, capsys)
    done = run(logged_run, "--run", str(logged_run), "--send")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"http://127.0.0.1:{port} cannot be reached" in done.stderr
    assert run(logged_run, "--run", str(logged_run)).returncode == 0  # nothing is sent unasked


# Trains in a process of its own, because trackio reads its folder when it is imported
_TRAINING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from training import tiny_trainer
trainer = tiny_trainer(Path(sys.argv[2]), Path(sys.argv[3]), use_vllm=False, max_steps=3, reward_funcs=None,
    report_to=["trackio"], log_completions=True, num_completions_to_print=0, run_name="local", project="emor3_trl")
trainer.train()
"""


@pytest.fixture(scope="module")
def local_run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real run that reported to trackio."""
    folder = tmp_path_factory.mktemp("local")
    command = [sys.executable, "-c", _TRAINING, str(ROOT / "tests"), str(tiny_model_dir), str(folder)]
    variables = {**NO_KEY, "TRACKIO_DIR": str(folder / "trackio"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@contextmanager
def serve(run: Path, port: int) -> Iterator[str]:
    """Serve the local dashboard as a user does; gives its address."""
    address = f"http://127.0.0.1:{port}/?project=emor3_trl"
    command = [*LOCAL, str(run), "--port", str(port)]
    with subprocess.Popen(command, env=NO_KEY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            limit = time.monotonic() + 60
            while True:
                assert process.poll() is None, process.communicate()[0][-2000:]
                assert time.monotonic() < limit
                try:
                    urllib.request.urlopen(address, timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield address
        finally:
            process.terminate()


@pytest.mark.long
def test_the_local_dashboard_shows_the_metrics_and_the_completions_with_images(local_run: Path, browser: Any) -> None:
    with serve(local_run, find_free_port()) as address:
        page = browser.new_page()
        hosts: set[str] = set()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
        page.goto(address)
        for key in ("accuracy_reward/mean", "zero_spread/overall", "frac_reward_zero_std", "training"):
            page.get_by_text(key, exact=True).first.wait_for(timeout=30_000)
        page.get_by_text("Media & Tables").first.click()
        for column in ("consistency_answer", "advantage", "trigger"):
            page.get_by_text(column, exact=True).first.wait_for(timeout=30_000)
        images = "[...document.images].filter(i => i.src.includes('media') && i.naturalWidth > 0).length"
        page.wait_for_function(f"{images} >= 4", timeout=30_000)
        assert {host for host in hosts if host} == {address.split("/")[2]}  # nothing leaves the machine


def test_a_port_in_use_and_a_folder_without_a_database_are_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "run" / "trackio").mkdir(parents=True)
    (tmp_path / "run" / "trackio" / "emor3_trl.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for folder, reason in (("run", f"port {port} is in use."), ("empty", "holds no database of trackio")):
            done = RecipeRunner("local_dashboard", monkeypatch, capsys)(tmp_path, folder, "--port", str(port))
            assert done.returncode == 2
            assert reason in done.stderr
            assert done.stderr.count("\n") == 1

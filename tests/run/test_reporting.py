"""W&B gets completions with pictures and steps, rewards and the cost of reflection, offline and without asking."""

import importlib.util
import json
import socket
import threading
import time
from pathlib import Path

import pytest
import wandb
from test_trainer import write_gold
from training import tiny_trainer

from emor3_trl.run import network, reporting


def test_an_offline_run_holds_completions_pictures_rewards_and_reflection(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    trainer = tiny_trainer(
        tiny_model_dir,
        tmp_path / "run",
        max_steps=1,
        report_to=["wandb"],
        log_completions=True,
        log_multimodal=True,
        num_completions_to_print=0,
        reward_funcs=None,
        use_vllm=False,
    )
    write_gold(trainer, monkeypatch)
    trainer.train()
    wandb.teardown()  # waits until everything is written
    (run_file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    logged = run_file.read_bytes()  # keys stand in it as plain text
    for key in (b"train/reflection/requests", b"train/rewards/coherence_reward/mean", b"train/reward"):
        assert key in logged
    (table_file, *_) = (run_file.parent / "files" / "media").rglob("completions*.table.json")
    table = json.loads(table_file.read_text())
    assert {"trigger", "feeling", "conclusion", "answer", "consistency_answer", "image"} <= set(table["columns"])
    assert len(table["data"]) == 8
    # Pictures of a table travel with its artifact, which waits to be uploaded.
    staged = [file for file in tmp_path.rglob("artifacts/staging/*") if file.read_bytes()[:4] == b"\x89PNG"]
    assert len(staged) >= 2


@pytest.mark.parametrize("report_to", [["wandb"], "all"])
def test_wandb_is_offline_without_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report_to: str | list[str]
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(reporting, "_has_wandb_login", lambda: False)
    reporting.prepare_reporting({"report_to": report_to, "output_dir": str(tmp_path)})
    assert reporting.os.environ["WANDB_MODE"] == "offline"
    assert not wandb.env.error_reporting_enabled()
    assert reporting.os.environ["WANDB_DIR"] == str(tmp_path)


def test_wandb_with_a_key_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setattr(reporting, "can_reach", lambda server: True)
    reporting.prepare_reporting({"report_to": "wandb"})
    assert "WANDB_MODE" not in reporting.os.environ


def test_wandb_without_a_network_is_offline_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setattr(reporting, "can_reach", lambda server: False)
    reporting.prepare_reporting({"report_to": "wandb"})
    assert reporting.os.environ["WANDB_MODE"] == "offline"
    assert capsys.readouterr().out.startswith("W&B is offline: https://api.wandb.ai cannot be reached")


def test_an_integration_that_is_not_installed_is_named() -> None:
    missing = next(name for name in ("comet_ml", "clearml", "dvclive") if importlib.util.find_spec(name) is None)
    with pytest.raises(ImportError, match=f"report_to names {missing}, which is not installed.*--report_to none"):
        reporting.prepare_reporting({"report_to": [missing]})


def test_a_server_is_reached_or_given_up_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert network.can_reach(f"http://127.0.0.1:{port}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        assert network.can_reach("https://nowhere.invalid")  # through the proxy
        monkeypatch.delenv("https_proxy")
    assert not network.can_reach(f"http://127.0.0.1:{port}")
    answer = threading.Event()

    def wait_for_a_name(*_: object, **__: object) -> None:
        answer.wait(60)
        raise OSError("no such name")

    monkeypatch.setattr(network.socket, "create_connection", wait_for_a_name)
    start = time.monotonic()
    assert not network.can_reach("https://huggingface.co", seconds=0.2)
    assert time.monotonic() - start < 5
    answer.set()


@pytest.mark.parametrize(
    ("offline", "token", "reachable", "reason"),
    [
        pytest.param(True, "hf_x", True, "HF_HUB_OFFLINE is set", id="offline"),
        pytest.param(False, None, True, "there is no token", id="no token"),
        pytest.param(False, "hf_x", False, "https://huggingface.co cannot be reached", id="no network"),
        pytest.param(False, "hf_x", True, None, id="reachable"),
    ],
)
def test_a_run_that_pushes_needs_the_hub(
    monkeypatch: pytest.MonkeyPatch, offline: bool, token: str | None, reachable: bool, reason: str | None
) -> None:
    monkeypatch.setattr(reporting.huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(reporting.huggingface_hub, "get_token", lambda: token)
    monkeypatch.setattr(reporting, "can_reach", lambda server: reachable)
    reporting.check_hub({"push_to_hub": False})
    if reason is None:
        reporting.check_hub({"push_to_hub": True})
        return
    with pytest.raises(ValueError, match=f"push_to_hub is set, but {reason}"):
        reporting.check_hub({"push_to_hub": True})


def test_a_token_on_the_command_line_is_not_in_the_files_of_wandb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["grpo.py", "--hub_token", "hf_secret", "--hub_token=hf_secret", "--seed", "7531"])
    wandb.teardown()  # what an earlier test started has read another command
    reporting.prepare_reporting({"report_to": ["wandb"], "hub_token": "hf_secret"})
    contents, end = b"", time.monotonic() + 60
    while b"7531" not in contents and time.monotonic() < end:  # a run that ends at once may end before it is described
        run = wandb.init()
        time.sleep(0.5)
        run.finish()
        wandb.teardown()
        contents = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"7531" in contents  # the command is there
    assert b"hf_secret" not in contents

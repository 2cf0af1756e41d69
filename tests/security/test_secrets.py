"""Tokens and passwords of a user reach no file of a run, no tracker and no process list."""

import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pandas as pd
import psutil
import pytest
import yaml
from recipe_commands import ENVIRONMENT, ROOT, RecipeRunner, command

from emor3_trl import EmoR3Config
from emor3_trl.cold_start import ColdStartConfig
from emor3_trl.masking import mask_secrets, mask_text
from emor3_trl.run.checks import check_secrets

CANARY = "canary0123456789abcdef0123456789abcdef12"  # as long as a key of W&B
LONG = {
    "HF_TOKEN": f"hf_{CANARY}", "WANDB_API_KEY": CANARY, "AWS_SECRET_ACCESS_KEY": CANARY,
    "WANDB_BASE_URL": f"http://me:{CANARY}@127.0.0.1:9", "HTTPS_PROXY": f"http://me:{CANARY}@127.0.0.1:9",
}  # fmt: skip


def read_contents(folder: Path) -> Iterator[tuple[Path, str]]:
    """Give what stands in each file of a folder, also inside of archives and of Parquet files."""
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        yield file, file.read_bytes().decode(errors="replace")
        if file.suffix == ".parquet":
            yield file, pd.read_parquet(file).to_csv()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    yield file / name, archive.read(name).decode(errors="replace")


def list_commands(process: int) -> set[str]:
    """Return the commands of a process and of its children."""
    commands = set()
    for member in (psutil.Process(process), *psutil.Process(process).children(recursive=True)):
        try:
            commands.add(" ".join(member.cmdline()))
        except psutil.Error:  # it has ended
            continue
    return commands


@pytest.mark.slow
def test_no_secret_of_a_training_is_written_or_shown(tiny_model_dir: Path, tmp_path: Path) -> None:
    """One step and its evaluation, with a secret in every place that takes one."""
    work = tmp_path / "work"
    work.mkdir()
    arguments = command(work, "grpo", tiny_model_dir, "out")
    config = dict(zip(*[iter(argument.removeprefix("--") for argument in arguments[2:])] * 2, strict=True))
    stock = yaml.safe_load(Path(config.pop("config")).read_text())
    secrets = {
        "hub_token": f"hf_{CANARY}", "model_init_kwargs": {"token": CANARY, "attn_implementation": "sdpa"},
        "vllm_engine_options": {"hf_token": CANARY}, "run_name": f"run of https://me:{CANARY}@host/data",
        "use_vllm": "false", "max_steps": "1", "save_steps": "1", "report_to": "wandb",
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**stock, **config, **secrets}))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for line in (["init", "-q"], ["remote", "add", "origin", f"https://me:{CANARY}@host/data.git"],
                 ["commit", "-q", "--allow-empty", "-m", "x"]):  # fmt: skip
        subprocess.run([*git, *line], cwd=work, check=True)
    started = subprocess.Popen(
        [sys.executable, str(ROOT / "recipes" / "grpo.py"), "--config", str(tmp_path / "run.yaml")],
        cwd=work, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**ENVIRONMENT, **LONG, "WANDB_MODE": "offline", "WANDB_SILENT": "true"},
    )  # fmt: skip
    commands: set[str] = set()

    def watch() -> None:
        while started.poll() is None:
            commands.update(list_commands(started.pid))
            sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        printed, _ = started.communicate(timeout=200)
    finally:
        started.kill()
        watcher.join()
    assert started.returncode == 0, printed[-2000:]
    assert CANARY not in printed
    assert any("wandb-core" in line for line in commands)  # the children were seen
    assert [line for line in commands if CANARY in line] == []
    contents = list(read_contents(work / "out"))
    names = {file.name for file, _ in contents}
    assert {"config.yaml", "environment.json", "training_args.bin", "README.md"} <= names
    assert any(name.endswith(".wandb") for name in names)
    assert any("sdpa" in text for file, text in contents if file.suffix == ".wandb")  # its neighbours are there
    assert sorted({str(file) for file, text in contents if CANARY in text}) == []


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--hub_token", f"hf_{CANARY}"], id="token"),
        pytest.param([f"--hub-token={CANARY}"], id="token-after-a-sign"),
        pytest.param(["--model_init_kwargs", json.dumps({"token": CANARY})], id="token-in-json"),
        pytest.param(["--run_name", f"https://me:{CANARY}@host"], id="password-in-a-url"),
    ],
)
def test_a_secret_on_the_command_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, flags: list[str]
) -> None:
    refused = RecipeRunner("grpo", monkeypatch, capsys)(tmp_path, *flags)
    assert refused.returncode == 2
    assert f"{flags[0].split('=')[0]} holds a secret" in refused.stderr
    assert CANARY not in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--api-key", "--hf-token"])
def test_a_secret_for_the_server_is_refused_before_it_starts(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, flag: str
) -> None:
    started: list[str] = []
    monkeypatch.setattr("os.execve", lambda _program, command, _environment: started.extend(command))
    serve = RecipeRunner("serve", monkeypatch, capsys)
    arguments = ["--model_name_or_path", str(tiny_model_dir), "--"]
    refused = serve(tmp_path, *arguments, flag, CANARY)
    assert (refused.returncode, started) == (2, [])
    assert refused.stderr.count("\n") == 1
    assert f"{flag} holds a secret" in refused.stderr
    assert "Set the environment variable VLLM_API_KEY or HF_TOKEN." in refused.stderr
    assert CANARY not in refused.stderr
    assert serve(tmp_path, *arguments, "--gpu-memory-utilization", "0.8").returncode == 0
    assert started[-2:] == ["--gpu-memory-utilization", "0.8"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", [EmoR3Config, ColdStartConfig])
def test_trackers_get_a_configuration_without_secrets(tmp_path: Path, config: type) -> None:
    args = config(
        str(tmp_path), use_cpu=True, bf16=False, hub_token=CANARY, model_init_kwargs={"token": CANARY, "dtype": "auto"},
        **({"use_vllm": False} if config is EmoR3Config else {}),
    )  # fmt: skip
    assert CANARY not in args.to_json_string()
    assert CANARY not in str(args.to_sanitized_dict())
    assert args.to_dict()["model_init_kwargs"] == {"token": None, "dtype": "auto"}
    assert args.hub_token == args.model_init_kwargs["token"] == CANARY  # and the run keeps them


@pytest.mark.parametrize("name", ["HF_TOKEN", "MY_API_KEY", "DB_PASSWORD", "aws_secret_access_key"])
def test_a_secret_of_the_environment_is_masked_wherever_it_stands(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, CANARY)
    assert mask_text(f"no {CANARY} here") == "no … here"
    assert mask_secrets({"note": [f"x{CANARY}"], CANARY[:3]: 1}) == {"note": ["x…"], CANARY[:3]: 1}


def test_what_is_no_secret_stays() -> None:
    values = {
        "eos_token": "<|im_end|>", "max_tokens": 7, "stop_token_ids": [1], "tokens": "a", "author": "b", "keyword": "c",
        "label_map": {"secretive": "fear"}, "model": "org/name", "url": "https://host/path?x=1", "image_token": "<i>",
    }  # fmt: skip
    assert mask_secrets(values) == values


@pytest.mark.parametrize("name", ["runs/hf_qwen25vl3binstruct", "runs/sk-learn-baseline-emoset-3b"])
def test_a_folder_whose_name_begins_as_a_token_is_none(name: str) -> None:
    assert mask_text(name) == name
    check_secrets(["--output_dir", name, f"--model={name}"])


@pytest.mark.parametrize("token", [f"hf_{'aB3' * 11}a", f"sk-{'aB3' * 16}", f"sk-proj-x_y-{'aB3' * 16}-z"])
def test_a_token_is_known_by_its_form(token: str) -> None:
    assert mask_text(f"no {token} here") == "no … here"
    with pytest.raises(ValueError, match="--run_name holds a secret"):
        check_secrets(["--run_name", token])

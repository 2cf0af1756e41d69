"""recipes/export.py: a folder that transformers loads and vLLM serves, with a card whose facts are the run's."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from recipe_commands import ENVIRONMENT, RecipeRunner, command, finish
from tiny_model import tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from emor3_trl.checkpoints import whole_checkpoint
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.prediction import load_predictions
from emor3_trl.files import open_locked
from emor3_trl.prompts import prompt_text

ROOT = Path(__file__).parents[2]
LABELS = ["awe", "fear"]


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> RecipeRunner:
    return RecipeRunner("export", monkeypatch, capsys)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A folder with a finished run, a finished LoRA run, and an evaluation of the first."""
    folder = tmp_path_factory.mktemp("export")
    short = ["--max_steps", "1", "--use_vllm", "false", "--save_strategy", "no"]
    finish([*command(folder, "grpo", tiny_model_dir, "run"), *short], folder)
    lora = ["--use_peft", "true", "--lora_dropout", "0", "--lora_target_modules", "all-linear", "--freeze_vision_tower"]
    finish([*command(folder, "grpo", tiny_model_dir, "lora"), *short, *lora, "false"], folder)
    evaluate = [sys.executable, str(ROOT / "recipes" / "evaluate.py"), "--model", "run", "--data", "data"]
    evaluate += ["--splits", "train", "--engine", "transformers", "--max_tokens", "8"]
    finish(evaluate, folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--model", "data"], "'data' holds no finished run", id="no run"),
        pytest.param(["--model", "run", "--output_dir", "run"], "output_dir 'run' exists", id="a folder that is there"),
        pytest.param(["--model", "lora", "--evaluation", "runs/evaluation/run"], "are not those of 'lora'", id="other"),
        pytest.param(["--model", "run", "--evaluation", "elsewhere"], "elsewhere/config.yaml", id="no evaluation"),
    ],
)
def test_a_mistake_is_one_line(
    place: Path,
    export: RecipeRunner,
    arguments: list[str],
    expected: str,
) -> None:
    chosen = [*arguments, *("--output_dir", "new") * ("--output_dir" not in arguments)]
    refused = export(place, *chosen)
    assert refused.returncode == 2
    assert expected in refused.stderr
    assert refused.stderr.count("error: ") == 1
    assert not (place / "new").exists()


def test_a_second_export_to_one_folder_is_refused_and_what_a_killed_one_left_is_removed(
    place: Path, export: RecipeRunner
) -> None:
    unfinished = place / "twice.unfinished"
    (unfinished / "emor3-merged-x").mkdir(parents=True)
    descriptor = open_locked(unfinished)
    refused = export(place, "--model", "run", "--output_dir", "twice")
    assert refused.returncode == 2
    assert "Another run is writing to output_dir" in refused.stderr
    assert (unfinished / "emor3-merged-x").is_dir()
    os.close(descriptor)
    done = export(place, "--model", "run", "--output_dir", "twice")
    assert done.returncode == 0, done.stderr
    assert not unfinished.exists()
    assert not (place / "twice" / "emor3-merged-x").exists()


def test_an_exported_model_answers_as_the_run_s(
    place: Path, export: RecipeRunner, capsys: pytest.CaptureFixture
) -> None:
    result = export(place, "--model", "run", "--output_dir", "out/exported", "--evaluation", "runs/evaluation/run")
    assert result.returncode == 0, result.stderr
    card = (place / "out" / "exported" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    tiny_pictures(1)[0].save(place / "out" / "photo.jpg", quality=95)
    before = Path.cwd()
    os.chdir(place / "out")
    try:
        names: dict = {}
        exec(compile(code, "README.md", "exec"), names)
        photo = names["Image"].open("photo.jpg").convert("RGB")
    finally:
        os.chdir(before)
    model = AutoModelForImageTextToText.from_pretrained(place / "run", dtype=torch.float32)
    engine = TransformersEngine(model, AutoProcessor.from_pretrained(place / "run", padding_side="left"))
    (expected,) = engine.generate(
        [prompt_text("set", LABELS)], [photo], n=1, temperature=0, max_tokens=12, seed=0
    )  # fmt: skip
    assert capsys.readouterr().out.removesuffix("\n") == expected[0].text


def test_each_number_of_the_card_stands_in_a_file_of_the_run(place: Path, export: RecipeRunner) -> None:
    export(place, "--model", "run", "--output_dir", "card", "--evaluation", "runs/evaluation/run")
    card = (place / "card" / "README.md").read_text()
    metrics = json.loads((place / "runs" / "evaluation" / "run" / "metrics.json").read_text())
    row = re.search(r"\| train \| (\d+) \| (\S+) \[(\S+), (\S+)\] \| (\S+) \| (\S+) \|", card)
    assert row is not None
    keys = ("n", "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "format_rate")
    assert [float(value) for value in row.groups()] == [round(metrics[f"eval/train/{key}"], 3) for key in keys]
    config = (place / "run" / "config.yaml").read_text()
    settings = dict(re.findall(r"^- (\w+): (\S+)$", card, re.M))
    assert {"learning_rate", "max_steps", "beta", "seed"} <= settings.keys()
    assert "lora_r" not in settings
    for name, value in settings.items():
        if name != "data":
            assert re.search(rf"^{name}: '?{re.escape(value.lower())}'?$", config.lower(), re.M), name
    environment = json.loads((place / "run" / "environment.json").read_text())
    assert environment["started"] in card
    assert environment["versions"]["trl"] in card


def test_an_adapter_is_merged_into_its_base(place: Path, export: RecipeRunner) -> None:
    result = export(place, "--model", "lora", "--output_dir", "merged")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (place / "merged").glob("*.safetensors")) == ["model.safetensors"]
    exported = AutoModelForImageTextToText.from_pretrained(place / "merged", dtype=torch.float32).state_dict()
    with whole_checkpoint(place / "lora") as whole:
        expected = AutoModelForImageTextToText.from_pretrained(whole, dtype=torch.float32).state_dict()
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[name], weight) for name, weight in expected.items())


def test_an_exported_model_predicts_what_the_run_s_does(
    place: Path, export: RecipeRunner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert export(place, "--model", "run", "--output_dir", "same").returncode == 0
    evaluate = RecipeRunner("evaluate", monkeypatch, capsys)
    options = ["--splits", "train", "--engine", "transformers", "--max_tokens", "8"]
    assert evaluate(place, "--model", "same", "--data", "data", *options).returncode == 0
    run, exported = (
        load_predictions(place / "runs" / "evaluation" / name / "predictions.parquet") for name in ("run", "same")
    )
    assert len(run) == 8
    assert exported == run


def test_each_token_that_ends_a_text_still_does(place: Path, export: RecipeRunner) -> None:
    shutil.copytree(place / "run", place / "two_ends")
    stock = json.loads((place / "run" / "generation_config.json").read_text())
    ends = [stock["eos_token_id"], stock["pad_token_id"]]  # as Qwen2.5-VL has it
    settings = {"eos_token_id": ends, "repetition_penalty": 1.05, "do_sample": True, "temperature": 0.1}
    (place / "two_ends" / "generation_config.json").write_text(json.dumps(stock | settings))
    assert export(place, "--model", "two_ends", "--output_dir", "ends").returncode == 0
    exported = GenerationConfig.from_pretrained(place / "ends")
    assert exported.eos_token_id == ends
    assert not exported.do_sample
    assert exported.repetition_penalty in (None, 1.0)


@pytest.mark.parametrize("model", ["run", "lora"])
def test_a_disk_without_room_is_told_before_a_model_loads(
    place: Path, export: RecipeRunner, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    needed = sum(file.stat().st_size for file in (place / "run").glob("*.safetensors"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, needed - 1))
    refused = export(place, "--model", model, "--output_dir", "no_room")
    assert refused.returncode == 2
    assert "The disk of 'no_room' has" in refused.stderr
    assert not list(place.glob("no_room*"))


def test_data_that_have_moved_can_be_named(place: Path, export: RecipeRunner, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    shutil.copytree(place / "data", tmp_path / "moved")
    config = (run / "config.yaml").read_text().replace(str(place / "data"), "gone")
    assert "gone" in config
    (run / "config.yaml").write_text(config)
    refused = export(tmp_path, "--model", "run", "--output_dir", "new")
    assert (refused.returncode, refused.stderr.count("error: ")) == (2, 1)
    done = export(tmp_path, "--model", "run", "--output_dir", "new", "--data", "moved")
    assert done.returncode == 0, done.stderr
    assert ", ".join(LABELS) in (tmp_path / "new" / "README.md").read_text()


class Hub(BaseHTTPRequestHandler):
    """A Hub on which the repository stands already, and is public; it notes what it is asked."""

    asked: list[str]
    breaks: bool

    def do_POST(self) -> None:
        if not self.breaks:
            self.answer(409, {"error": "You already created it", "url": "https://huggingface.co/me/model"})

    def do_GET(self) -> None:
        self.answer(200, {"id": "me/model", "_id": "1", "private": False, "siblings": [], "tags": []})

    def answer(self, status: int, content: dict) -> None:
        self.asked.append(f"{self.command} {self.path}")
        body = json.dumps(content).encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("breaks", "expected"),
    [
        pytest.param(False, "push_to_hub is 'me/model', which is public: nothing is uploaded.", id="public"),
        pytest.param(True, "was not uploaded to 'me/model'", id="a line that breaks"),
    ],
)
def test_what_cannot_be_uploaded_stays_and_is_one_line(
    place: Path, export: RecipeRunner, monkeypatch: pytest.MonkeyPatch, breaks: bool, expected: str
) -> None:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Noting", (Hub,), {"asked": asked, "breaks": breaks}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    refused = export(place, "--model", "run", "--push_to_hub", "me/model", "--output_dir", f"pushed_{breaks}")
    server.shutdown()
    server.server_close()
    assert refused.returncode == 2, refused.stderr
    assert expected in refused.stderr
    assert refused.stderr.count("error: ") == 1
    assert not any("commit" in line or "preupload" in line for line in asked)
    assert (place / f"pushed_{breaks}" / "README.md").is_file()


@pytest.mark.long
def test_vllm_serves_an_exported_model(place: Path, export: RecipeRunner) -> None:
    export(place, "--model", "run", "--output_dir", "served")
    picture = tiny_pictures(1)[0]
    picture.save(place / "photo.png")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    card = (place / "served" / "README.md").read_text()
    (line,) = re.findall(r"^# the same server on a CPU.*\n(.*)$", card, re.M)  # the command that the card names
    variable, program, *words = line.split()
    assert (program, words[2:4]) == ("python", ["--model", "served"])
    server = [sys.executable, *words, "--host", "localhost", "--port", str(port)]
    settings = dict([variable.split("=")])
    settings |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}  # not all cores, and sooner
    process = subprocess.Popen(
        server, cwd=place, env=ENVIRONMENT | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        answer = ask_server(port, (place / "photo.png").read_bytes(), time.monotonic() + 400, process)
    finally:
        process.terminate()
        process.wait()
    model = AutoModelForImageTextToText.from_pretrained(place / "run", dtype=torch.float32)
    engine = TransformersEngine(model, AutoProcessor.from_pretrained(place / "run", padding_side="left"))
    (expected,) = engine.generate(
        [prompt_text("set", LABELS)], [picture], n=1, temperature=0, max_tokens=12, seed=0
    )  # fmt: skip
    assert answer == expected[0].text


def ask_server(port: int, image: bytes, end: float, process: subprocess.Popen) -> str:
    """Ask about an image as clients of OpenAI do, once the server is up."""
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt_text("set", LABELS)}]
    body = {"model": "served", "temperature": 0, "max_tokens": 12, "messages": [{"role": "user", "content": content}]}
    request = urllib.request.Request(
        f"http://localhost:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    while True:
        assert process.poll() is None
        assert time.monotonic() < end
        try:
            with urllib.request.urlopen(request, timeout=100) as response:
                return json.load(response)["choices"][0]["message"]["content"]
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)

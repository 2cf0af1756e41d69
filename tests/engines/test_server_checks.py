"""A run in server mode is told, in one line and before a model loads, what is wrong with its server."""

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from recipe_commands import ROOT, RecipeRunner
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl import EmoR3Config, EmoR3Trainer
from emor3_trl.engines import server_checks, serving
from emor3_trl.engines.server_checks import CONSTRAINT, Needed, ServerError, find_fault, name_model, wait_for_server
from emor3_trl.families import Shape
from emor3_trl.run.memory import estimate_memory

NEEDED = Needed("0.31.0", "qwen-tied", "bfloat16", images=1, max_model_len=4096, weight_transfer="nccl")
RIGHT = {
    "version": "0.31.0",
    "served_model_name": "qwen-tied",
    "dtype": "bfloat16",
    "multimodal_config": {"limit_per_prompt": {"image": {"count": 1}, "video": {"count": 0}}},
    "max_model_len": 4096,
    "weight_transfer": "nccl",
    "logits_processors": [CONSTRAINT],
    "serves_tokens": True,
    "logprobs_mode": "processed_logprobs",
}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param({}, None, id="right"),
        pytest.param({"max_model_len": 8192}, None, id="more than needed"),
        pytest.param({"version": "0.30.1"}, "its vLLM is 0.30.1, the trainer's 0.31.0", id="version"),
        pytest.param({"served_model_name": "llama"}, "it serves llama, the run trains qwen-tied", id="model"),
        pytest.param({"dtype": "float16"}, "it computes in float16, the trainer in bfloat16", id="dtype"),
        pytest.param({"max_model_len": 2048}, "it takes 2048 tokens, vllm_max_model_length is 4096", id="context"),
        pytest.param({"weight_transfer": None}, "weights reach it over None, not over nccl", id="no weights"),
        pytest.param({"logits_processors": None}, "it cannot constrain the answers of reflection", id="stock server"),
        pytest.param(
            {"serves_tokens": False}, "it takes no token ids with images (--enable-scale-out)", id="no images"
        ),
        pytest.param(
            {"logprobs_mode": "raw_logprobs"}, "its logprobs_mode is raw_logprobs", id="raw log-probabilities"
        ),
        pytest.param(
            {"multimodal_config": {"limit_per_prompt": {"image": {"count": 0}}}},
            "it takes 0 image(s) a prompt, the data have 1",
            id="images",
        ),
    ],
)
def test_the_first_thing_that_does_not_fit_is_named(change, fault):
    assert find_fault({**RIGHT, **change}, NEEDED) == fault


def test_models_have_one_name_if_the_weights_of_one_fit_the_other(tiny_model_dir, untied_model_dir):
    tied, untied = name_model(str(tiny_model_dir)), name_model(str(untied_model_dir))
    assert tied.startswith("qwen2_5_vl-64-128-2-2-")
    assert tied == untied.replace("untied", "tied") != untied
    loaded = AutoModelForImageTextToText.from_pretrained(tiny_model_dir)
    assert name_model(loaded) == tied


@contextmanager
def answering(answers: dict[str, tuple[int, str]], description_takes: float = 0.0) -> Iterator[str]:
    """Serve texts by path, and 404 for others; give the address. /server_info takes a number of seconds."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            time.sleep(description_takes if path == "/server_info" else 0.0)
            code, text = answers.get(path, (404, "{}"))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def weightless_model(tiny_model_dir, tmp_path):
    """A model that cannot be loaded: whoever tries raises another error."""
    folder = tmp_path / "weightless"
    shutil.copytree(tiny_model_dir, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def build(model, tmp_path, training_rows, url: str) -> None:
    args = EmoR3Config(
        str(tmp_path),
        bf16=False,
        use_cpu=True,
        max_completion_length=16,
        vllm_mode="server",
        vllm_server_base_url=url,
        vllm_server_timeout=0,
    )
    processor = AutoProcessor.from_pretrained(model)
    EmoR3Trainer(str(model), None, args, training_rows, processing_class=processor)


def test_a_server_that_is_not_there_is_missed_before_a_model_loads(weightless_model, tmp_path, training_rows):
    with socket.socket() as probe:  # bound, and nobody listens
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(ServerError, match=f"no vLLM server answers at {url}.*recipes/serve.py"):
            build(weightless_model, tmp_path, training_rows, url)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        pytest.param({}, "takes no weights: it was started without VLLM_SERVER_DEV_MODE=1", id="vllm serve"),
        pytest.param({"/server_info": (200, "hello")}, "is not vLLM's server", id="something else"),
        pytest.param({"/server_info": (200, json.dumps({"name": "x"}))}, "is not vLLM's server", id="other JSON"),
    ],
)
def test_another_server_is_refused_before_a_model_loads(weightless_model, tmp_path, training_rows, answers, message):
    with answering({"/health": (200, ""), **answers}) as url, pytest.raises(ServerError, match=message):
        build(weightless_model, tmp_path, training_rows, url)


@pytest.mark.parametrize(
    ("patience", "message"),
    [
        pytest.param(60.0, "takes no weights", id="waited for"),
        pytest.param(0.05, "is there, and did not say how it was started in 0.05 s", id="for how long"),
    ],
)
def test_a_server_that_takes_long_to_describe_itself_is_waited_for(
    weightless_model, tmp_path, training_rows, monkeypatch, patience, message
):
    monkeypatch.setattr(server_checks, "wait_for_server", lambda *_: None)
    monkeypatch.setattr(server_checks, "SECONDS", 0.2)  # for questions that are answered at once
    monkeypatch.setattr(server_checks, "DESCRIBING", patience)
    with answering({}, description_takes=0.6) as url, pytest.raises(ServerError, match=message):
        build(weightless_model, tmp_path, training_rows, url)


def test_a_plan_leaves_the_server_out_of_the_trainers_memory(tmp_path):
    shape = Shape("tiny", 10**9, 64, 2, 32, 128, 560, 10**8, 8 * 10**8, 10**4)
    values = {
        "use_vllm": True,
        "data": str(tmp_path),
        "max_completion_length": 64,
        "num_generations": 4,
        "per_device_train_batch_size": 4,
    }
    values |= {"gradient_accumulation_steps": 1}
    parts = {
        mode: [row[0] for row in estimate_memory({**values, "vllm_mode": mode}, shape, 1)]
        for mode in ("colocate", "server")
    }
    assert [part for part in parts["colocate"] if part not in parts["server"]] == [
        "vLLM weights",
        "vLLM KV of one rollout",
    ]


def test_on_gpus_weights_travel_over_nccl_and_vllm_compiles(tiny_model_dir, monkeypatch):
    monkeypatch.setattr(serving, "gpu_available", lambda: True)
    options = {"host": "10.0.0.1", "port": 8000, "dtype": "bfloat16", "max_model_len": 4096, "ranks": 2}
    command = serving.serve_command(str(tiny_model_dir), **options, further=["--gpu-memory-utilization", "0.8"])
    assert command[command.index("--weight-transfer-config") + 1] == '{"backend": "nccl"}'
    assert command[command.index("--tensor-parallel-size") + 1] == "2"
    assert command[-2:] == ["--gpu-memory-utilization", "0.8"]
    assert not {"--worker-extension-cls", "--no-enable-chunked-prefill"} & set(command)
    assert serving.serve_environment().keys() - os.environ.keys() == {"VLLM_SERVER_DEV_MODE"}


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        pytest.param({}, "bfloat16", id="TRL's default"),
        pytest.param({"bf16": False}, "float32", id="nothing"),
        pytest.param({"bf16": False, "dtype": "bfloat16"}, "bfloat16", id="weights"),
        pytest.param({"fp16": True}, "float16", id="half"),
    ],
)
def test_the_server_computes_in_what_the_run_does(values, dtype):
    assert serving.run_dtype(values) == dtype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "error: No model is given. Set --config <the run's YAML>", id="no model"),
        pytest.param(["--config", "x.yaml"], "x.yaml", id="no such file"),
        pytest.param(["--config", str(ROOT / "README.md")], "cannot be read", id="no YAML"),
    ],
)
def test_a_wrong_call_of_the_server_is_one_line(monkeypatch, capsys, tmp_path, arguments, message):
    done = RecipeRunner("serve", monkeypatch, capsys)(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_password_in_an_address_is_not_printed(capsys):
    with socket.socket() as silent:  # it is bound, and nobody listens
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(ServerError):
            wait_for_server(f"http://me:word@127.0.0.1:{silent.getsockname()[1]}", 0.2)
    printed = capsys.readouterr().out
    assert "Waiting for vLLM's server at http://…@127.0.0.1:" in printed
    assert "word" not in printed

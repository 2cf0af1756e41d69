"""Starts vLLM's server as a user does, and ends it with all its processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from ports import find_free_port

ROOT = Path(__file__).parents[1]
SECONDS = 300  # that the server may take to start on a busy machine


class Server:
    """A server on the tiny model.

    Args:
        process: leads a group of its own.
        url: its address.
        log: what it printed.
    """

    def __init__(self, process: subprocess.Popen, url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    def kill(self) -> None:
        """Kill it with the engine's process, as a machine that fails would."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait(timeout=30)


@contextmanager
def serving(model: Path, folder: Path) -> Iterator[Server]:
    """Serve a model with the settings of the demo's YAML, until the end of the block."""
    port = find_free_port()
    config = ROOT / "recipes" / "configs" / "demo" / "emo_r3.yaml"
    command = [sys.executable, str(ROOT / "recipes" / "serve.py"), "--config", str(config)]
    command += ["--model_name_or_path", str(model), "--vllm_server_port", str(port)]
    launched = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {key: value for key, value in os.environ.items() if key not in launched}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        _wait(server)
        yield server
    finally:
        server.kill()


def _wait(server: Server) -> None:
    for _ in range(SECONDS):
        assert server.process.poll() is None, server.log.read_text()[-3000:]
        try:
            if requests.get(f"{server.url}/health", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            time.sleep(1)
    raise AssertionError(f"The server did not start in {SECONDS} s: {server.log.read_text()[-3000:]}")

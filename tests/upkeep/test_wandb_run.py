"""A server of W&B that refuses a run costs it nothing: it is kept on this machine, and one line says so."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from emor3_trl.upkeep.wandb_run import begin_wandb_run


@pytest.fixture
def refusing_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that answers everything with one status."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = json.dumps({"errors": [{"message": "permission denied"}]}).encode()
            self.send_response(request.param)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("refusing_server", [401, 403], ids=["unauthorized", "forbidden"], indirect=True)
def test_a_server_that_refuses_leaves_the_run_offline(
    tmp_path: Path, refusing_server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in {
        "WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": refusing_server, "WANDB_MODE": "online",
        "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    run = begin_wandb_run(id="refused", name="run", resume="allow", project="emor3_trl")
    run.log({"loss": 1.0})
    wandb.finish()
    wandb.teardown()
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("W&B is offline (")]
    assert len(said) == 1
    assert "permission denied" in said[0]
    assert list(tmp_path.glob("wandb/offline-run-*-refused/*.wandb"))

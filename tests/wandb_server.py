"""A stand-in for W&B's server on the loopback address: it takes a run, and then it is gone."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What wandb 0.31 reads of the answers to its queries
ANSWERS: dict[str, Any] = {
    "viewer": {"id": "u", "username": "me", "entity": "me", "flags": "{}", "admin": False, "teams": {"edges": []}},
    "serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"}, "latestLocalVersionInfo": None, "features": []},
    "upsertBucket": {
        "bucket": {
            "id": "x", "name": "run", "displayName": "run", "description": None, "config": "{}", "sweepName": None,
            "historyLineCount": 0, "project": {"id": "p", "name": "emor3_trl", "entity": {"id": "e", "name": "me"}},
        },
        "inserted": True,
    },
    "model": {"bucket": None}, "project": None, "createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []},
}  # fmt: skip


@contextmanager
def serve_until_the_first_upload() -> Iterator[tuple[str, list[str]]]:
    """Give the address of a server that is gone once a run has begun to send, and what it was asked until then."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            uploads = self.path.endswith("/file_stream")
            query = "" if uploads else json.loads(body).get("query", "")
            operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
            asked.append("file_stream" if uploads else operation[1] if operation else self.path)
            answer = json.dumps({} if uploads else {"data": ANSWERS}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            if uploads:
                threading.Thread(target=close).start()

        do_GET = do_POST  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def close() -> None:
        server.shutdown()
        server.server_close()

    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        close()

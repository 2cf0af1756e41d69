"""The page about a run that is training, on this machine only: it shows the next step by itself.

The server answers two addresses, the page and its data, and reads no path from a request. It writes nothing. The page
asks for the data every two seconds; these are gathered again only once a watched file has changed.
"""

import errno
import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from emor3_trl.printing import escape_controls
from emor3_trl.report.page import find_policy, inert_json, render_page

HOST = "127.0.0.1"
# Neither a guess at what a file is, nor a frame, a reference or a window that another page holds
HEADERS = (
    ("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"), ("Cross-Origin-Opener-Policy", "same-origin"),
)  # fmt: skip


class LivePage:
    """What the page shows now.

    Args:
        gather: gives what it shows, JSON values.
        list_files: gives the files that it depends on; they need not be there.
    """

    def __init__(self, gather: Callable[[], dict[str, Any]], list_files: Callable[[], Iterable[Path]]) -> None:
        self._gather, self._list_files = gather, list_files
        self._lock = Lock()
        self._state: tuple[Any, ...] | None = None
        self.page: dict[str, Any] = {}
        self.version = ""

    def refresh(self) -> tuple[dict[str, Any], str]:
        """Gather again if a file has changed.

        Returns:
            What the page shows, and the version of it: another thread may gather again at once.

        Raises:
            ValueError, OSError: at the first time. Later, a file that is being written leaves the page as it was, and
                is read once it has changed again.
        """
        with self._lock:
            state = tuple(_describe_file(path) for path in self._list_files())
            if state == self._state:
                return self.page, self.version
            try:
                page = self._gather() | {"live": True}
                version = hashlib.sha256(inert_json(page).encode()).hexdigest()[:16]
            except (ValueError, OSError, TypeError, LookupError, AttributeError) as error:
                if self._state is None:
                    raise
                print(escape_controls(f"Not drawn again yet: {' '.join(str(error).split())}"), flush=True)
            else:
                self.page, self.version = page, version
            self._state = state
            return self.page, self.version


def serve_page(gather: Callable[[], dict[str, Any]], list_files: Callable[[], Iterable[Path]], port: int) -> None:
    """Serve the page on this machine until Ctrl-C.

    Args:
        gather: gives what the page shows, JSON values.
        list_files: gives the files that it depends on.
        port: where; 0 is any that is free.

    Raises:
        ValueError, OSError: if the page cannot be gathered, or the port is in use.
    """
    live = LivePage(gather, list_files)
    live.refresh()
    try:
        server = ThreadingHTTPServer((HOST, port), make_handler(live))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise OSError(f"port is {port}, which {_REASONS[error.errno]}. Set --port to another one, or to 0.") from error
    with server:
        print(f"Watching at http://{HOST}:{server.server_address[1]} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print("\nNo longer watching.", flush=True)


_REASONS = {errno.EADDRINUSE: "another program uses", errno.EACCES: "this user may not use"}


def make_handler(live: LivePage) -> type[BaseHTTPRequestHandler]:
    """Return what answers the requests: `/` with the page, `/data.json` with what it shows."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "emor3_trl", ""

        def do_GET(self) -> None:
            """Answer with the page or its data."""
            # A name that points to this machine from elsewhere must not let another page read this one
            names = {f"{name}:{self.server.server_address[1]}" for name in (HOST, "localhost")}  # type: ignore[index]
            if self.headers.get("Host") not in names:
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path == "/":
                page, version = live.refresh()
                html = render_page(page)
                self._send("text/html; charset=utf-8", html, version, find_policy(html))
            elif self.path == "/data.json":
                page, version = live.refresh()
                if self.headers.get("If-None-Match") == f'"{version}"':
                    self.send_response(HTTPStatus.NOT_MODIFIED)
                    self.end_headers()
                else:
                    self._send("application/json", inert_json(page), version)
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _send(self, kind: str, text: str, version: str, policy: str = "default-src 'none'") -> None:
            content = text.encode()
            self.send_response(HTTPStatus.OK)
            policy = f"{policy}; frame-ancestors 'none'"
            for name, value in (("Content-Type", kind), ("Content-Length", str(len(content))),
                                ("ETag", f'"{version}"'), ("Cache-Control", "no-store"),
                                ("Content-Security-Policy", policy), *HEADERS):  # fmt: skip
                self.send_header(name, value)
            with suppress(ConnectionError):  # the browser has left
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing: the page asks every two seconds."""

    return Handler


def _describe_file(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (str(path), 0, 0)
    return (str(path), status.st_mtime_ns, status.st_size)

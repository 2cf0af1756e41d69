"""The watched page: what it answers, what it refuses, and files that are half written."""

import hashlib
import json
import socket
import threading
from contextlib import closing
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer

import pytest
from written_rollouts import make_rows, write_rollouts, write_step

from emor3_trl.report import serving
from emor3_trl.report.page import gather_content, inert_json
from emor3_trl.report.rollouts import list_watched_files, load_training_runs
from emor3_trl.report.serving import LivePage, make_handler, serve_page


@pytest.fixture
def folder(tmp_path):
    return write_rollouts(tmp_path / "mine")


@pytest.fixture
def live(folder):
    def gather():
        return gather_content([], title="mine", training=load_training_runs([folder], growing=True))

    return LivePage(gather, lambda: list_watched_files([folder]))


@pytest.fixture
def ask(live):
    live.refresh()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(live))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    port = server.server_address[1]

    def request(path, method="GET", **headers):
        with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            host = headers.pop("host", f"127.0.0.1:{port}")
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path, skip_host=True)
            for name, value in {"Host": host, **names}.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers

    yield request
    server.shutdown()
    server.server_close()


def test_the_page_and_its_data_are_served(ask):
    status, html, headers = ask("/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert "connect-src 'self'" in html
    status, text, headers = ask("/data.json")
    page = json.loads(text)
    assert status == 200
    assert page["live"] is True
    assert len(page["training"]["groups"]) == 6
    assert ask("/data.json", If_None_Match=headers["ETag"])[:2] == (304, "")


@pytest.mark.parametrize(
    "path",
    ["/config.yaml", "/../config.yaml", "/..%2fconfig.yaml", "/completions/completions_00001.parquet", "//etc/passwd",
     "/data.json/../../etc/passwd", "/data.json?file=/etc/passwd", "/%00", "/index.html"],
)  # fmt: skip
def test_no_other_path_is_answered(ask, path):
    status, text, _ = ask(path)
    assert status == 404
    assert "num_generations" not in text
    assert "root:" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(ask, method):
    assert ask("/", method)[0] == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1", ""])
def test_another_name_for_this_machine_is_refused(ask, host):
    assert ask("/data.json", host=host)[0] == 403


def test_a_new_step_changes_the_data(ask, folder):
    before = ask("/data.json")[2]["ETag"]
    write_step(folder, 4, make_rows(4, ["train-1"]))
    status, text, headers = ask("/data.json", If_None_Match=before)
    assert status == 200
    assert headers["ETag"] != before
    assert max(group["step"] for group in json.loads(text)["training"]["groups"]) == 4


def test_the_version_is_that_of_the_data_that_it_comes_with(ask, live, folder, monkeypatch):
    def change_afterwards(value):
        text = inert_json(value)
        monkeypatch.undo()
        write_step(folder, 4, make_rows(4, ["train-1"]))
        live.refresh()  # as another request may
        return text

    monkeypatch.setattr(serving, "inert_json", change_afterwards)
    _, text, headers = ask("/data.json")
    assert headers["ETag"] == f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'
    assert len(json.loads(text)["training"]["groups"]) == 6
    assert ask("/data.json", If_None_Match=headers["ETag"])[0] == 200  # what has changed is not held back


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("completions/completions_00004.parquet", b"PAR1 half", id="completions"),
        pytest.param("trainer_state.json", b'{"log_history": [{"st', id="log"),
        pytest.param("config.yaml", b"rewards: [", id="configuration"),
    ],
)
def test_a_half_written_file_leaves_the_page_whole(ask, folder, name, content):
    (folder / name).write_bytes(content)
    status, text, _ = ask("/data.json")
    assert status == 200
    assert len(json.loads(text)["training"]["groups"]) == 6
    assert ask("/")[0] == 200
    write_step(folder, 5, make_rows(5, ["train-1"]))
    if name.startswith("config"):
        (folder / name).write_text("num_generations: 4\n")
    assert len(json.loads(ask("/data.json")[1])["training"]["groups"]) == 7


def test_nothing_is_gathered_again_while_no_file_changes(live):
    live.refresh()
    page = live.page
    live.refresh()
    assert live.page is page


def test_the_first_page_must_be_whole(tmp_path):
    def fail():
        raise ValueError("nothing here")

    with pytest.raises(ValueError, match="nothing here"):
        serve_page(fail, list, 0)


def test_a_port_in_use_is_told_of_in_one_line(live):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port is {port}, which another program uses\. Set --port"):
            serve_page(live._gather, list, port)

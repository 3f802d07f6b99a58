"""The app's server: who may ask, what is found at which address, and that no address becomes a path."""

import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from made_up_runs import trials, write_run

from finetune_jax.commands.web import server as servers
from finetune_jax.commands.web.guard import COOKIE, MARK, Guard, is_local
from finetune_jax.commands.web.site import Site
from finetune_jax.runs.catalogue import Catalogue

TOKEN = "a-token-of-some-length"


@contextlib.contextmanager
def serving(folder: Path, *, token: str = "", host: str = "localhost") -> Iterator[int]:
    site = Site(Catalogue(folder))
    with servers.Server("127.0.0.1", 0, Guard(host, token), site.respond) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("app") / "runs"
    write_run(root / "photos", dataset="folder:<b>photos</b>")
    write_run(root / "going", done=2, score=None)
    write_run(root / "sweep" / "runs" / "low", score=0.25)
    write_run(root / "sweep" / "runs" / "high", score=0.5, method="autolr", passes=trials())
    (root / "sweep" / "report.html").write_text("the study")
    (root / "photos" / "weights.npz").write_text("no file for people")
    (root.parent / "secret.txt").write_text("secret")
    os.symlink(root.parent / "secret.txt", root / "photos" / "link.txt")
    return root


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    with serving(folder) as number:
        yield number


def ask(port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str):
    """Status, headers and text; names of headers have ``_`` for ``-``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
    if body is not None and "Content_Length" not in headers:
        headers["Content_Length"] = str(len(body))
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


def test_runs_and_studies_are_listed_with_their_state_and_escaped(port):
    status, headers, page = ask(port, "/")
    assert status == 200
    assert "&lt;b&gt;photos&lt;/b&gt;" in page
    assert "<b>photos" not in page
    assert "epoch 2 of 4" in page
    assert f'href="/run/{quote("sweep/runs/high", safe="")}"' in page
    assert "2 of 2" in page  # of the study
    assert "50.00\xa0%" in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


def test_a_part_that_has_not_changed_is_not_sent_again(port):
    _, headers, text = ask(port, "/run/photos/live")
    assert "Finished: test accuracy 75.00\xa0%" in text
    assert "a remark" in text
    status, _, again = ask(port, "/run/photos/live", If_None_Match=headers["ETag"])
    assert (status, again) == (304, "")


def test_what_a_run_has_come_to_since_is_shown(tmp_path):
    run = write_run(tmp_path / "runs" / "one", done=1, score=None)
    with serving(tmp_path / "runs") as port:
        before = ask(port, "/run/one/live")[2]
        with (run / "metrics.csv").open("a") as file:
            file.write("2,20,1.0,0.2,1.05,0.18,1.5\n")
        after = ask(port, "/run/one/live")[2]
    assert "1 of 4 epochs" in before
    assert "2 of 4 epochs" in after


def test_trials_are_told_as_numbers(port):
    _, headers, text = ask(port, f"/run/{quote('sweep/runs/high', safe='')}/trials.json")
    told = json.loads(text)
    assert headers["Content-Type"] == "application/json"
    assert told["blocks"] == ["block_01", "block_02"]
    first, second = told["frames"]
    assert (first["accepted"], second["accepted"]) == (False, True)
    assert first["variations"] == [2e-6, 1e-6]
    assert first["targets"] == [1.5e-6, 2e-6]
    assert second["targets"] == [None, None]
    assert json.loads(ask(port, "/run/photos/trials.json")[2]) == {"blocks": [], "frames": []}


def test_reports_are_served_and_run_no_program(port):
    status, headers, text = ask(port, "/file/photos/report.html")
    assert (status, "the report" in text) == (200, True)
    assert "script-src" not in headers["Content-Security-Policy"]  # none, as default-src says
    assert ask(port, "/file/sweep/report.html")[2] == "the study"
    assert ask(port, "/file/sweep/runs/low/report.html")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/file/../secret.txt",
        "/file/photos/../../secret.txt",
        "/file/photos/..%2f..%2fsecret.txt",
        "/file/%2e%2e/secret.txt",
        "/file//etc/passwd",
        "/file/%2fetc%2fpasswd",
        "/file/photos/link.txt",
        "/file/photos/weights.npz",
        "/file/photos/.report.html",
        "/file/photos/",
        "/file/photos/report.html/",
        "/file/photos%00/report.html",
        "/run/..",
        "/run/%2e%2e%2f",
        "/run/photos/nothing",
        "/run/photos/../going",
        "/../../etc/passwd",
    ],
)
def test_nothing_else_is_found_whatever_the_address(port, path):
    status, _, text = ask(port, path)
    assert status == 404
    assert "secret" not in text
    assert "root:" not in text


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1"]
)
def test_pages_of_other_names_that_point_here_get_nothing(port, host):
    assert ask(port, "/", Host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1:80", "[::1]:7860"])
def test_this_machine_is_known_by_its_names_at_any_port(port, host):
    """Another port is that of a tunnel."""
    assert ask(port, "/", Host=host)[0] == 200


def test_other_sites_cannot_send_anything(port):
    """Without asking first, a page of another site can make a browser send a form, but no header of its own."""
    status, _, text = ask(port, "/run/photos/photo/labels", "POST", b"x", Origin="http://evil.example")
    assert status == 403
    assert "Only the app" in text


def test_uploads_are_bounded_before_they_are_read(port):
    headers = {MARK.replace("-", "_"): "1"}
    too_much = str(servers.LARGEST_BODY + 1)
    path = "/run/photos/photo/labels"
    assert ask(port, path, "POST", Content_Length=too_much, **headers)[0] == 413
    for length in ("-1", "1e3", "x", "٣"):
        with contextlib.suppress(UnicodeEncodeError):  # the client's own refusal
            assert ask(port, path, "POST", Content_Length=length, **headers)[0] == 411
    assert ask(port, path, "POST", Transfer_Encoding="chunked", **headers)[0] == 411


def test_a_run_without_a_checkpoint_is_answered_by_a_sentence(port):
    status, _, text = ask(port, "/run/going/photo")
    assert status == 422
    assert "has not ended its first epoch" in text
    assert "Traceback" not in text


def test_a_request_that_is_none_stops_nobody(port):
    for content in (
        b"\r\n\r\n",
        b"GET",
        b"\x16\x03\x01\x02\x00",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                connection.recv(1000)
    assert ask(port, "/")[0] == 200


def test_a_token_is_asked_for_and_goes_from_the_address_into_a_cookie(folder):
    with serving(folder, token=TOKEN, host="0.0.0.0") as port:
        assert ask(port, "/", Host="machine.example")[0] == 401
        assert ask(port, "/file/photos/report.html")[0] == 401
        assert ask(port, "/?token=another")[0] == 401
        assert ask(port, "/", Cookie=f"{COOKIE}=another")[0] == 401
        assert ask(port, "/?token=%C3%A4")[0] == 401
        status, headers, _ = ask(port, f"/run/photos?token={TOKEN}")
        assert (status, headers["Location"]) == (303, "/run/photos")
        assert "HttpOnly" in headers["Set-Cookie"]
        assert "SameSite=Strict" in headers["Set-Cookie"]
        cookie = headers["Set-Cookie"].partition(";")[0]
        assert ask(port, "/run/photos", Host="machine.example:1", Cookie=cookie)[0] == 200


def test_where_others_reach_it_is_known():
    assert [is_local(host) for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost")] == [True] * 4
    assert [is_local(host) for host in ("0.0.0.0", "::", "", "192.168.0.1", "localhost.example")] == [
        False
    ] * 5

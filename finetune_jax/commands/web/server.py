"""The HTTP server of the app: bounded requests in, headers that keep pages to themselves out."""

import contextlib
import socket
import socketserver
import sys
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

from finetune_jax.commands.web.answers import Answer, Request, html
from finetune_jax.commands.web.guard import MARK, Guard
from finetune_jax.errors import UserError, message
from finetune_jax.reports import app_pages

LARGEST_BODY = 64_000_000
"""Bytes of an upload."""

_SECONDS = 30.0
_AT_ONCE = 16

_HEADERS = {
    # Pages load nothing from elsewhere, run no program but the app's own, and stand in no other page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Answers requests of the guard's choice with what a function makes of them."""

    daemon_threads = True

    def __init__(self, host: str, port: int, guard: Guard, respond: Callable[[Request], Answer]) -> None:
        """Listen; ``serve_forever`` answers.

        Args:
            host: name or address.
            port: 0 takes a free one.
            guard: decides first.
            respond: makes the answers; may be called from several threads.

        Raises:
            OSError: the address cannot be taken.
        """
        self.guard = guard
        self.respond = respond
        self.places = threading.BoundedSemaphore(_AT_ONCE)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Without the look-up of the host's full name in ``HTTPServer``, which may wait for a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "finetune-jax"
    sys_version = ""
    timeout = _SECONDS

    def do_GET(self) -> None:
        """A page, or a part of one."""
        self._answer(b"")

    def do_POST(self) -> None:
        """A photo, or corrections."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._send(html(app_pages.problem("The request does not say how long it is."), 411))
        elif int(length) > LARGEST_BODY:
            self._send(html(app_pages.problem(f"More than {LARGEST_BODY // 10**6} MB are not taken."), 413))
        elif self.headers.get(MARK) is None:
            self._send(html(app_pages.problem("Only the app's own pages may send anything."), 403))
        else:
            # Read only after the guard has looked.
            self._answer(None, int(length))

    def _answer(self, body: bytes | None, length: int = 0) -> None:
        if not self.server.places.acquire(blocking=False):
            self._send(html(app_pages.problem("Too many requests at once; try again."), 503))
            return
        try:
            self._send(self._guarded(body, length))
        finally:
            self.server.places.release()

    def _guarded(self, body: bytes | None, length: int) -> Answer:
        guard = self.server.guard
        try:
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query, max_num_fields=20))
        except ValueError:
            return html(app_pages.stop("No such page", "The address cannot be read."), 400)
        if not guard.knows_host(self.headers.get("Host")):
            return html(app_pages.stop("Not here", "Open the app by the address that it has printed."), 421)
        if not guard.knows_token(self.headers, query):  # type: ignore[arg-type]
            return html(
                app_pages.stop("Token needed", "Open the address that the app has printed, with its token."),
                401,
            )
        if query.pop("token", None) is not None:
            # Out of the address, where others may see it, and of the history.
            return Answer(
                b"", status=303, headers={"Location": parts.path or "/", "Set-Cookie": guard.cookie()}
            )
        if body is None:
            body = self.rfile.read(length)
        path = tuple(unquote(part) for part in parts.path.split("/")[1:])
        name = unquote(self.headers.get("X-File-Name", ""))
        try:
            return self.server.respond(Request(self.command, path, query, body, name))
        except UserError as error:
            return html(app_pages.problem(message(error)), 422)
        except Exception as error:
            traceback.print_exc()
            return html(app_pages.problem(f"{type(error).__name__}: {message(error)}"), 500)

    def _send(self, answer: Answer) -> None:
        tag = answer.tag if answer.stands else None
        same = tag is not None and self.headers.get("If-None-Match") == tag
        with contextlib.suppress(ConnectionError):
            self.send_response(304 if same else answer.status)
            headers = {"Content-Type": answer.kind, **_HEADERS, **answer.headers}
            if tag is not None:
                headers["ETag"] = tag
            if not same:
                headers["Content-Length"] = str(len(answer.body))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if not same:
                self.wfile.write(answer.body)

    def log_message(self, format: str, *values: object) -> None:
        """Requests are not news."""

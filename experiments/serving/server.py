"""The server: one page, one kind of answer, and nobody else's requests.

A page of another site can send requests to this machine too. Its requests have that
site as `Origin`; and where its name was made to point here (DNS rebinding), as `Host`.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import responses
from ipaddress import ip_address
from threading import Event, Thread
from typing import Any, NoReturn

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPInputError, parse_body_arguments, split_host_and_port
from tornado.netutil import bind_sockets
from tornado.web import Application, Finish, RequestHandler, stream_request_body

from experiments.command.options import RunError, UsageError
from experiments.pages.try_page import Page, try_page
from experiments.serving.service import (
    LARGEST,
    RefusedError,
    Reply,
    Service,
    Upload,
    as_json,
)
from jaxvision.text import printable

HERE = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine for itself."""
ALL = ("0.0.0.0", "::")
"""Addresses that stand for all those of a machine."""
WAITING = 8
"""Photographs that are taken before the first is answered: what bounds the memory."""
PATIENCE = 600.0
"""Seconds that a sender may take."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Server": "jaxvision",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Ready = Callable[[str, Callable[[], object]], None]
"""`ready(address, stop)`: it answers there; `stop`, called in any thread, ends it."""


def serve(service: Service, *, host: str, port: int, ready: Ready) -> None:
    """Serves until it is stopped; nothing that is sent is kept.

    Raises:
      UsageError: there is no such host here.
      RunError: the port is taken.
    """
    asyncio.run(_serve(service, host=host, port=port, ready=ready))


async def _serve(service: Service, *, host: str, port: int, ready: Ready) -> None:
    sockets = _listen(host, port)
    stop, ended = Event(), asyncio.Event()
    worker = ThreadPoolExecutor(1, thread_name_prefix="answers")
    page = try_page({**service.about, "largest": LARGEST})
    server = HTTPServer(
        _application(service, page, host=host, worker=worker, stop=stop),
        # Larger ones are read and dropped, so that their sender hears why.
        max_body_size=2**50,
        body_timeout=PATIENCE,
        idle_connection_timeout=PATIENCE,
    )
    server.add_sockets(sockets)
    worker.submit(service.warm)
    behind = Thread(target=service.behind or (lambda stop: None), args=(stop,))
    behind.start()
    loop = asyncio.get_running_loop()
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{sockets[0].getsockname()[1]}/"
    try:
        ready(address, lambda: loop.call_soon_threadsafe(ended.set))
        await ended.wait()
    finally:
        stop.set()
        server.stop()
        worker.shutdown(cancel_futures=True)
        behind.join()
        await server.close_all_connections()


def _listen(host: str, port: int) -> list[socket.socket]:
    try:
        return bind_sockets(port, address=host)
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: {error.strerror}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"cannot serve at {host}, port {port} ({reason}): give another --port"
        ) from error


def _application(
    service: Service, page: Page, *, host: str, worker: ThreadPoolExecutor, stop: Event
) -> Application:
    kept = {"allows": _allowed(host)}
    answers = [
        (path, _Answer, kept | {"answer": answer, "worker": worker, "stop": stop})
        for path, answer in service.answers.items()
    ]
    return Application(
        [("/", _Page, kept | {"page": page}), *answers],
        default_handler_class=_Nothing,
        default_handler_args=kept | {"paths": ["/", *service.answers]},
        log_function=lambda handler: None,
        waiting=set(),
    )


def _allowed(host: str) -> Callable[[str], bool]:
    """Whether a `Host` without its port names this machine, and nobody else's site.

    Where all addresses are served, those are names too: no site has an address alone.
    """
    own = {*HERE, host.lower(), f"[{host.lower()}]"}
    if host in ALL:
        own.add(socket.gethostname().lower())

    def allows(name: str) -> bool:
        if name.lower() in own:
            return True
        with suppress(ValueError):
            return host in ALL and bool(ip_address(name.strip("[]")))
        return False

    return allows


@stream_request_body
class _Guarded(RequestHandler):
    """Answers those alone who speak to this machine by its name, in JSON.

    Bodies come in parts, so that whoever may not send one is told at its beginning.
    """

    def initialize(self, *, allows: Callable[[str], bool]) -> None:
        self._allows = allows

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        host = self.request.headers.get("Host", "")
        if not self._allows(split_host_and_port(host)[0]):
            self._refuse(403, f"the host {host!r:.100} is not served here")
        origin = self.request.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            self._refuse(403, f"pages of {origin!r:.100} may send nothing here")

    def data_received(self, chunk: bytes) -> None:
        """Drops what is sent to where nothing is taken."""

    def _write_error(self, status_code: int, **_: Any) -> None:
        """What nobody foresaw, and methods that there are not."""
        self.finish(self._error(status_code, responses.get(status_code, "error")))

    write_error = _write_error

    def _refuse(self, status: int, line: str) -> NoReturn:
        raise Finish(self._error(status, line))

    def _error(self, status: int, line: str) -> bytes:
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        return as_json({"error": printable(" ".join(line.split()))}).body


class _Nothing(_Guarded):
    """Whatever else is asked for."""

    def initialize(self, *, allows: Callable[[str], bool], paths: list[str]) -> None:
        super().initialize(allows=allows)
        self._paths = paths

    def prepare(self) -> None:
        super().prepare()
        self._refuse(404, f"there is nothing here but {', '.join(self._paths)}")


class _Page(_Guarded):
    """The page."""

    def initialize(self, *, allows: Callable[[str], bool], page: Page) -> None:
        super().initialize(allows=allows)
        self._page = page

    def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", self._page.policy)
        self.finish(self._page.html)


class _Answer(_Guarded):
    """Takes one photograph, and answers in the worker's thread."""

    def initialize(
        self,
        *,
        allows: Callable[[str], bool],
        answer: Callable[[Upload], Any],
        worker: ThreadPoolExecutor,
        stop: Event,
    ) -> None:
        super().initialize(allows=allows)
        self._answer, self._worker, self._stop = answer, worker, stop
        self._data, self._gone = bytearray(), Event()
        self._is_too_large = self._is_begun = False

    def prepare(self) -> None:
        super().prepare()
        if self.request.method != "POST":
            self._refuse(405, f"POST a photo to {self.request.path}")
        if len(self._waiting) >= WAITING:
            self.set_header("Retry-After", "5")
            self._refuse(503, f"{WAITING} photos wait already: try again later")
        self._waiting.add(self)

    def data_received(self, chunk: bytes) -> None:
        self._is_too_large |= len(self._data) + len(chunk) > LARGEST
        if self._is_too_large:
            self._data.clear()
        else:
            self._data += chunk

    async def post(self) -> None:
        if self._is_too_large:
            self._refuse(413, f"more than {LARGEST / 2**20:.0f} MiB")
        name, data = self._photo()
        wishes = {key: self.get_query_argument(key) for key in self.request.arguments}
        upload = Upload(name, data, wishes, self._is_gone)
        loop = asyncio.get_running_loop()
        self._is_begun = True
        try:
            reply = await loop.run_in_executor(self._worker, self._unless_gone, upload)
        except RefusedError as error:
            self._refuse(error.status, str(error))
        self.set_header("Content-Type", reply.kind)
        self.finish(reply.body)

    def on_finish(self) -> None:
        self._waiting.discard(self)

    def on_connection_close(self) -> None:
        self._gone.set()
        self._data.clear()
        if not self._is_begun:  # else its photo is held until the worker comes to it
            self._waiting.discard(self)
        super().on_connection_close()

    def _unless_gone(self, upload: Upload) -> Reply:
        if upload.is_gone():
            raise RefusedError(499, "the sender has gone")
        return self._answer(upload)

    @property
    def _waiting(self) -> set[RequestHandler]:
        return self.settings["waiting"]

    def _is_gone(self) -> bool:
        return self._gone.is_set() or self._stop.is_set()

    def _photo(self) -> tuple[str, bytes]:
        """The photo that is the body, or the one file of a form; and its name."""
        name = self.get_query_argument("name", "photo")
        kind = self.request.headers.get("Content-Type", "")
        data = bytes(self._data)
        self._data.clear()
        if kind.startswith("multipart/form-data"):
            files: dict[str, list[Any]] = {}
            try:
                parse_body_arguments(kind, data, {}, files)
            except HTTPInputError as error:
                self._refuse(400, str(error))
            sent = [file for each in files.values() for file in each]
            if len(sent) != 1:
                self._refuse(400, f"the form has {len(sent)} files: send one")
            name, data = sent[0].filename or name, sent[0].body
        if not data:
            self._refuse(400, "there is no photo in the request")
        return name.replace("\\", "/").rpartition("/")[2], data

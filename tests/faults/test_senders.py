"""Senders that are no friends of the page, or that do not wait for its answer."""

import socket
import threading
import time

import pytest

from experiments.serving import server
from experiments.serving.service import Reply, Service
from tests.serving import served

pytestmark = pytest.mark.app


@pytest.mark.parametrize("path", ["/", "/enlarge", "/nothing"])
def test_a_foreign_pages_body_is_refused_before_it_has_come(path):
    """It would fill the memory else; not a byte of the promised ones is sent here."""
    about = {"task": "enlarge", "net": "x", "scale": 2, "facts": {}}
    service = Service(about, {"/enlarge": lambda upload: None}, warm=lambda: None)
    with served(service) as page:
        assert refusal(page, path).startswith(b"HTTP/1.1 403 ")


def refusal(page, path):
    """How the answer begins to a page elsewhere that announces 10 GB."""
    port = int(page.address.rstrip("/").rpartition(":")[2])
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Origin: http://attacker.example\r\nContent-Length: 10000000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sender:
        sender.sendall(head.encode())
        return sender.recv(100)


def test_senders_that_go_leave_room_for_others():
    go, answered = threading.Event(), []

    def answer(upload):
        go.wait(60)
        answered.append(upload.data)
        return Reply("text/plain", upload.data)

    about = {"task": "enlarge", "net": "x", "scale": 2, "facts": {}}
    service = Service(about, {"/enlarge": answer}, warm=lambda: None)
    with served(service) as page:
        port = int(page.address.rstrip("/").rpartition(":")[2])
        head = f"POST /enlarge HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        for body in (b"Content-Length: 9\r\n\r\nabc", b"Content-Length: 1\r\n\r\nx"):
            for _ in range(server.WAITING - 1):
                with socket.create_connection(("127.0.0.1", port), timeout=30) as gone:
                    gone.sendall(head.encode() + body)
                    time.sleep(0.05)
        time.sleep(0.5)  # the last one's going is noticed
        go.set()
        deadline = time.monotonic() + 60
        while (last := page.send("POST", "/enlarge", b"9")).status == 503:
            assert time.monotonic() < deadline
        assert last.body == b"9"
    # One had begun; the others' senders were gone before their turn.
    assert answered.count(b"x") <= 1 and answered.count(b"9") == 1

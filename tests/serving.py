"""A server in a thread, tiny models for it, and what is sent to it."""

import http.client
import json
import threading
from contextlib import contextmanager
from queue import Queue
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
import yaml
from flax import nnx

from converters.bundle import save_bundle
from experiments.pages.predictions import write_predictions
from experiments.serving.server import serve
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing
from tests.photos import make_folder, save

CLASSES = ("ants", "b/c", "</script><b>")


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        assert self.headers["Content-Type"].startswith("application/json")
        return json.loads(self.body)

    def refused(self, status, words):
        """One line of JSON says why."""
        assert self.status == status, self.body[:300]
        assert list(self.json) == ["error"] and words in self.json["error"]
        assert self.body.count(b"\n") == 1


class Server(NamedTuple):
    """Where it answers."""

    address: str

    def send(self, method, path, body=None, **headers):
        """One request; headers by their names, `_` for `-`, None for none."""
        place = urlsplit(self.address)
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
        given = {"Host": place.netloc}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in given.items():
            if value is not None:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        reply = connection.getresponse()
        answer = Answer(reply.status, dict(reply.headers), reply.read())
        connection.close()
        return answer

    def post(self, path, file, *, wishes="", **headers):
        """One photo, a path, by its name."""
        path = f"{path}?name={quote(file.name)}{wishes}"
        return self.send("POST", path, file.read_bytes(), **headers)


@contextmanager
def served(service, *, host="127.0.0.1"):
    """The server of a service, on a free port, until the block ends."""
    ready = Queue()

    def work():
        try:
            serve(service, host=host, port=0, ready=lambda *said: ready.put(said))
        except BaseException as error:  # the test is to hear of it
            ready.put(error)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    said = ready.get(timeout=60)
    assert not isinstance(said, BaseException), said
    address, stop = said
    try:
        yield Server(address)
    finally:
        stop()
        thread.join(timeout=60)
        assert not thread.is_alive()


def write_tiny(path, *, classes=CLASSES, certainty=None, net="cnn_small"):
    """The file of a tiny model with random weights."""
    model = models.create(net, num_classes=len(classes), rngs=nnx.Rngs(0))
    _, params, stats = functionalize(model)
    save_bundle(
        path,
        net,
        params,
        stats,
        classes=classes,
        preprocessing=Preprocessing(36, 32),
        certainty=certainty,
    )
    return path


def write_run(folder, *, classes=("ants", "bees"), certainty=None):
    """What is left of a run, with its data beside it: ten photos a class, two judged.

    Returns:
      The run's folder, the photos that it was trained on, those it was judged by.
    """
    data = folder / "data"
    make_folder(data, {f"train/{name}": 10 for name in classes})
    train = sorted((data / "train").glob("*/*.png"))
    for seed, name in enumerate(classes):
        for index in range(2):
            save(data / "val" / name / f"v{index}.png", seed=900 + 10 * seed + index)
    val = sorted((data / "val").glob("*/*.png"))
    run = folder / "run"
    run.mkdir()
    write_tiny(run / "model.safetensors", classes=classes, certainty=certainty)
    (run / "config.yaml").write_text(yaml.safe_dump({"data": str(data)}))
    labels = np.array([classes.index(path.parent.name) for path in val], np.int32)
    table = np.full((len(val), len(classes)), 1 / len(classes))
    names = [str(path) for path in val]
    write_predictions(run / "predictions.csv", names, table, classes, labels=labels)
    return run, train, val

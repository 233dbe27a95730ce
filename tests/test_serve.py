"""The server to try a model on: predict's answers, and no other site's requests."""

import base64
import csv
import hashlib
import io
import re
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters.bundle import load_bundle
from experiments import predict, serve
from experiments.command.options import RunError, UsageError, run_cli
from experiments.inference.portable import (
    About,
    open_portable,
    read_photos,
    write_about,
)
from experiments.serve import Config, open_service
from experiments.serving import nearest, server
from experiments.serving.service import (
    Reply,
    Service,
    safe_file,
    safe_folders,
    safe_name,
)
from jaxvision.calibration import Certainty
from jaxvision.data import file_photos
from jaxvision.data.image_files import file_photo
from jaxvision.data.sources import find_source
from tests.photos import MODES, bad_file, in_mode, noise, save
from tests.runs import rows_of
from tests.serving import CLASSES, served, write_run, write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The file of a tiny model that has a temperature and a threshold."""
    path = tmp_path_factory.mktemp("tiny") / "model.safetensors"
    return write_tiny(path, certainty=Certainty(0.5, ((0.9, 0.6),)))


@pytest.fixture(scope="module")
def page(tiny):
    with served(open_service(Config(run=tiny, precision=0.9))) as found:
        yield found


def test_answers_are_those_of_predict_to_the_bit(tiny, page, tmp_path):
    photos = [
        save(tmp_path / "photos" / name, in_mode(mode), **options)
        for name, (mode, options) in MODES.items()
    ]
    table = tmp_path / "t.csv"
    predict.main(
        predict.Config(run=tiny, images=(tmp_path / "photos",), csv=table, top=1)
    )
    with open(table, newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    model = open_portable(tiny)
    compute = model.make_predict()
    assert len(photos) > 10
    for photo in photos:
        said = page.post("/predict", photo).json
        images, _ = read_photos([file_photo(photo)], model)
        (row,) = compute(images)
        assert said["probabilities"] == dict(zip(CLASSES, row.tolist(), strict=True))
        assert said["prediction"] == CLASSES[row.argmax()]
        assert said["probability"] == row.max()
        assert said["unsure"] == (row.max() < 0.6)
        assert said["name"] == photo.name
        # The same with all photos in one batch, to the digits that the table has.
        cells = rows[str(photo)]
        digits = np.array([cells[name] for name in CLASSES], np.float32)
        np.testing.assert_array_equal(digits, row.astype(np.float32))
    assert {"pictures", "seen", "looked", "nearest"}.isdisjoint(said)


def test_several_labels_are_those_that_reach_their_thresholds(tmp_path):
    limits = (0.2, 0.5, 0.999)
    several = Certainty(label_thresholds=limits)
    file = write_tiny(tmp_path / "model.safetensors", certainty=several)
    photo = save(tmp_path / "x.png")
    predict.main(predict.Config(file, (photo,), csv=tmp_path / "t.csv"))
    (row,) = rows_of(tmp_path / "t.csv")
    with served(open_service(Config(run=file))) as page:
        said = page.post("/predict", photo, wishes="&pictures=1").json
    shares = [said["probabilities"][name] for name in CLASSES]
    named = [n for n, p, t in zip(CLASSES, shares, limits, strict=True) if p >= t]
    assert said["predictions"] == named and 0 < len(named) < 3
    assert row["predictions"] == ";".join(named)
    assert [float(row[name]) for name in CLASSES] == pytest.approx(shares, rel=1e-6)
    assert said["thresholds"] == dict(zip(CLASSES, limits, strict=True))
    over = np.argmax(np.subtract(shares, limits))
    assert said["looked_for"] == CLASSES[over] and said["looked"]
    assert not {"prediction", "probability", "unsure"} & said.keys()
    with pytest.raises(
        UsageError, match="--precision: the model gives a photo several"
    ):
        open_service(Config(run=file, precision=0.9))


def test_no_photo_but_those_drawn_becomes_an_object(tmp_path, monkeypatch):
    """Of many training photos `MOST` are looked through, by chance, of all classes."""
    run, train, val = write_run(tmp_path)
    made = []
    monkeypatch.setattr(nearest, "MOST", 6)
    monkeypatch.setattr(
        file_photos,
        "file_photo",
        lambda path, **about: made.append(path) or file_photo(path, **about),
    )
    find_source(str(tmp_path / "data"), labelled=True)
    listed = len(made)  # to tell the splits apart, say
    found, why = nearest.training_photos(run)
    assert why == "" and len(found) == len({photo.name for photo, _ in found}) == 6
    assert listed + 6 <= len(made) - listed <= listed + 6 + len(val) < len(train)
    assert {photo.name for photo, _ in found} <= set(map(str, train))
    for photo, label in found:
        assert Path(photo.name).parent.name == label
    assert {label for _, label in found} == {"ants", "bees"}


def test_form_of_a_program_is_answered_as_the_bare_photo(page, tmp_path):
    photo = save(tmp_path / "x.png")

    def form(*names):
        parts = [
            b'--cut\r\nContent-Disposition: form-data; name="x"; filename="%s"\r\n\r\n'
            % name.encode()
            + photo.read_bytes()
            + b"\r\n"
            for name in names
        ]
        kind = "multipart/form-data; boundary=cut"
        body = b"".join(parts) + b"--cut--\r\n"
        return page.send("POST", "/predict", body, Content_Type=kind)

    bare, sent = page.post("/predict", photo).json, form("../../y.png").json
    assert sent == bare | {"name": "y.png"}
    form("a.png", "b.png").refused(400, "the form has 2 files: send one")
    kind = "multipart/form-data"
    answer = page.send("POST", "/predict", b"x", Content_Type=kind)
    answer.refused(400, "boundary")


def test_pictures_are_made_where_they_are_wished_for(page, tmp_path):
    photo = save(tmp_path / ".hidden bee.PNG")
    said = page.post("/predict", photo, wishes="&pictures=1").json
    for name, side in (("seen", 32), ("looked", 224)):
        kind, _, text = said[name].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            assert image.size == (side, side)
    assert said["file"] == "hidden bee.PNG"
    assert said["nearest"] == []
    assert "there is no config.yaml beside the model" in said["nearest_note"]


def test_export_answers_and_says_what_it_cannot_show(tiny, page, tmp_path):
    bundle = load_bundle(tiny)
    about = About("safetensors", bundle.name, *bundle[2:])
    write_about(tmp_path / "bundle.json", about)
    (tmp_path / "model.safetensors").write_bytes(tiny.read_bytes())
    photo = save(tmp_path / "x.png")
    with served(open_service(Config(run=tmp_path))) as other:
        said = other.post("/predict", photo, wishes="&pictures=1").json
    assert said["probabilities"] == page.post("/predict", photo).json["probabilities"]
    assert said["looked"] is None and said["nearest"] == []
    assert "serve the run" in said["looked_note"]
    assert "serve the run" in said["nearest_note"]


def test_nearest_are_the_runs_own_training_photos(tmp_path):
    run, train, val = write_run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with served(open_service(Config(run=run))) as page:
        note, deadline = "", time.monotonic() + 60
        while note != "among 20 training photos" and time.monotonic() < deadline:
            said = page.post("/predict", train[3], wishes="&pictures=1").json
            note = said["nearest_note"]
        assert note == "among 20 training photos"
        first, *others = said["nearest"]
        assert first["name"] == str(train[3]) and first["label"] == "ants"
        assert first["similarity"] == pytest.approx(1, abs=1e-5)
        assert len(others) == 3
        shares = [one["similarity"] for one in said["nearest"]]
        assert shares == sorted(shares, reverse=True)
        for photo in val:
            said = page.post("/predict", photo, wishes="&pictures=1").json
            names = {one["name"] for one in said["nearest"]}
            assert names <= set(map(str, train)) and len(names) == 4
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert after == before  # nothing that was sent, or computed, is kept


def test_run_whose_photos_moved_answers_without_them(tmp_path):
    run, (photo, *_), _ = write_run(tmp_path)
    elsewhere = (tmp_path / "data").rename(tmp_path / "elsewhere")
    photo = elsewhere / photo.relative_to(tmp_path / "data")
    with served(open_service(Config(run=run))) as page:
        note = "being listed"
        while "being listed" in note:
            said = page.post("/predict", photo, wishes="&pictures=1").json
            note = said["nearest_note"]
    assert note.startswith("The training photos are not at hand: ")
    assert str(tmp_path / "data") in note and said["nearest"] == []


HOSTS = {
    "127.0.0.1:{port}": True,
    "localhost:{port}": True,
    "[::1]:{port}": True,
    "LOCALHOST": True,
    "localhost:9999": True,  # another port of this machine, forwarded by ssh
    "attacker.example:{port}": False,
    "localhost.attacker.example": False,
    "127.0.0.1.attacker.example": False,
    "192.168.0.7:{port}": False,
    "": False,
    None: False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_only_names_of_this_machine_are_served(page, host):
    port = page.address.rstrip("/").rpartition(":")[2]
    named = host and host.format(port=port)
    for method, path in (("GET", "/"), ("POST", "/predict"), ("GET", "/nothing")):
        answer = page.send(method, path, b"x" if method == "POST" else None, Host=named)
        if HOSTS[host]:
            assert answer.status in (200, 400, 404)
        elif named is None:
            assert answer.status in (400, 403)
        else:
            answer.refused(403, "is not served here")


def test_pages_of_other_sites_may_send_nothing(page, tmp_path):
    photo = save(tmp_path / "x.png")
    own = page.address.rstrip("/")
    port = own.rpartition(":")[2]
    assert page.post("/predict", photo, Origin=own).status == 200
    here = f"localhost:{port}"
    assert page.post("/predict", photo, Host=here, Origin=f"http://{here}").json
    for origin in (
        "http://attacker.example",
        f"http://attacker.example:{port}",
        f"https://127.0.0.1:{port}",
        "http://127.0.0.1:3000",  # another program's page on this machine
        f"http://localhost:{port}",  # the other name: another origin to a browser
        "null",
        "",
    ):
        answer = page.post("/predict", photo, Origin=origin)
        answer.refused(403, "may send nothing here")
        assert not [x for x in answer.headers if x.startswith("Access-Control")]
        asked = page.send("OPTIONS", "/predict", Origin=origin)
        asked.refused(403, "may send nothing here")


def test_all_addresses_are_served_by_number_and_by_no_foreign_name(tiny):
    allows = server._allowed("0.0.0.0")
    assert allows("192.168.0.7") and allows("[fe80::1]") and allows("localhost")
    assert allows(socket.gethostname()) and not allows("attacker.example")
    assert server._allowed("box.lan")("box.lan")
    assert not server._allowed("box.lan")("192.168.0.7")
    with served(open_service(Config(run=tiny)), host="0.0.0.0") as page:
        assert page.send("GET", "/", Host="10.0.0.1:80").status == 200
        page.send("GET", "/", Host="attacker.example").refused(403, "not served here")


def test_what_is_no_photo_is_refused_in_one_line(page, tmp_path, monkeypatch):
    for kind in ("text.jpg", "truncated.jpg", "corrupt.png", "float.tif"):
        answer = page.post("/predict", bad_file(tmp_path / kind, kind))
        answer.refused(400, f"{kind}: ")
    page.post("/predict", bad_file(tmp_path / "e.jpg", "empty.jpg")).refused(
        400, "there is no photo in the request"
    )
    (tmp_path / "bomb.ppm").write_bytes(b"P6 30000 30000 255 x")
    answer = page.post("/predict", tmp_path / "bomb.ppm")
    answer.refused(400, "exceeds limit of 178956970 pixels")
    escape = page.send("POST", "/predict?name=%1b[31m%0ax.jpg", b"no photo")
    escape.refused(400, "[31m x.jpg: no image")
    assert b"\x1b" not in escape.body
    page.send("GET", "/predict").refused(405, "POST a photo to /predict")
    page.send("DELETE", "/").refused(405, "Method Not Allowed")
    page.send("GET", "/../etc/passwd").refused(404, "nothing here but /, /predict")
    page.send("POST", "/enlarge", b"x").refused(404, "nothing here but /, /predict")
    photo = save(tmp_path / "x.png")
    monkeypatch.setattr(server, "LARGEST", 1000)
    assert photo.stat().st_size > 1000
    page.post("/predict", photo).refused(413, "more than 0 MiB")
    monkeypatch.setattr(server, "LARGEST", photo.stat().st_size)
    assert page.post("/predict", photo).status == 200


def test_server_stays_responsive_and_takes_no_more_than_it_can_hold():
    go, begun = threading.Event(), threading.Event()

    def answer(upload):
        begun.set()
        go.wait(60)
        return Reply("text/plain", upload.data)

    about = {"task": "enlarge", "net": "x", "scale": 2, "facts": {}}
    service = Service(about, {"/enlarge": answer}, warm=lambda: None)
    found = []
    with served(service) as page:

        def ask(index):
            found.append(page.send("POST", "/enlarge", b"%d" % index))

        threads = [
            threading.Thread(target=ask, args=(index,))
            for index in range(server.WAITING)
        ]
        for thread in threads:
            thread.start()
        begun.wait(60)
        assert page.send("GET", "/").status == 200
        deadline = time.monotonic() + 60
        while True:  # until the last thread has come so far
            extra = page.send("POST", "/enlarge", b"")
            if extra.status == 503 or time.monotonic() > deadline:
                break
        extra.refused(503, "8 photos wait already")
        assert extra.headers["Retry-After"] == "5"
        go.set()
        for thread in threads:
            thread.join()
        bodies = sorted(int(answer.body) for answer in found)
        assert bodies == list(range(server.WAITING))
        assert page.send("POST", "/enlarge", b"9").body == b"9"


def test_page_is_one_file_that_can_load_nothing_from_elsewhere(page):
    answer = page.send("GET", "/")
    html = answer.body.decode()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; ")
    assert "unsafe" not in policy and "http" not in policy
    assert not re.search(r"https?://|url\(|@import|<link rel=.stylesheet|src=", html)
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = hashlib.sha256(text.encode()).digest()
        assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert html.count("</script>") == 2 and "<b>" not in html  # of a class's name
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Cache-Control"] == "no-store"


def test_names_are_safe_wherever_the_corrections_are_unpacked():
    folders = safe_folders(("a", "b/c", "b_c", "..", "CON", "A", "x.", "c++", "über"))
    assert folders == [
        "a",
        "b_c",
        "b_c-2",
        "class-3",
        "_CON",
        "A-5",
        "x",
        "c++",
        "über",
    ]
    mixed = safe_folders(("a-2", "a", "A"))
    assert len({folder.lower() for folder in mixed}) == 3
    assert safe_name("../../etc/passwd", instead="x") == "_.._etc_passwd"
    assert len(safe_name("ä" * 300, instead="x").encode()) == 120
    assert "\x1b" not in safe_name("a\x1b[31m\ud800", instead="x")
    assert safe_file("a.b.JPG", ending=".png") == "a.b.JPG"
    assert safe_file("noending", ending=".png") == "noending.png"
    assert safe_file("page.html", ending=".jpg") == "page.html.jpg"
    assert safe_file(".jpg", ending=".png") == "photo.jpg"


def test_wrong_calls_end_in_one_line(tiny, tmp_path, monkeypatch):
    def refused(config, message, error=UsageError):
        with pytest.raises(error, match=message) as caught:
            serve.main(replace(config, open=False))
        assert "\n" not in str(caught.value)

    refused(Config(run=tmp_path / "none"), "none: no such run")
    refused(Config(run=tiny, scale=2), "--scale: .* names what photos show")
    refused(Config(run="light", precision=0.9), "--precision: light enlarges photos")
    refused(Config(run=tiny, precision=0.99), "--precision 0.99: no threshold")
    refused(Config(run=tiny, host="no.such.host.invalid"), "--host no.such.host")
    refused(Config(run=tiny, host="192.0.2.1"), "cannot serve at 192.0.2.1", RunError)
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    refused(Config(run=tiny), r"tornado is not installed: pip install .*\[serve\]")


def test_port_that_is_taken_is_one_line_and_exit_code_1(tiny, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["serve", str(tiny), "--port", port])
        with pytest.raises(SystemExit) as exit_info:
            run_cli(Config, serve.main, prog="serve")
    err = capsys.readouterr().err
    assert exit_info.value.code == 1 and err.count("\n") == 1
    assert err.startswith(f"error: cannot serve at 127.0.0.1, port {port} (")
    assert err.endswith("give another --port\n")


def test_largest_photo_of_a_camera_is_answered(page, tmp_path):
    """60 megapixels, which are answered as any other."""
    photo = Image.fromarray(noise(6, 10)).resize((10_000, 6_000))
    path = save(tmp_path / "large.jpg", photo)
    said = page.post("/predict", path).json
    assert said["probability"] > 0

"""The page to try a model on, in a real browser."""

import http.server
import io
import json
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments import upscale
from experiments.inference.portable import open_portable, read_photos
from experiments.serve import Config, open_service
from jaxvision.calibration import Certainty
from jaxvision.data import open_dataset
from jaxvision.data.image_files import file_photo
from tests.browsers import PHONE, answered, drop, fits, painted
from tests.browsers import browser as browser
from tests.browsers import visit as visit
from tests.photos import SIZES, bad_file, noise, save
from tests.serving import CLASSES, served, write_run, write_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny") / "model.safetensors")


@pytest.fixture(scope="module")
def server(tiny):
    with served(open_service(Config(run=tiny))) as found:
        yield found


@pytest.fixture(scope="module")
def enlarger():
    from pathlib import Path

    with served(open_service(Config(run=Path("light")))) as found:
        yield found


def shares(tiny, photo):
    """What predict says of it, class by class, the best first."""
    model = open_portable(tiny)
    images, _ = read_photos([file_photo(photo)], model)
    (row,) = model.make_predict()(images)
    return [(CLASSES[i], f"{100 * row[i]:.1f} %") for i in np.argsort(-row)]


def test_three_dropped_photos_are_answered_as_by_predict(server, tiny, visit, tmp_path):
    photos = [save(tmp_path / f"{i}<b>.png", seed=i) for i in range(3)]
    page = visit(server.address)
    assert page.title() == "cnn_small: try it"
    drop(page, *photos)
    cards = answered(page, 3)
    for index, photo in enumerate(photos):
        card = cards.nth(index)
        assert card.locator("h2").inner_text() == photo.name
        best, *_ = ranked = shares(tiny, photo)
        assert card.locator(".verdict").inner_text().split("\n") == list(best)
        lines = [line.split("\n") for line in card.locator("li").all_inner_texts()]
        assert [tuple(line[:2]) for line in lines] == ranked
        for image in card.locator("img").all():
            assert image.evaluate("(image) => image.naturalWidth") in (32, 224)
            assert image.get_attribute("alt")
        assert card.locator("img").count() == 2
        assert "no config.yaml beside the model" in card.locator(".near").inner_text()
    assert page.locator("#status").inner_text() == "3 photos answered."
    drop(page, save(tmp_path / "next.png"))
    assert answered(page, 4).first.locator("h2").inner_text() == "next.png"


def test_file_that_is_no_photo_costs_the_others_nothing(server, visit, tmp_path):
    page = visit(server.address)
    files = [
        save(tmp_path / "a.png"),
        bad_file(tmp_path / "text.jpg", "text.jpg"),
        bad_file(tmp_path / "half.jpg", "truncated.jpg"),
        save(tmp_path / "b.png"),
    ]
    drop(page, *files)
    cards = answered(page, 4)
    assert cards.nth(1).locator("p").inner_text() == "Not used: no image"
    assert "truncated" in cards.nth(2).locator("p").inner_text()
    assert cards.locator(".verdict").count() == 2
    said = page.locator("#status").inner_text()
    assert said == "4 photos answered, 2 of them could not be used."


def test_60_megapixels_are_answered_and_too_many_bytes_not_sent(
    server, visit, tmp_path
):
    photo = Image.fromarray(noise(6, 10)).resize((10_000, 6_000))
    page = visit(server.address)
    page.set_input_files("#files", save(tmp_path / "large.jpg", photo, quality=75))
    assert answered(page, 1).locator(".verdict strong").inner_text() in CLASSES
    heavy = tmp_path / "heavy.jpg"
    with open(heavy, "wb") as file:
        file.truncate(101 * 2**20)
    page.set_input_files("#files", heavy)
    said = answered(page, 2).first.locator("p").inner_text()
    assert said == "Not used: it has 101 MiB, and at most 100 MiB are taken"


def test_corrections_are_a_folder_to_train_on(server, visit, tmp_path):
    photos = [save(tmp_path / f"{i}" / "bee.png", seed=i) for i in range(4)]
    page = visit(server.address, accept_downloads=True)
    drop(page, *photos)
    cards = answered(page, 4)
    assert not page.locator("#corrections").is_visible()
    for index, label in enumerate((0, 1, 0, 1)):
        choice = cards.nth(index).get_by_label("Wrong? It shows")
        choice.select_option(CLASSES[label])
    count = page.locator("#count")
    assert count.inner_text() == "4 photos with the right class."
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the corrections").click()
    assert download.value.suggested_filename == "corrections.zip"
    with zipfile.ZipFile(download.value.path()) as file:
        assert file.testzip() is None
        content = {name: file.read(name) for name in file.namelist()}
        file.extractall(tmp_path / "unpacked")
    names = [f"{folder}/bee{n}.png" for n in ("", "-2") for folder in ("ants", "b_c")]
    assert content == {
        f"corrections/{name}": photo.read_bytes()
        for name, photo in zip(names, photos, strict=True)
    }
    data = open_dataset(str(tmp_path / "unpacked" / "corrections"), **SIZES)
    assert data.classes == ("ants", "b_c") and not data.skipped
    cards.nth(0).get_by_label("Wrong? It shows").select_option("the answer is right")
    assert count.inner_text() == "3 photos with the right class."


def test_corrected_labels_are_a_list_to_train_on(visit, tmp_path):
    limits = (0.0, 0.3, 1.0)  # the first is always said, the last never
    several = Certainty(label_thresholds=limits)
    file = write_tiny(tmp_path / "model.safetensors", certainty=several)
    photos = [save(tmp_path / f"{i}" / "bee.png", seed=i) for i in range(4)]
    with served(open_service(Config(run=file))) as server:
        page = visit(server.address, accept_downloads=True, **PHONE)
        page.set_input_files("#files", photos)
        cards = answered(page, 4)
        said = cards.nth(0).locator(".verdict strong").all_inner_texts()
        assert said[0] == CLASSES[0] and CLASSES[2] not in said
        assert fits(page)
        for index in (0, 1):
            cards.nth(index).get_by_label(CLASSES[2]).check()
        for name in cards.nth(2).locator(".verdict strong").all_inner_texts():
            cards.nth(2).get_by_label(name).uncheck()
        cards.nth(3).get_by_label("keep it as it is").check()
        count = page.locator("#count")
        assert count.inner_text() == "4 photos with the right labels."
        cards.nth(1).get_by_label(CLASSES[2]).uncheck()  # as it was: no correction
        assert count.inner_text() == "3 photos with the right labels."
        cards.nth(1).get_by_label(CLASSES[2]).check()
        page.screenshot(path=tmp_path / "labels.png", full_page=True)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the corrections").click()
        with zipfile.ZipFile(download.value.path()) as archive:
            archive.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "corrections"
    lines = [json.loads(x) for x in (folder / "labels.jsonl").read_text().splitlines()]
    found = {(folder / one["path"]).read_bytes(): one["labels"] for one in lines}
    kept = [found[photo.read_bytes()] for photo in photos]
    assert kept[0] == [*said, CLASSES[2]] and kept[1][-1] == CLASSES[2]
    assert kept[2] == [] and CLASSES[0] in kept[3] and CLASSES[2] not in kept[3]
    data = open_dataset(str(folder / "labels.jsonl"), **SIZES)
    assert CLASSES[2] in data.classes and not data.skipped


def test_pages_of_other_sites_reach_nothing(tiny, browser, tmp_path):
    asked = []
    service = open_service(Config(run=tiny))
    answer = service.answers["/predict"]

    def counted(upload):
        asked.append(upload.name)
        return answer(upload)

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>another site</title>")

        def log_message(self, *_):
            pass

    other = http.server.HTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    send = """(address) => Promise.all(["cors", "no-cors"].map((mode) =>
      fetch(address + "predict", { method: "POST", mode, body: "x" })
        .then((reply) => reply.type, (error) => error.name)))"""
    service = service._replace(answers={"/predict": counted})
    with served(service) as server, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        assert page.evaluate(send, server.address) == ["TypeError"] * 2
        rebound = server.address.replace("127.0.0.1", "attacker.example")
        reply = page.goto(rebound)
        assert reply and reply.status == 403
        assert "'attacker.example:" in reply.json()["error"]
        assert page.evaluate(send, rebound) == ["basic", "basic"]
        assert asked == []
        # The page's own request is answered, by either name of the machine.
        for address in (
            server.address,
            server.address.replace("127.0.0.1", "localhost"),
        ):
            page.goto(address)
            page.set_input_files("#files", save(tmp_path / "x.png"))
            answered(page, 1)
        assert asked == ["x.png", "x.png"]


def test_everything_is_done_by_keyboard(server, visit, tmp_path):
    page = visit(server.address, accept_downloads=True)

    def tab_to(words):
        for _ in range(12):
            page.keyboard.press("Tab")
            focus = page.locator(":focus")
            if words in (focus.inner_text() or ""):
                outline = "(one) => getComputedStyle(one).outlineStyle"
                assert focus.evaluate(outline) != "none"
                return
        pytest.fail(f"no Tab leads to {words}")

    page.on("filechooser", lambda chooser: None)  # there is no window for one
    tab_to("Choose photos")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    assert chooser.value.is_multiple()
    chooser.value.set_files(save(tmp_path / "x.png"))
    answered(page, 1)
    tab_to("the answer is right")
    page.keyboard.type("ants")
    assert page.locator("#count").inner_text() == "1 photo with the right class."
    page.keyboard.press("Shift+Tab")
    assert page.locator(":focus").inner_text() == "Download the corrections"
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    with zipfile.ZipFile(download.value.path()) as file:
        assert file.namelist() == ["corrections/ants/x.png"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_has_all_of_it_side_by_side(scheme, visit, tmp_path):
    """At 360 pixels nothing sticks out, and what is touched is large enough."""
    run, (photo, *_), _ = write_run(tmp_path, classes=("ants", "a_very_long_name" * 4))
    service = open_service(Config(run=run))
    with served(service) as server:
        page = visit(server.address, color_scheme=scheme, **PHONE)
        page.set_input_files("#files", photo)
        card = answered(page, 1)
        card.get_by_label("Wrong? It shows").select_option("ants")
        assert fits(page)
        for one in page.locator("button:visible, select:visible").all():
            box = one.bounding_box()
            assert box and box["height"] >= 44 and box["x"] >= 0
            assert box["x"] + box["width"] <= 360
        back = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        dark = max(map(int, back.removeprefix("rgb(").rstrip(")").split(","))) < 128
        assert dark == (scheme == "dark")
        # A phone's own camera takes the photo.
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Use the camera").click()
        assert chooser.value.element.get_attribute("capture") == "environment"


def test_photo_of_the_camera_is_answered(server, visit):
    page = visit(server.address, permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    page.locator("#viewer[open]").wait_for()
    seen = "(video) => new Promise((go) => video.requestVideoFrameCallback(go))"
    page.locator("#video").evaluate(seen)
    page.get_by_role("button", name="Take it").click()
    card = answered(page, 1)
    assert card.locator("h2").inner_text().startswith("camera-")
    assert card.locator(".verdict strong").inner_text() in CLASSES
    assert not page.locator("#viewer").is_visible()
    assert page.locator("#video").evaluate("(video) => video.srcObject") is None


def test_work_is_stopped_between_two_photos(server, visit, tmp_path):
    photos = [save(tmp_path / f"{i}.png", seed=i) for i in range(30)]
    page = visit(server.address)
    drop(page, *photos)
    page.locator("#answers section").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator("#busy").wait_for(state="hidden")
    count = page.locator("#answers section").count()
    assert 1 <= count < 30
    said = page.locator("#status").inner_text()
    assert said.endswith("answered; stopped before the rest.")
    drop(page, photos[0])
    answered(page, count + 1)


def test_server_that_has_gone_is_said(tiny, visit, tmp_path):
    with served(open_service(Config(run=tiny))) as server:
        page = visit(server.address)
    drop(page, save(tmp_path / "x.png"))
    said = answered(page, 1).locator("p").inner_text()
    assert said == "Not used: the server does not answer: is it still running?"


def test_slider_goes_from_before_to_after(enlarger, visit, tmp_path):
    photo = save(tmp_path / "small.png", Image.fromarray(noise(40, 60)))
    (made,) = upscale.main(upscale.Config(images=(photo,), output=tmp_path / "out"))
    page = visit(enlarger.address, accept_downloads=True)
    drop(page, photo, bad_file(tmp_path / "text.jpg", "text.jpg"))
    cards = answered(page, 2)
    assert cards.nth(1).locator("p").inner_text() == "Not used: no image"
    card = cards.nth(0)
    before, after = card.locator("img").all()
    size = "(image) => [image.naturalWidth, image.naturalHeight]"
    assert before.evaluate(size) == after.evaluate(size) == [120, 80]
    slider = card.get_by_role("slider")
    cut = "(image) => parseFloat(image.style.clipPath.match(/([\\d.]+)px\\)$/)[1])"
    painted(page)
    width = after.evaluate("(image) => image.clientWidth")
    assert after.evaluate(cut) == pytest.approx(width / 2, abs=1)
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert after.evaluate(cut) == pytest.approx(0.51 * width, abs=1)
    page.keyboard.press("Home")
    assert after.evaluate(cut) == 0
    with page.expect_download() as download:
        card.get_by_role("link").click()
    assert download.value.suggested_filename == "small_x2.png" == made.name
    data = open(download.value.path(), "rb").read()
    assert data == made.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (120, 80)
    card.get_by_label("pixel by pixel").check()
    assert fits(page)


def test_enlargement_of_60_megapixels_is_refused_in_one_line(enlarger, visit, tmp_path):
    photo = Image.fromarray(noise(6, 10)).resize((10_000, 6_000))
    page = visit(enlarger.address, **PHONE)
    page.set_input_files("#files", save(tmp_path / "large.jpg", photo, quality=75))
    said = answered(page, 1).locator("p").inner_text()
    assert said == (
        "Not used: large.jpg would have 240 megapixels, and a page shows 100: use "
        "python -m experiments.upscale"
    )
    page.set_input_files(
        "#files", save(tmp_path / "wide.png", Image.new("RGB", (900, 99)))
    )
    answered(page, 2)
    assert fits(page)
    page.get_by_label("pixel by pixel").check()
    assert fits(page)

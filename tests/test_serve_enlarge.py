"""The server of a network that enlarges: the files of upscale, and an end to work."""

import io
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import upscale
from experiments.command.options import UsageError
from experiments.serve import Config, open_service
from experiments.serving import enlargements
from experiments.serving.service import RefusedError, Upload
from tests.photos import bad_file, in_mode, noise, save
from tests.serving import served, write_tiny

ROOT = Path(__file__).parents[1]
LIGHT = Config(run=Path("light"))


@pytest.fixture(scope="module")
def page():
    with served(open_service(LIGHT)) as found:
        yield found


@pytest.mark.parametrize("name, mode", [("a.png", "RGBA"), ("b.png", "L")])
def test_enlargements_are_the_files_of_upscale(page, tmp_path, name, mode):
    photo = save(tmp_path / name, in_mode(mode))
    (made,) = upscale.main(upscale.Config(images=(photo,), output=tmp_path / "out"))
    answer = page.post("/enlarge", photo)
    assert answer.status == 200 and answer.headers["Content-Type"] == "image/png"
    assert answer.body == made.read_bytes()
    bicubic = page.post("/enlarge", photo, wishes="&by=bicubic")
    with Image.open(io.BytesIO(bicubic.body)) as image, Image.open(made) as ours:
        assert image.size == ours.size and image.mode == ours.mode
        assert image.tobytes() != ours.tobytes()
        if mode == "L":
            with Image.open(photo) as small:
                large = small.convert("RGB").resize(
                    image.size, Image.Resampling.BICUBIC
                )
            np.testing.assert_array_equal(image, large.convert("L"))


def test_photo_of_16_bits_stays_one_and_is_compared_in_8(page, tmp_path):
    grey = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    photo = save(tmp_path / "deep.png", Image.fromarray(grey))
    (made,) = upscale.main(upscale.Config(images=(photo,), output=tmp_path / "out"))
    assert page.post("/enlarge", photo).body == made.read_bytes()
    before = page.post("/enlarge", photo, wishes="&by=bicubic")
    with Image.open(made) as ours, Image.open(io.BytesIO(before.body)) as image:
        assert ours.mode == "I;16" and image.mode == "L" and ours.size == image.size
        values, compared = np.asarray(ours, float) / 257, np.asarray(image, float)
    assert np.abs(values - compared).mean() < 4


def test_what_cannot_be_enlarged_is_refused_in_one_line(page, tmp_path, monkeypatch):
    page.post("/enlarge", bad_file(tmp_path / "t.jpg", "text.jpg")).refused(
        400, "t.jpg: no image"
    )
    numbers = bad_file(tmp_path / "float.tif", "float.tif")
    page.post("/enlarge", numbers).refused(400, "float.tif has floating-point pixels")
    page.send("POST", "/predict", b"x").refused(404, "nothing here but /, /enlarge")
    page.send("POST", "/enlarge", b"x", Origin="http://attacker.example").refused(
        403, "may send nothing"
    )
    monkeypatch.setattr(enlargements, "LARGEST", 100 * 122 - 1)
    photo = save(tmp_path / "x.png")  # 61 x 50
    page.post("/enlarge", photo).refused(413, "and a page shows 0: use python -m")


def test_work_ends_between_two_tiles_when_nobody_waits():
    service = open_service(LIGHT)
    buffer = io.BytesIO()
    Image.fromarray(noise(600, 600)).save(buffer, "PNG")
    looks = []

    def is_gone():
        looks.append(1)
        return len(looks) == 2

    with pytest.raises(RefusedError):
        service.answers["/enlarge"](Upload("x", buffer.getvalue(), {}, is_gone))
    assert len(looks) == 2


def test_a_run_is_served_by_its_scale(tmp_path):
    light3 = open_service(Config(run=Path("light"), scale=3))
    assert light3.about["scale"] == 3
    weights = ROOT / "experiments" / "inference" / "weights" / "light_x4.safetensors"
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(weights.read_bytes())
    for path in (run, run / "model.safetensors"):
        service = open_service(Config(run=path))
        assert service.about["scale"] == 4 and list(service.answers) == ["/enlarge"]
    with pytest.raises(UsageError, match="was trained for --scale 4"):
        open_service(Config(run=run, scale=2))


@pytest.mark.slow
def test_ctrl_c_ends_it_in_one_line_while_it_works(tmp_path):
    tiny = write_tiny(tmp_path / "model.safetensors")
    command = [sys.executable, "-m", "experiments.serve", str(tiny), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-open"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(120, process.kill)
    timer.start()
    assert process.stdout and process.stderr
    first = process.stdout.readline()
    assert first.startswith("the page is at http://127.0.0.1:")
    time.sleep(0.5)  # it compiles by now
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    timer.cancel()
    assert (process.returncode, out, err) == (0, "stopped\n", "")

"""`--fit pad` and `stretch`: the whole photo, in training, evaluation and predict."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from converters.bundle import load_bundle
from experiments import analyze, predict, transfer
from experiments.pages.predictions import read_predictions
from jaxvision import calibration, preprocess
from jaxvision.data import open_dataset
from jaxvision.optim import Optim
from tests.photos import SIZES, make_folder, noise, save
from tests.runs import rows_of

SHAPES = [(375, 500), (333, 251), (301, 301), (9, 400), (321, 5), (224, 100), (1, 1)]
WHOLE = ("pad", "stretch")


def by_hand(image, size, fit):
    """The same by Pillow alone."""
    if fit == "stretch":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    return ImageOps.pad(
        image, (size, size), Image.Resampling.BILINEAR, color=(124, 116, 104)
    )


@pytest.mark.parametrize("fit", WHOLE)
@pytest.mark.parametrize("size", [224, 97, 50])
@pytest.mark.parametrize("shape", SHAPES)
def test_whole_photo_is_pillows_to_the_bit(shape, size, fit):
    image = Image.fromarray(noise(*shape))
    ours = preprocess.eval_image(image, resize=256, crop=size, fit=fit)
    assert ours.dtype == np.uint8 and ours.flags.owndata and ours.flags.writeable
    np.testing.assert_array_equal(ours, np.asarray(by_hand(image, size, fit)))


def test_strip_that_pillow_would_lose_keeps_a_row():
    image = Image.fromarray(np.full((1, 2000, 3), 7, np.uint8))
    rows = preprocess.eval_image(image, resize=9, crop=64, fit="pad")
    assert [(row == 7).all() for row in rows].count(True) == 1


def test_fill_is_what_normalisation_brings_next_to_zero():
    filled = np.full((1, 1, 1, 3), preprocess.MEAN_COLOUR, np.uint8)
    normal = preprocess.normalize(preprocess.to_float(filled))
    assert np.abs(normal).max() < 0.5 / 255 / min(preprocess.IMAGENET_STD)


@pytest.mark.parametrize("fit", WHOLE)
@pytest.mark.parametrize(("size", "crop"), [(256, 224), (329, 288), (37, 32), (40, 45)])
def test_centre_of_the_training_square_is_what_evaluation_sees(size, crop, fit):
    image = Image.fromarray(noise(61, 83))
    square = preprocess.square_image(image, size=size, crop=crop, fit=fit)
    assert square.shape == (size, size, 3)
    inner = min(size, crop)
    seen = preprocess.eval_image(image, resize=9, crop=inner, fit=fit)
    middle = np.asarray(
        preprocess.center_crop(preprocess.to_float(square[None]), size=inner)[0]
    )
    np.testing.assert_array_equal(np.round(255 * middle), seen)
    if inner < size:
        assert (square[0] == preprocess.MEAN_COLOUR).all()


def test_visible_share_counts_the_pixels_of_the_crop():
    share = preprocess.visible_share(480, 640, resize=256, crop=224)
    assert share == pytest.approx(224 * 224 / (256 * 341))
    assert preprocess.visible_share(480, 640, resize=64, crop=96) == 1  # padded
    for fit in WHOLE:
        assert preprocess.visible_share(9, 900, resize=256, crop=224, fit=fit) == 1
    with pytest.raises(ValueError, match="unknown fit 'squash'"):
        preprocess.visible_share(9, 9, resize=9, crop=9, fit="squash")


@pytest.mark.parametrize("fit", ("crop", *WHOLE))
def test_dataset_is_made_by_the_fit_and_knows_the_photos_sizes(tmp_path, fit):
    root = make_folder(tmp_path / "set", {f"{s}/{c}": 2 for s in SETS for c in "ab"})
    turned = Image.fromarray(noise(20, 60))
    exif = turned.getexif()
    exif[0x0112] = 6  # upright it is 60 high and 20 wide
    save(tmp_path / "set" / "val" / "a" / "z.jpg", turned, exif=exif)
    (tmp_path / "set" / "val" / "a" / "bad.png").write_bytes(b"x")
    data = open_dataset(root, fit=fit, **SIZES)
    assert data.val.sizes.tolist() == [[50, 61], [50, 61], [60, 20], [50, 61], [50, 61]]
    assert data.train.sizes is None and len(data.skipped) == 1
    for path, image in zip(data.val.paths, data.val.images, strict=True):
        with Image.open(path) as photo:
            photo = ImageOps.exif_transpose(photo)
            expected = preprocess.eval_image(photo, resize=48, crop=36, fit=fit)
        np.testing.assert_array_equal(image, expected)
    with Image.open(data.train.paths[0]) as photo:
        expected = preprocess.square_image(photo, size=40, crop=36, fit=fit)
    np.testing.assert_array_equal(data.train.images[0], expected)


SETS = ("train", "val")


@pytest.mark.parametrize("fit", WHOLE)
def test_arrays_get_their_margin_and_are_judged_as_they_are(tmp_path, fit):
    x = np.random.default_rng(0).integers(0, 256, (8, 36, 36, 3), np.uint8)
    y = np.arange(8) % 2
    path = tmp_path / "x.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    data = open_dataset(str(path), fit=fit, **SIZES)
    np.testing.assert_array_equal(data.val.images, x)
    np.testing.assert_array_equal(data.train.images[:, 2:-2, 2:-2], x)


def edge_photos(root):
    """Wide photos whose class shows in their outer quarters alone."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 12)):
        for channel, name in enumerate(("red", "green")):
            for index in range(count):
                pixels = rng.integers(0, 120, (32, 128, 3))
                pixels[:, :32, channel] += 130
                pixels[:, -32:, channel] += 130
                photo = Image.fromarray(pixels.astype(np.uint8))
                save(root / split / name / f"{index}.png", photo)
    return root


@pytest.mark.slow
def test_what_a_crop_cuts_off_is_learned_and_found_again(tmp_path, capsys):
    photos = edge_photos(tmp_path / "photos")
    config = transfer.Config(
        backbone=("resnet18",),
        data=str(photos),
        weights="random",
        epochs=8,
        batch_size=8,
        image_size=32,
        optim=Optim(lr=0.02),
        augment=("flips",),
        fit="pad",
        output=tmp_path,
    )
    numbers = transfer.main(config)
    assert numbers["val_accuracy"] > 0.9  # of a crop, chance: 0.5
    folder = tmp_path / "transfer" / "1"
    bundle = load_bundle(folder / "model.safetensors")
    assert bundle.preprocessing.fit == "pad"
    table = tmp_path / "out.csv"
    predict.main(predict.Config(run=folder, images=(photos / "val",), csv=table))
    theirs = calibration.tempered(
        read_predictions(folder / "predictions.csv"), bundle.certainty.temperature
    )
    rows = {row["path"]: row for row in rows_of(table)}
    for path, own in zip(theirs.paths, theirs.probabilities, strict=True):
        ours = [float(rows[path][name]) for name in theirs.classes]
        np.testing.assert_allclose(ours, own, atol=1e-5)
    again = analyze.main(analyze.Config(run=folder))
    assert again == pytest.approx({name: numbers[name] for name in again})
    html = (folder / "report.html").read_text("utf-8")
    assert 'id="cut"' not in html

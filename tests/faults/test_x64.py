"""Where JAX computes in 64 bits, the same images come out, and all programs run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cifar10, predict, superres, transfer, upscale
from jaxvision import augment
from jaxvision.augment import MIXES, PIPELINES, mix_transform, photo_transform
from jaxvision.data.pairs import pair_transform
from jaxvision.losses import balanced_weights
from jaxvision.preprocess import Preprocessing
from tests.double import x64
from tests.photos import make_folder

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 36, 36, 3)).astype(np.uint8)
LABELS = np.arange(6) % 3
RANDOM = {
    "random_affine": {"degrees": 9, "translate": (0.1, 0.1), "scale": (0.9, 1.1)},
    "random_color_jitter": {"brightness": 0.1, "contrast": 0.1, "hue": 0.1},
    "random_crop": {"size": 32, "padding": 2},
    "random_cutout": {"size": 8},
    "random_horizontal_flip": {},
    "random_pad_crop": {"padding": 3},
    "random_resized_crop": {"size": 32},
    "random_rotation": {"degrees": 9, "interpolation": "bilinear"},
    "random_vertical_flip": {},
}
SQUARES = Preprocessing(resize=36, crop=32)
TRANSFORMS = {
    **{name: photo_transform(name, SQUARES) for name in PIPELINES},
    **{name: mix_transform(name, alpha=1.0, num_classes=3) for name in MIXES},
    "pairs": pair_transform(crop_size=16, jitter=0.2, scale=2, enlarged=True),
}


def in_both(function):
    """What comes out in 32 and in 64 bits."""
    with x64(False):
        single = jax.tree.map(np.asarray, function())
    with x64():
        return single, jax.tree.map(np.asarray, function())


def check_alike(function, *, atol):
    single, double = in_both(function)
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
        if np.issubdtype(a.dtype, np.floating):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize(
    "name", [*TRANSFORMS][:-1] + [pytest.param("pairs", marks=pytest.mark.slow)]
)
def test_transforms_give_the_same_in_64_bits(name):
    def made():
        image = jnp.asarray(PIXELS)
        batch = {"image": image.astype(jnp.float32) if name in MIXES else image}
        batch |= {"label": jnp.asarray(LABELS, jnp.int32)}
        batch |= {name: jnp.asarray(LABELS, jnp.int32) for name in ("index", "epoch")}
        batch |= {"size": jnp.full((6, 2), 36, jnp.int32)}
        return TRANSFORMS[name](jax.random.key(0), batch)

    # A blend of levels up to 255, by shares of a gamma's logarithm, may round apart.
    check_alike(made, atol=1e-3 if name in MIXES else 1e-5)


@pytest.mark.parametrize("name", RANDOM)
def test_augmentations_give_the_same_in_64_bits(name):
    def made():
        images = jnp.asarray(PIXELS, jnp.float32) / jnp.float32(255)
        return getattr(augment, name)(jax.random.key(0), images, **RANDOM[name])

    check_alike(made, atol=1e-5)


def test_balanced_weights_are_no_wider_than_the_logits():
    check_alike(lambda: balanced_weights(jnp.asarray(LABELS), num_classes=3), atol=0)


def test_every_random_augmentation_is_looked_at():
    names = {name for name in vars(augment) if name.startswith("random_")}
    assert names == set(RANDOM)


TINY = {"epochs": 1, "batch_size": 8, "accumulate": 2, "ema": 0.9}


@pytest.mark.slow
def test_photos_are_classified(float64, tmp_path):
    counts = {f"{split}/{c}": 6 for split in ("train", "val") for c in "abc"}
    photos = make_folder(tmp_path / "p", counts)
    config = transfer.Config(
        backbone=("resnet18",),
        data=photos,
        weights="random",
        image_size=32,
        augment=("full",),
        mix="cutmix",
        class_weights=("balanced",),
        output=tmp_path,
        **TINY,
    )
    assert 0 <= transfer.main(config)["val_accuracy"] <= 1
    run = tmp_path / "transfer" / "1"
    predict.main(predict.Config(run=run, images=(tmp_path / "p" / "val",)))


def test_small_images_are_classified(float64, tmp_path):
    x, y = np.tile(PIXELS[:, :32, :32], (4, 1, 1, 1)), np.tile(LABELS, 4)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    config = cifar10.Config(
        model=("fcn_baseline",),
        data=str(tmp_path / "d.npz"),
        label_smoothing=0.1,
        class_weights="balanced",
        output=tmp_path,
        **TINY,
    )
    assert 0 <= cifar10.main(config)["val_accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["srcnn_915", "light"])
def test_photos_are_enlarged(float64, tmp_path, model):
    x = np.tile(PIXELS, (4, 1, 1, 1))
    np.savez(tmp_path / "d.npz", x_train=x, x_test=x)
    config = superres.Config(
        model=model,
        data=(str(tmp_path / "d.npz"),),
        crop_size=16,
        repeat=1,
        output=tmp_path,
        **TINY,
    )
    assert superres.main(config)["test_psnr"] > 0
    make_folder(tmp_path / "p", {"a": 1})
    (image,) = (tmp_path / "p" / "a").iterdir()
    run = tmp_path / "superres" / "1"
    upscale.main(
        upscale.Config(model=str(run), images=(image,), output=tmp_path / "up")
    )
    assert any((tmp_path / "up").iterdir())

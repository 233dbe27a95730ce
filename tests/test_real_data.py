"""A real ImageNet checkpoint on real photos, beside torchvision, image by image."""

import jax
import numpy as np
import pytest
from PIL import Image

from converters import convert
from converters.weights import load_state_dict
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.preprocess import eval_image, normalize, to_float


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.torch
def test_mobilenet_top1_equals_torchvisions_image_by_image(data_folder):
    torch = pytest.importorskip("torch")
    from converters.torchvision_import import import_torchvision

    torchvision = import_torchvision()
    arrays = load_state_dict(data_folder / "weights" / "mobilenet_v2.pth")
    photos = sorted((data_folder / "imagenet_samples").glob("*.jpg"))
    labels = np.array([int(path.name.split("_")[0]) for path in photos])
    opened = [Image.open(path).convert("RGB") for path in photos]

    theirs = torchvision.models.mobilenet_v2()
    theirs.load_state_dict({name: torch.tensor(x) for name, x in arrays.items()})
    theirs.eval()
    transform = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    with torch.no_grad():
        batches = torch.stack([transform(image) for image in opened]).split(50)
        expected = torch.cat([theirs(batch) for batch in batches]).numpy()

    apply, params, stats = functionalize(
        convert(models.abstract("mobilenet_v2"), arrays)
    )
    forward = jax.jit(lambda x: apply(params, stats, normalize(to_float(x)))[0])
    pixels = np.stack([eval_image(image, resize=256, crop=224) for image in opened])
    logits = np.concatenate([forward(part) for part in np.split(pixels, 4)])

    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    assert np.abs(logits - expected).max() <= 1e-4 * expected.std()
    assert 0.80 < (logits.argmax(1) == labels).mean() < 0.92

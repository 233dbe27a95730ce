"""The parts of the light network against torch's."""

from functools import partial

import numpy as np
import pytest

from jaxvision.models.layers import pixel_shuffle
from jaxvision.models.light import near_identity

torch = pytest.importorskip("torch")
T = torch.nn

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pixel_shuffle_is_torchs(scale):
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 3 * scale**2))
    theirs = T.PixelShuffle(scale)(torch.from_numpy(x).permute(0, 3, 1, 2))
    ours = pixel_shuffle(x, scale=scale)
    np.testing.assert_array_equal(ours, theirs.permute(0, 2, 3, 1).numpy())


def test_kernel_near_the_identity_is_a_collapsed_residual_block():
    kernel = near_identity(np.random.default_rng(0), (3, 3, 8, 8), 72)
    rest = kernel.copy()
    rest[1, 1] -= np.eye(8, dtype=np.float32)
    assert 0.2 < rest.std() / np.sqrt(2 / 72) < 0.4
    x = torch.randn(2, 8, 9, 11, dtype=torch.float64)
    conv = partial(T.functional.conv2d, x, padding=1)
    whole, part = (
        conv(torch.from_numpy(k.transpose(3, 2, 0, 1)).double()) for k in (kernel, rest)
    )
    torch.testing.assert_close(whole, x + part, rtol=0, atol=1e-6)

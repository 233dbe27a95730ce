"""The networks that enlarge photographs, in torch."""

from collections import OrderedDict

import pytest

from jaxvision.image_metrics import LUMA, LUMA_OFFSET

torch = pytest.importorskip("torch")
T = torch.nn


class Residual(T.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def srcnn(first, second, third, *, kind=T.Sequential):
    net = kind(
        OrderedDict(
            conv1=T.Conv2d(3, 64, first, padding=first // 2),
            relu1=T.ReLU(),
            conv2=T.Conv2d(64, 32, second, padding=second // 2),
            relu2=T.ReLU(),
            conv3=T.Conv2d(32, 3, third, padding=third // 2),
        )
    )
    for conv in (net.conv1, net.conv2, net.conv3):
        T.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        T.init.zeros_(conv.bias)
    T.init.normal_(net.conv3.weight, std=1e-3)
    return net


class LightTwin(T.Module):
    def __init__(self, scale):
        super().__init__()
        self.first = T.Conv2d(1, 32, 5, padding=2)
        self.body = T.Sequential(*(T.Conv2d(32, 32, 3, padding=1) for _ in range(5)))
        self.last = T.Conv2d(32, scale**2, 3, padding=1)
        self.scale = scale

    def forward(self, x):
        large = T.functional.interpolate(
            x, scale_factor=self.scale, mode="bicubic", antialias=True
        )
        shares = torch.tensor(LUMA, dtype=x.dtype)[:, None, None]
        luma = (x * shares).sum(1, keepdim=True) + LUMA_OFFSET
        y = start = T.functional.leaky_relu(self.first(luma - 0.5), 0.1)
        for layer in self.body:
            y = T.functional.leaky_relu(layer(y), 0.1)
        return large + T.functional.pixel_shuffle(self.last(y + start), self.scale)

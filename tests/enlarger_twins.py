"""The networks that enlarge photographs, in torch."""

from collections import OrderedDict

import pytest

torch = pytest.importorskip("torch")
T = torch.nn


class Residual(T.Sequential):
    def forward(self, x):
        return x + super().forward(x - 0.5)


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

"""PyTorch's side of the nets: torchvision's, and the small ones built alike.

Names of layers are those of `jaxvision.models`, so that weights convert.
"""

from typing import Any

import torch
from torch import nn

from converters.torchvision_import import import_torchvision
from jaxvision.image_metrics import LUMA, LUMA_OFFSET
from jaxvision.preprocess import IMAGENET_MEAN, IMAGENET_STD

SRCNN = {"srcnn": (9, 5, 5), "srcnn_955": (9, 5, 5), "srcnn_915": (9, 1, 5)}


class Small(nn.Module):
    """`jaxvision.models.cifar.FCN` and `CNN`: features, a hidden part, a head."""

    def __init__(self, features: list[Any], hidden: list[Any], head: nn.Linear):
        super().__init__()
        if features:
            self.features = nn.Sequential(*features)
        self.hidden = nn.Sequential(*hidden)
        self.head = head

    def forward(self, x):
        """Images `(n, 3, 32, 32)` to logits."""
        if hasattr(self, "features"):
            x = self.features(x)
        return self.head(self.hidden(x))


def fcn(*widths: int, dropout: float = 0.0, classes: int = 10) -> Small:
    """`jaxvision.models.cifar.FCN`."""
    width = 3 * 32 * 32
    layers: list[nn.Module] = [nn.Flatten()]
    for out in widths:
        layers += [nn.Linear(width, out), nn.ReLU(inplace=True)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = out
    return Small([], layers, nn.Linear(width, classes))


def cnn(
    *, depth: int, hidden: int, norm: bool, dropout: float, classes: int = 10
) -> Small:
    """`jaxvision.models.cifar.CNN`."""
    cin, features = 3, []
    for width in (32, 64, 128):
        for _ in range(depth):
            features += [
                nn.Conv2d(cin, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            cin = width
        features.append(nn.MaxPool2d(2))
    layers = [nn.Flatten(), nn.Linear(cin * 16, hidden, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm1d(hidden))
    layers.append(nn.ReLU(inplace=True))
    if dropout:
        layers.append(nn.Dropout(dropout))
    return Small(features, layers, nn.Linear(hidden, classes))


class FastCNN(nn.Module):
    """`jaxvision.models.cifar.FastCNN`."""

    def __init__(self, *widths: int, classes: int = 10):
        super().__init__()
        cin = 24
        self.whiten = nn.Conv2d(3, cin, 2)
        self.blocks = nn.Sequential()
        for width in widths:
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(cin, width, 3, padding=1, bias=False),
                    nn.MaxPool2d(2),
                    nn.BatchNorm2d(width, momentum=0.4),
                    nn.GELU(),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width, momentum=0.4),
                    nn.GELU(),
                )
            )
            cin = width
        self.head = nn.Linear(cin, classes, bias=False)

    def forward(self, x):
        """Images `(n, 3, 32, 32)` to logits."""
        x = self.blocks(nn.functional.gelu(self.whiten(x)))
        return self.head(nn.functional.max_pool2d(x, 3).flatten(1)) / 9


class SRCNNTwin(nn.Module):
    """`jaxvision.models.srcnn.SRCNN` without the residual."""

    def __init__(self, first: int, second: int, third: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, first, padding=first // 2)
        self.conv2 = nn.Conv2d(64, 32, second, padding=second // 2)
        self.conv3 = nn.Conv2d(32, 3, third, padding=third // 2)

    def forward(self, x):
        """Images `(n, 3, h, w)` to images."""
        return self.conv3(self.conv2(self.conv1(x).relu()).relu())


class LightTwin(nn.Module):
    """`jaxvision.models.light.Light`."""

    def __init__(self, scale: int):
        super().__init__()
        self.first = nn.Conv2d(1, 32, 5, padding=2)
        self.body = nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1) for _ in range(5)))
        self.last = nn.Conv2d(32, scale**2, 3, padding=1)
        self.scale = scale

    def forward(self, x):
        """Images `(n, 3, h, w)` to images."""
        large = nn.functional.interpolate(
            x, scale_factor=self.scale, mode="bicubic", antialias=True
        )
        shares = torch.tensor(LUMA, dtype=x.dtype)[:, None, None]
        luma = (x * shares).sum(1, keepdim=True) + LUMA_OFFSET
        y = start = nn.functional.leaky_relu(self.first(luma - 0.5), 0.1)
        for layer in self.body:
            y = nn.functional.leaky_relu(layer(y), 0.1)
        return large + nn.functional.pixel_shuffle(self.last(y + start), self.scale)


LIGHT = {f"light_x{scale}": scale for scale in (2, 3, 4)}
SMALL = {
    "fcn_baseline": lambda: fcn(100, 20),
    "fcn_wide": lambda: fcn(1024, 512),
    "fcn_deep": lambda: fcn(512, 256, 128, 64),
    "fcn": lambda: fcn(512, 256, dropout=0.2),
    "cnn_small": lambda: cnn(depth=1, hidden=128, norm=False, dropout=0.0),
    "cnn": lambda: cnn(depth=2, hidden=256, norm=True, dropout=0.5),
    "cnn_lean": lambda: FastCNN(64, 128, 256),
    "cnn_fast": lambda: FastCNN(64, 256, 256),
}


def create(net: str) -> nn.Module:
    """The twin of `jaxvision.models.create(net)`, its random weights torch's own."""
    torch.manual_seed(0)
    if net in SMALL:
        return SMALL[net]()
    if net in LIGHT:
        return LightTwin(LIGHT[net])
    if net in SRCNN:
        return SRCNNTwin(*SRCNN[net])
    options = {}
    if net == "googlenet":  # ours has no auxiliary heads by default, and maps its input
        options = {"aux_logits": False, "transform_input": True, "init_weights": False}
    return import_torchvision().models.get_model(net, **options)


class Perceptual(nn.Module):
    """Mean squared error, and that of VGG16's features `relu2_2`; images in [0, 1]."""

    def __init__(self):
        super().__init__()
        vgg = import_torchvision().models.vgg16(init_weights=False)
        self.features = vgg.features[:9].requires_grad_(False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1))

    def forward(self, out, target):
        """The loss of `out` beside `target`, which is not differentiated."""
        with torch.no_grad():
            wanted = self.features((target - self.mean) / self.std)
        found = self.features((out - self.mean) / self.std)
        distance = nn.functional.mse_loss(found, wanted)
        return nn.functional.mse_loss(out, target) + distance


def objective(net: str) -> nn.Module:
    """`loss(out, target)` of the net's training step."""
    return Perceptual() if net in SRCNN else nn.CrossEntropyLoss()

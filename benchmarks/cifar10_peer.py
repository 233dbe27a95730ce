"""PyTorch's side of `benchmarks.cifar10`: the same recipe, in the ordinary style.

The images lie in memory as one uint8 tensor; crops and flips are drawn for each image
and applied to the batch at once, which is faster than torchvision's transforms in a
`DataLoader`.
"""

import torch
from torch import nn

from benchmarks import twins
from benchmarks.worker import Case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def epoch(
    *, net: str, images: int, batch: int, lr: float, weight_decay: float, augment: str
) -> Case:
    """An epoch over `images` made images."""
    model = twins.create(net).to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay
    )
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
    pixels = pixels.to(DEVICE, memory_format=torch.channels_last)
    labels = (torch.arange(images) % 10).to(DEVICE)
    mean, std = (
        torch.tensor(values, device=DEVICE).reshape(1, 3, 1, 1)
        for values in (MEAN, STD)
    )
    loss_fn = nn.CrossEntropyLoss()

    def run(calls):
        for _ in range(calls):
            order = torch.randperm(images, device=DEVICE)
            for start in range(0, images - batch + 1, batch):
                chosen = order[start : start + batch]
                x = pixels[chosen].float() / 255
                if augment == "crop_flip":
                    x = crop(x, padding=4)
                if augment != "none":
                    x = flip(x)
                x = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
                loss = loss_fn(model(x), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    run(1)
    return Case(run, {})


def crop(x, *, padding: int):
    """Each image moved by up to `padding` pixels, mirrored in at the border."""
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, (padding,) * 4, mode="reflect").permute(0, 2, 3, 1)
    top, left = torch.randint(0, 2 * padding + 1, (2, n, 1), device=x.device)
    rows = (top + torch.arange(height, device=x.device))[:, :, None]
    columns = (left + torch.arange(width, device=x.device))[:, None, :]
    which = torch.arange(n, device=x.device)[:, None, None]
    return padded[which, rows, columns].permute(0, 3, 1, 2)


def flip(x):
    """Half of the images mirrored."""
    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(3), x)

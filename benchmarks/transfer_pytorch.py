"""The fine-tuning recipe of `experiments.transfer` in PyTorch, to compare with.

    python -m benchmarks.transfer_pytorch --data PHOTOS --weights mobilenet_v2.pth

Same decoded photos, crops, augmentation, loss, optimiser and schedule, in the ordinary
style: torchvision's model and transforms, channels_last, one Python loop.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from converters import weights
from converters.torchvision_import import import_torchvision
from jaxvision import models
from jaxvision.data import open_dataset
from jaxvision.preprocess import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Config:
    """Fine-tunes in PyTorch with the recipe of experiments.transfer."""

    data: str
    """An image folder."""
    weights: Path
    """A .pth or .safetensors file."""
    backbone: str = "mobilenet_v2"
    epochs: int = 4
    batch_size: int = 32
    lr: float = 0.01
    freeze: bool = False
    """Train the last layer alone, the rest in evaluation mode."""
    seed: int = 0


def main(config: Config) -> float:
    """Trains, prints a line an epoch and returns the last epoch's accuracy."""
    torchvision = import_torchvision()
    from torchvision.transforms import v2

    torch.manual_seed(config.seed)
    data = open_dataset(config.data, train_size=256, eval_resize=256, eval_crop=224)
    variant = models.variant(config.backbone)
    model = torchvision.models.get_model(variant.name)
    arrays = weights.load_state_dict(config.weights)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
    parent, _, leaf = variant.head.rpartition(".")
    head = model.get_submodule(variant.head)
    new = torch.nn.Linear(head.in_features, len(data.classes))
    setattr(model.get_submodule(parent), leaf, new)
    model = model.to(memory_format=torch.channels_last)
    if config.freeze:
        model.requires_grad_(False)
        new.requires_grad_(True)

    normalize = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    to_float = v2.ToDtype(torch.float32, scale=True)
    augment = v2.Compose(
        [
            v2.RandomCrop(224),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(15),
            v2.ColorJitter(0.2, 0.2, 0.2),
            to_float,
            normalize,
        ]
    )
    photos = torch.from_numpy(data.train.images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(data.train.labels).long()
    val_photos = torch.from_numpy(data.val.images).permute(0, 3, 1, 2)
    val_labels = torch.from_numpy(data.val.labels).long()

    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.lr,
        momentum=0.9,
        weight_decay=1e-4,
    )
    steps = len(photos) // config.batch_size
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (1 + math.cos(math.pi * s / (config.epochs * steps))) / 2
    )
    accuracy = 0.0
    for epoch in range(config.epochs):
        begun = time.perf_counter()
        model.train()
        if config.freeze:
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
        order = torch.randperm(len(photos))
        total = 0.0
        for step in range(steps):
            chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
            batch = torch.stack([augment(photos[i]) for i in chosen])
            batch = batch.contiguous(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(model(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - begun
        model.eval()
        with torch.no_grad():
            logits = torch.cat(
                [
                    model(normalize(to_float(part)))
                    for part in val_photos.split(config.batch_size)
                ]
            )
        accuracy = float((logits.argmax(1) == val_labels).float().mean())
        print(
            f"epoch {epoch + 1}/{config.epochs}: train loss {total / steps:.4f}, "
            f"val accuracy {accuracy:.2%}, {seconds:.1f} s",
            flush=True,
        )
    return accuracy


if __name__ == "__main__":
    print(f"{np.round(100 * main(tyro.cli(Config)), 2)} %")

"""PyTorch's side of the comparisons: cases for `benchmarks.worker`.

Each function prepares a case, run once, and returns it. Images are channels_last.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import nn

from benchmarks import flops, twins
from benchmarks.nets import NETS
from benchmarks.worker import Case, grown
from converters.torchvision_import import import_torchvision
from experiments.inference.enlarger import make_enlarger
from jaxvision import models
from jaxvision.models.network import Enlarger
from jaxvision.preprocess import IMAGENET_MEAN, IMAGENET_STD
from jaxvision.tiles import map_tiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# JAX multiplies float32 in TF32 on a GPU, and PyTorch's convolutions do.
torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.benchmark = True


def peak(*, sizes: dict[str, int], dtype: str) -> Case:
    """A square matrix product, of the size for the device."""
    size = sizes[DEVICE.replace("cuda", "gpu")]
    a = torch.randn(size, size, device=DEVICE, dtype=getattr(torch, dtype))
    return _repeated(lambda: a @ a, flops=2 * size**3)


def copy(*, size: int) -> Case:
    """A copy of `size` float32 numbers."""
    a = torch.ones(size, device=DEVICE)
    b = torch.empty_like(a)
    return _repeated(lambda: b.copy_(a), bytes=8 * size)


def train_step(*, net: str, batch: int, size: int, dtype: str, compiled: bool) -> Case:
    """The whole training step on normalised images that are ready; its bounds."""
    step, moved, parameters = _training(net, batch, size, dtype, compiled)
    with flops.counter() as counter:
        step(eager=True)
    return _repeated(
        step,
        flops=counter.get_total_flops(),
        # Each gradient pass moves what the forward pass does; the update reads
        # parameter, gradient and momentum and writes two of them.
        bytes=3 * moved + 5 * 4 * parameters,
    )


def forward(*, net: str, batch: int, size: int, dtype: str, compiled: bool) -> Case:
    """The forward pass in evaluation mode; its bounds."""
    model = _model(net).eval()
    images = _noise(batch, size)
    with torch.inference_mode(), flops.counter() as counter:
        moved = _bytes(model, images)
    call = torch.compile(model) if compiled else model

    def run():
        with torch.inference_mode(), _precision(dtype):
            call(images)

    return _repeated(run, flops=counter.get_total_flops(), bytes=moved)


def enlarge(*, net: str, height: int, width: int, tile: int) -> Case:
    """A uint8 photo enlarged, in the same tiles as ours."""
    twin = twins.create(net).to(DEVICE).eval()
    network = cast(Enlarger, models.abstract(net))
    halo = make_enlarger(network).halo
    shape = (height, width, 3)
    photo = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def fn(part):
        images = torch.from_numpy(part).to(DEVICE).permute(0, 3, 1, 2) / 255
        levels = (twin(images).clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).cpu().numpy()

    def run():
        with torch.inference_mode():
            map_tiles(fn, photo, tile=tile, halo=halo, scale=network.scale)

    with grown() as facts:
        run()
    return _repeated(run, **facts)


def augment(*, batch: int, size: int, way: str) -> Case:
    """uint8 photos to normalised, augmented images by torchvision's v2 transforms.

    `way` is `image`: each by itself, with all the cores for one; `threads`: each by
    itself, a thread a core; or `batch`: all at once, with the same draw for all.
    """
    import_torchvision()
    from torchvision.transforms import v2

    augmentation = v2.Compose(
        [
            v2.RandomCrop(size),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(15),
            v2.ColorJitter(0.2, 0.2, 0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    side = size * 8 // 7
    photos = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    photos = photos.to(DEVICE, memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    if way == "threads":
        torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads)

    def run():
        if way == "batch":
            out = augmentation(photos)
        elif way == "threads":
            out = torch.stack(list(pool.map(augmentation, photos)))
        else:
            out = torch.stack([augmentation(photo) for photo in photos])
        return out.contiguous(memory_format=torch.channels_last)

    return _repeated(run)


def convolution(
    *, shape: list[int], cout: int, kernel: int, stride: int, groups: int, both: bool
) -> Case:
    """A convolution; with `both`, its two gradients too."""
    x, n = _images(shape), shape[3]
    w = torch.randn(cout, n // groups, kernel, kernel, device=DEVICE)
    w = w.to(memory_format=torch.channels_last)

    def function(x, w):
        return nn.functional.conv2d(
            x, w, stride=stride, padding=kernel // 2, groups=groups
        )

    with flops.counter() as counter:
        out = _differentiated(function, x, w, both=both)()
    moved = 4 * (x.numel() + w.numel() + out.numel()) * (3 if both else 1)
    call = _differentiated(function, x, w, both=both)
    return _repeated(call, flops=counter.get_total_flops(), bytes=moved)


def max_pool(*, shape: list[int], both: bool) -> Case:
    """Max pooling, 2x2."""
    x = _images(shape)
    call = _differentiated(lambda x: nn.functional.max_pool2d(x, 2), x, both=both)
    read, written = 4 * x.numel(), x.numel()
    return _repeated(call, bytes=(read + written) * (2 if both else 1))


def norm_relu(*, shape: list[int], both: bool) -> Case:
    """BatchNorm in training mode, and ReLU."""
    x = _images(shape)
    scale, bias = (torch.randn(shape[3], device=DEVICE) for _ in range(2))

    def function(x, scale, bias):
        out = nn.functional.batch_norm(x, None, None, scale, bias, training=True)
        return out.relu()

    call = _differentiated(function, x, scale, bias, both=both)
    return _repeated(call, bytes=4 * x.numel() * (5 if both else 2))


def first_step(*, net: str, batch: int, size: int, dtype: str, compiled: bool) -> Case:
    """How long the first training step takes, with all that is compiled for it."""
    step, _, _ = _training(net, batch, size, dtype, compiled)
    _wait()
    begun = time.perf_counter()
    step()
    _wait()
    return Case(lambda calls: None, {"seconds": time.perf_counter() - begun})


def _training(net, batch, size, dtype, compiled):
    """The step, the bytes of its forward pass, and the number of its parameters."""
    model = _model(net).train()
    objective = twins.objective(net).to(DEVICE)
    images = _noise(batch, size)
    if net in twins.SRCNN:
        images = images.sigmoid()
        target = images.flip(0)
    else:
        target = torch.arange(batch, device=DEVICE) % NETS[net].classes
    moved = _bytes(model, images)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4
    )
    fast = torch.compile(model) if compiled else model

    def step(*, eager=False):
        optimizer.zero_grad()
        with _precision(dtype):
            loss = objective((model if eager else fast)(images), target)
        loss.backward()
        optimizer.step()

    return step, moved, sum(p.numel() for p in model.parameters())


def _model(net):
    return twins.create(net).to(DEVICE, memory_format=torch.channels_last)


def _bytes(model, images) -> int:
    """What a forward pass moves at least.

    Parameters are read, results of convolutions and linear layers written and read
    once; all that is element-wise could be fused.
    """
    total = images.numel() + sum(p.numel() for p in model.parameters())

    def count(module, inputs, out):
        nonlocal total
        total += 2 * out.numel()

    layers = (nn.Conv2d, nn.Linear)
    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, layers)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return 4 * total


def _noise(batch, size):
    return _images([batch, size, size, 3])


def _images(shape):
    n, h, w, c = shape
    images = torch.randn(n, c, h, w, device=DEVICE)
    return images.contiguous(memory_format=torch.channels_last)


@contextmanager
def _precision(dtype):
    enabled = dtype == "bfloat16"
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=enabled):
        yield


def _differentiated(function, *arguments, both):
    """The value alone, or also the gradients for a cotangent that is the value."""
    if not both:

        def value():
            with torch.no_grad():
                return function(*arguments)

        return value
    leaves = [argument.detach().requires_grad_() for argument in arguments]

    def gradients():
        out = function(*leaves)
        torch.autograd.grad(out, leaves, out.detach())
        return out

    return gradients


def _wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _repeated(function, **facts):
    def run(calls):
        for _ in range(calls):
            function()
        _wait()

    begun = time.perf_counter()
    run(1)
    return Case(run, facts | {"first_s": time.perf_counter() - begun})

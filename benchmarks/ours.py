"""Our side of the comparisons: cases in JAX, for `benchmarks.worker`.

Each function prepares a case, compiled and run once, and returns it.
"""

import time
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.nets import NETS
from benchmarks.worker import Case, grown
from experiments.inference.enlarger import enlarge_pixels, make_enlarger
from jaxvision import augment as augmentation
from jaxvision import losses, models, ops, optim, parallel, train
from jaxvision.functional import functionalize
from jaxvision.models.network import Enlarger
from jaxvision.perceptual import make_perceptual
from jaxvision.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize, to_float

BATCHES = 4
"""Batches that lie on the device for the steps in a loop."""


def peak(*, sizes: dict[str, int], dtype: str) -> Case:
    """A square matrix product, of the size for the device, which its facts name."""
    device = jax.devices()[0]
    size = sizes[device.platform]
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(lambda a: a @ a)
    return _repeated(
        product, a, flops=2 * size**3, platform=device.platform, kind=device.device_kind
    )


def copy(*, size: int) -> Case:
    """A copy of `size` float32 numbers, with nothing to compute but a sign."""
    a = jnp.ones(size, jnp.float32)
    return _repeated(jax.jit(jnp.negative), a, bytes=8 * size)


def train_step(*, net: str, batch: int, size: int, dtype: str, loop: bool) -> Case:
    """The whole training step on normalised images that are ready.

    With `loop` the steps run inside one compiled program, `train.make_epoch`'s; else
    each is a call.
    """
    apply, loss_fn, tx, state, data = _training(net, batch, size, dtype)
    step = train.make_train_step(apply, loss_fn, tx)
    key = jax.random.key(0)
    sums = jax.tree.map(
        lambda metric: jnp.zeros(metric.shape, metric.dtype),
        jax.eval_shape(step, state, _first(data, batch), key)[1],
    )
    if loop:
        mesh = parallel.make_mesh()
        epoch = train.make_epoch(step, [], batch_size=batch, mesh=mesh)
        order = jnp.arange(BATCHES * batch)
        # Where training has them: else the second call would compile once more.
        state, sums, data, order, key = jax.device_put(
            (state, sums, data, order, key), parallel.replicated(mesh)
        )

        def run(calls):
            nonlocal state, sums
            # What lies beyond the end of `order` is its last batch again.
            state, sums = epoch(state, sums, data, order, 0, calls, key)
            jax.block_until_ready(state)

    else:
        first = _first(data, batch)

        def run(calls):
            nonlocal state
            for _ in range(calls):
                state, _ = step(state, first, key)
            jax.block_until_ready(state)

    return _first_run(run)


def forward(*, net: str, batch: int, size: int, dtype: str) -> Case:
    """The forward pass in evaluation mode."""
    apply, params, stats = _functional(net, dtype)
    images = _noise(batch, size)
    run = jax.jit(lambda params, stats, images: apply(params, stats, images)[0])
    return _repeated(run, params, stats, images)


def enlarge(*, net: str, height: int, width: int, tile: int) -> Case:
    """A uint8 photo enlarged, tile by tile."""
    enlarger = make_enlarger(cast(Enlarger, models.create(net, rngs=nnx.Rngs(0))))
    shape = (height, width, 3)
    photo = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def run(calls):
        for _ in range(calls):
            enlarge_pixels(enlarger, photo, tile=tile)

    with grown() as facts:
        run(1)
    return _first_run(run, **facts)


def augment(*, batch: int, size: int) -> Case:
    """uint8 photos to normalised, augmented images by the recipe `full`."""
    pipeline = augmentation.make_pipeline("full", size=size)

    @jax.jit
    def prepare(key, photos):
        images = pipeline(key, to_float(photos))
        return normalize(images, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    rng = np.random.default_rng(0)
    side = size * 8 // 7
    photos = jnp.asarray(rng.integers(0, 256, (batch, side, side, 3), np.uint8))
    key = jax.random.key(0)

    def run(calls):
        for call in range(calls):
            out = prepare(jax.random.fold_in(key, call), photos)
        jax.block_until_ready(out)

    return _first_run(run)


def convolution(
    *, shape: list[int], cout: int, kernel: int, stride: int, groups: int, both: bool
) -> Case:
    """A convolution of NHWC images; with `both`, its two gradients too."""
    x, w = _pair(shape, (kernel, kernel, shape[3] // groups, cout))
    pad = kernel // 2

    def function(x, w):
        return ops.conv_general_dilated(
            x,
            w,
            (stride, stride),
            ((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    return _differentiated(function, x, w, both=both)


def max_pool(*, shape: list[int], both: bool) -> Case:
    """Max pooling, 2x2, of NHWC images."""
    (x,) = _pair(shape)
    return _differentiated(lambda x: ops.max_pool(x, 2, 2), x, both=both)


def norm_relu(*, shape: list[int], both: bool) -> Case:
    """BatchNorm in training mode, and ReLU."""
    x, scale, bias = _pair(shape, (shape[3],), (shape[3],))

    def function(x, scale, bias):
        return nnx.relu(ops.batch_norm_train(x, scale, bias, eps=1e-5)[0])

    return _differentiated(function, x, scale, bias, both=both)


def first_step(*, net: str, batch: int, size: int, dtype: str) -> Case:
    """How long the first training step takes, with all that is compiled for it."""
    apply, loss_fn, tx, state, data = _training(net, batch, size, dtype)
    jax.block_until_ready(data)
    step = train.make_train_step(apply, loss_fn, tx)
    begun = time.perf_counter()
    state, _ = step(state, _first(data, batch), jax.random.key(0))
    jax.block_until_ready(state)
    seconds = time.perf_counter() - begun
    return Case(lambda calls: None, {"seconds": seconds, "backend": ops.backend()})


def _training(net, batch, size, dtype):
    apply, params, stats = _functional(net, dtype)
    images = _noise(BATCHES * batch, size)
    if net == "srcnn":
        loss_fn, images = _perceptual(), jax.nn.sigmoid(images)
        data = {"image": images, "target": images[::-1]}
    else:
        loss_fn = losses.classification()
        labels = jnp.arange(len(images)) % NETS[net].classes
        data = {"image": images, "label": labels}
    tx = optim.make_optimizer(optim.Optim(weight_decay=1e-4), 1e-4)
    state = train.init_state(params, stats, tx)
    return apply, loss_fn, tx, state, data


def _functional(net, dtype):
    model = models.create(net, num_classes=NETS[net].classes, rngs=nnx.Rngs(0))
    # On float32 images None is float32 too, with one conversion less to compile.
    compute = None if dtype == "float32" else jnp.dtype(dtype)
    apply, params, stats = functionalize(model, dtype=compute)
    return apply, *jax.tree.map(jnp.asarray, (params, stats))


def _perceptual():
    """Mean squared error, and that of VGG16's features `relu2_2`."""
    vgg = models.create("vgg16", rngs=nnx.Rngs(0))
    perceptual = make_perceptual(functionalize(vgg)[1], layers={"relu2_2": 1.0})

    def loss_fn(out, batch):
        features = perceptual.features(batch["target"])
        loss = jnp.square(out - batch["target"]).mean()
        loss = loss + perceptual.loss(out, features)
        return loss, {"loss": loss}

    return loss_fn


def _noise(batch, size):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((batch, size, size, 3), np.float32))


def _first(data, batch):
    return {name: array[:batch] for name, array in data.items()}


def _pair(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]


def _differentiated(function, *arguments, both):
    """The value alone, or the gradients for a cotangent that is the value itself."""
    if not both:
        return _repeated(jax.jit(function), *arguments)

    def gradients(*arguments):
        out, pull = jax.vjp(function, *arguments)
        return pull(out)

    return _repeated(jax.jit(gradients), *arguments)


def _repeated(function, *arguments, **facts):
    call = partial(function, *arguments)

    def run(calls):
        for _ in range(calls):
            out = call()
        jax.block_until_ready(out)

    return _first_run(run, **facts)


def _first_run(run, **facts):
    begun = time.perf_counter()
    run(1)
    seconds = time.perf_counter() - begun
    return Case(run, facts | {"backend": ops.backend(), "first_s": seconds})

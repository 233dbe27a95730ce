"""Optimisers and schedules, step by step beside PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvision import optim
from jaxvision.optim import Optim


@pytest.mark.torch
@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adamw"])
def test_optimizer_equals_torch(float64, name):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((4, 3)), rng.standard_normal((5, 4, 3))
    parameter = torch.nn.Parameter(torch.tensor(start))
    theirs = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        "nesterov": lambda p: torch.optim.SGD(
            p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True
        ),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01),
    }[name]([parameter])
    options = {"nesterov": {"name": "sgd", "nesterov": True}}.get(name, {"name": name})
    tx = optim.make_optimizer(Optim(**options, weight_decay=0.01), 0.1)
    params = {"w": jnp.asarray(start)}
    state = tx.init(params)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        theirs.step()
        updates, state = tx.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(
            params["w"], parameter.detach().numpy(), rtol=1e-10, atol=1e-12
        )


RATES = Optim(
    name="muon", lr=0.25, momentum=0.6, nesterov=True, weight_decay=0.004, head_lr=1.5
)


def muon_step(torch, weight, buffer, *, lr):
    """One step of the published Muon on an OIHW kernel, in torch."""
    gradient = weight.grad
    buffer.mul_(0.6).add_(gradient)
    x = (gradient + 0.6 * buffer).reshape(len(weight), -1)
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(3):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = x.T if tall else x
    weight.data.mul_(len(weight) ** 0.5 / weight.data.norm())
    weight.data.sub_(lr * x.reshape(weight.shape))


@pytest.mark.torch
def test_muon_and_the_sgd_beside_it_equal_torch(float64):
    """Each group by its own rate; what is brief stays once its steps are over."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    shapes = {"wide": (5, 2, 3, 3), "tall": (40, 2, 3, 3), "head": (3, 4)}
    shapes |= {"whiten": (6,), "bias": (5,)}
    theirs = {
        name: torch.nn.Parameter(torch.tensor(rng.standard_normal(shape)))
        for name, shape in shapes.items()
    }
    buffers = {name: torch.zeros(shapes[name]).double() for name in ("wide", "tall")}
    rates = {"head": 1.5, "whiten": 100.0, "bias": 100.0}
    sgd = torch.optim.SGD(
        [
            {"params": [theirs[name]], "lr": lr, "weight_decay": 0.004 / lr}
            for name, lr in rates.items()
        ],
        momentum=0.85,
        nesterov=True,
    )

    def ours(tensor):
        array = tensor.detach().numpy().copy()
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
        return array.transpose(axes)

    layers = {name: {"scale": jnp.ones(3)} for name in shapes}
    for name in shapes:
        leaf = "bias" if len(shapes[name]) == 1 else "kernel"
        layers[name][leaf] = jnp.asarray(ours(theirs[name]))
    schedule = optax.linear_schedule(0.25, 0.0, 8)  # exact in float32
    tx = optim.make_optimizer(RATES, schedule, brief=("whiten.bias",), brief_steps=4)
    state = tx.init(layers)
    for step in range(6):
        gradients = {name: rng.standard_normal(shapes[name]) for name in shapes}
        for name, value in gradients.items():
            theirs[name].grad = torch.tensor(value)
        if step >= 4:
            theirs["whiten"].grad = None
        for group, (name, lr) in zip(sgd.param_groups, rates.items(), strict=True):
            group["lr"] = lr * (1 - step / (4 if name == "whiten" else 8))
        sgd.step()
        for name, buffer in buffers.items():
            muon_step(torch, theirs[name], buffer, lr=0.25 * (1 - step / 8))
        grads = jax.tree.map(jnp.ones_like, layers)
        for name, value in gradients.items():
            leaf = "bias" if value.ndim == 1 else "kernel"
            grads[name][leaf] = jnp.asarray(ours(torch.tensor(value)))
        updates, state = tx.update(grads, state, layers)
        layers = optax.apply_updates(layers, updates)
        for name in shapes:
            leaf = "bias" if len(shapes[name]) == 1 else "kernel"
            np.testing.assert_allclose(
                layers[name][leaf], ours(theirs[name]), rtol=1e-10, atol=1e-12
            )
            np.testing.assert_array_equal(layers[name]["scale"], 1)


@pytest.mark.parametrize("shape", [(3, 3, 2, 16), (3, 3, 2, 40), (2, 1, 8, 16)])
def test_orthogonalized_kernel_is_near_the_polar_factor(shape):
    """Singular values that differ by 1:5 come near one, their vectors stay."""
    rng = np.random.default_rng(1)
    rows, columns = np.prod(shape[:-1]), shape[-1]
    rank = min(rows, columns)
    u, _ = np.linalg.qr(rng.standard_normal((rows, rank)))
    v, _ = np.linalg.qr(rng.standard_normal((columns, rank)))
    matrix = (7 * u * np.geomspace(1, 0.2, rank)) @ v.T
    kernel = jnp.asarray(matrix.reshape(shape), jnp.float32)
    found = np.asarray(optim.orthogonalized(kernel), np.float64).reshape(rows, columns)
    values = np.linalg.svd(found, compute_uv=False)
    assert 0.5 < values.min() and values.max() < 1.25
    inside = u.T @ found @ v
    np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=1e-5)
    np.testing.assert_allclose(found, u @ inside @ v.T, atol=1e-5)
    # More steps leave each singular value in the band around one.
    more = np.asarray(optim.orthogonalized(kernel, steps=8)).reshape(rows, columns)
    values = np.linalg.svd(more, compute_uv=False)
    assert 0.65 < values.min() and values.max() < 1.25


def test_clip_bounds_the_global_norm():
    tx = optim.make_optimizer(Optim(momentum=0, weight_decay=0, clip=0.5), 1.0)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    gradient = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([4.0])}
    updates, _ = tx.update(gradient, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-0.4], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_layers_learn_the_faster_the_later_they_come(name):
    layers = [("stem",), ("body", "0"), ("head",)]
    params = {
        "head": {"w": jnp.ones(2)},
        "stem": {"w": jnp.ones(2)},
        "body": {0: {"w": jnp.ones(2)}},
    }
    gradient = jax.tree.map(lambda x: 0.3 * x, params)
    steps = []
    for first in (1.0, 0.01):
        config = Optim(name=name, first_layer_lr=first)
        tx = optim.make_optimizer(config, 0.1, layers=layers)
        updates, _ = tx.update(gradient, tx.init(params), params)
        steps.append(updates)
    ratio = jax.tree.map(lambda a, b: float(b[0] / a[0]), *steps)
    assert ratio["stem"]["w"] == pytest.approx(0.01, rel=1e-5)
    assert ratio["body"][0]["w"] == pytest.approx(0.1, rel=1e-5)
    assert ratio["head"]["w"] == pytest.approx(1, rel=1e-5)


@pytest.mark.torch
def test_step_schedule_equals_torchs_step_lr():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    config = Optim(lr=0.2, schedule="step", step_epochs=2, gamma=0.1)
    ours = optim.make_schedule(config, steps_per_epoch=3, epochs=7)
    for epoch in range(7):
        for step in range(3):
            np.testing.assert_allclose(
                ours(3 * epoch + step), optimizer.param_groups[0]["lr"], rtol=1e-6
            )
        optimizer.step()
        theirs.step()


def test_cosine_schedule_with_warmup_rises_then_falls_to_zero():
    config = Optim(lr=0.4, schedule="cosine", warmup_epochs=2)
    rate = optim.make_schedule(config, steps_per_epoch=10, epochs=12)
    np.testing.assert_allclose(
        [rate(0), rate(10), rate(20), rate(70), rate(120)],
        [0, 0.2, 0.4, 0.2, 0],
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "option", [{"lr": 0}, {"momentum": 1}, {"gamma": 0}, {"clip": -1}, {"lr": "nan"}]
)
def test_optim_rejects_values_without_a_meaning(option):
    option = {name: float(value) for name, value in option.items()}
    with pytest.raises(ValueError, match=f"optim.{next(iter(option))}"):
        Optim(**option)


def test_split_frozen_takes_whole_path_parts_and_joins_again():
    params = {
        "layer1": {0: {"w": jnp.ones(1)}, 1: {"w": jnp.ones(2)}},
        "layer10": {"w": jnp.ones(3)},
        "fc": {"w": jnp.ones(4)},
    }
    trained, fixed = optim.split_frozen(params, ("layer1.1", "fc"))
    assert jax.tree.map(len, trained) == {"layer1": {0: {"w": 1}}, "layer10": {"w": 3}}
    assert jax.tree.map(len, fixed) == {"layer1": {1: {"w": 2}}, "fc": {"w": 4}}
    whole = optim.join(trained, fixed)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    trained, fixed = optim.split_frozen(params, ("layer1",))
    assert set(trained) == {"layer10", "fc"} and set(fixed) == {"layer1"}

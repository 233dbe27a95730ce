# ---
# jupyter:
#   accelerator: GPU
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: accelerator
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # CIFAR-10, from a fully connected net to a convolutional one
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxvision/jaxvision/blob/main/notebooks/cifar10.ipynb)
#
# 50,000 images of 32 pixels, ten classes. The whole set lies on the device, and an epoch is
# one compiled program. A fully connected net reaches 53 to 58 %, a small convolutional one
# 82 to 92 %: this notebook trains both for some epochs and compares them.
#
# *Runtime → Change runtime type* chooses a GPU or a TPU; then *Runtime → Run all*.

# %%
# Installs jaxvision beside the JAX that is here: what is installed already stays as it is.
import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

if importlib.util.find_spec("jaxvision") is None:
    kept = [f"{name}=={version(name)}" for name in ("jax", "jaxlib", "numpy")]
    Path("kept.txt").write_text("\n".join(kept))
    source = "jaxvision[app] @ git+https://github.com/jaxvision/jaxvision"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "-c", "kept.txt", source]
    subprocess.run(pip, check=True)

# %%
import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import Image, display

from experiments.command.options import check_environment
from experiments.runs.notebook import keep_in_drive
from jaxvision.precision import fast_dtype

# What is compiled, and the runs, are kept in your Drive, for the next machine.
KEEP_IN_DRIVE = False  # @param {type: "boolean"}
OUTPUT = keep_in_drive() if KEEP_IN_DRIVE else Path("runs")

check_environment()  # the compiled programs are kept, and the CPU's convolutions found
device = jax.devices()[0]
DTYPE, why = fast_dtype(device)
print(f"JAX {jax.__version__} on {jax.device_count()} x {device.device_kind}")
print(f"computes in {DTYPE}: {why}")

# %% [markdown]
# `DATA` is `cifar10`, which fetches the official archive (170 MB) once; `demo`, nine
# photographs cut into small images, which need no network; or a `.npz` file with Keras's
# keys `x_train, y_train, x_test, y_test`.

# %% tags=["parameters"]
DATA = "cifar10"  # @param {type: "string"}
FULLY_CONNECTED = "fcn"  # @param ["fcn", "fcn_baseline", "fcn_wide", "fcn_deep"]
CONVOLUTIONAL = "cnn"  # @param ["cnn", "cnn_small", "cnn_lean", "cnn_fast"]
EPOCHS = 6  # @param {type: "integer"}
BATCH = 128  # @param {type: "integer"}

# %%
from experiments import cifar10
from experiments.command.console import Console
from experiments.runs.notebook import offer, show, uploaded
from experiments.training.data import open_data

console = Console()
dataset = open_data(DATA, cifar10.CIFAR10, train_size=32, console=console)
print(f"{len(dataset.train):,} images to learn from, {len(dataset.val):,} to judge by")


firsts = [
    int(np.argmax(dataset.train.labels == n)) for n in range(len(dataset.classes))
]
show(dataset.train.images[firsts] / 255, dataset.classes, columns=10, side=1.1)

# %% [markdown]
# ## By hand: a step, an epoch
#
# The network is a pure function of its parameters. `step` is one update; `epoch` runs many of
# them as one program, over images that are on the device, in the order that it is given.

# %%
import time

from jaxvision import losses, optim, parallel, train
from jaxvision.augment import photo_transform
from jaxvision.functional import functionalize

start = cifar10.build(FULLY_CONNECTED, dataset, dropout=None, seed=0)
apply, params, stats = functionalize(
    start.model, dtype=None if DTYPE == "float32" else jnp.dtype(DTYPE)
)
tx = optim.make_optimizer(optim.Optim(weight_decay=5e-4), 0.05)
step = train.make_train_step(apply, losses.classification(), tx, frozen=start.frozen)

transform = photo_transform("flips", cifar10.CIFAR10)
mesh = parallel.make_mesh()  # all devices share each batch
epoch = train.make_epoch(step, [transform], batch_size=BATCH, mesh=mesh)
evaluate = train.make_eval_step(apply, [transform], batch_size=BATCH, mesh=mesh)

data = {"image": dataset.train.images, "label": dataset.train.labels}
state = train.init_state(params, stats, tx, frozen=start.frozen)
sums = {"loss": jnp.zeros(()), "accuracy": jnp.zeros(())}
order = jax.random.permutation(jax.random.key(1), len(dataset.train))
state, sums, data, order, key = jax.device_put(
    (state, sums, data, order, jax.random.key(2)), parallel.replicated(mesh)
)
steps = len(dataset.train) // BATCH
for name in ("with its compilation", "once more"):
    begun = time.perf_counter()
    sums = jax.tree.map(jnp.zeros_like, sums)
    state, sums = epoch(state, sums, data, order, 0, steps, key)
    loss = float(sums["loss"]) / steps
    print(f"an epoch {name}: {time.perf_counter() - begun:.1f} s, loss {loss:.3f}")
logits = evaluate(state.params, state.stats, dataset.val.images)
right = (np.argmax(logits, -1) == dataset.val.labels).mean()
print(f"{start.name} after two epochs: {right:.1%} of the validation images")

# %% [markdown]
# ## Both nets, one after the other
#
# The same functions with a schedule, checkpoints and a report. *Runtime → Interrupt
# execution* stops between two steps with all saved. Each net's program is compiled first;
# then the picture grows with each epoch, and begins anew with the second net.

# %%
from experiments.runs.notebook import live_curves
from jaxvision.optim import Optim

config = cifar10.Config(
    model=(FULLY_CONNECTED, CONVOLUTIONAL),
    data=DATA,
    epochs=EPOCHS,
    batch_size=BATCH,
    optim=Optim(lr=0.05, weight_decay=5e-4, schedule="cosine"),
    output=OUTPUT,
)
with live_curves(OUTPUT):
    cifar10.main(config)

# %% [markdown]
# ## Side by side
#
# A line a net, then what it takes to get there: the bars are the 95 % interval that so few
# images leave, the axes below have a logarithmic scale.

# %%
from experiments.runs.folder import newest_run

RUN = newest_run(OUTPUT / "cifar10")
display(Image(RUN / "comparison.png", width=900))

# %% [markdown]
# ## What the convolutional net confuses
#
# Rows are the true classes, columns the answers. Below are the mistakes it is surest of.

# %%
from experiments.inference.classifier import make_predict, open_model

BEST = next(path.parent for path in RUN.glob(f"{CONVOLUTIONAL}*/model.safetensors"))
display(Image(BEST / "confusion.png", width=620))

bundle = open_model(BEST)
probabilities = make_predict(bundle)(dataset.val.images[:2000])
labels = dataset.val.labels[: len(probabilities)]
wrong = np.flatnonzero(probabilities.argmax(-1) != labels)
surest = wrong[np.argsort(-probabilities[wrong].max(-1))][:20]
titles = [
    f"{bundle.classes[labels[n]]} taken\nfor {bundle.classes[probabilities[n].argmax()]}"
    for n in surest
]
show(dataset.val.images[surest] / 255, titles, columns=10, side=1.1)

# %% [markdown]
# ## An image of your own
#
# Choose files in the dialogue; without any, five of the validation images are asked about.
# An image becomes 32 pixels small, as those that the net has learnt from.

# %%
from jaxvision.data.image_files import file_photo
from jaxvision.data.squares import read_crops

ours = uploaded()
if ours:
    crops, bad = read_crops([file_photo(path) for path in ours], resize=32, crop=32)
    for index, why in bad.items():
        print(f"{ours[index]}: {why}")
else:
    crops = dataset.val.images[np.linspace(0, len(dataset.val) - 1, 5).astype(int)]
answers = make_predict(bundle)(crops)
titles = [f"{bundle.classes[row.argmax()]}, {row.max():.0%}" for row in answers]
show(crops / 255, titles, columns=10, side=1.1)

# %% [markdown]
# ## Take it with you
#
# `model.safetensors` holds the tensors, the classes and the preprocessing:
# `python -m experiments.predict model.safetensors IMAGES`.

# %%
offer(BEST / "model.safetensors", BEST / "report.html")

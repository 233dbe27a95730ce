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
# # Your photos, an ImageNet backbone
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxvision/jaxvision/blob/main/notebooks/transfer.ipynb)
#
# A folder of photos, one subfolder a class, becomes a classifier: one of torchvision's
# networks with its ImageNet weights is trained on in JAX. At the end there are the mistakes
# to look at, an answer for a photo of your own, and a file that PyTorch loads.
#
# *Runtime → Change runtime type* chooses a GPU or a TPU; then *Runtime → Run all*. Without
# photos of your own it uses nine classes cut from photographs that come with scikit-image.

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
from IPython.display import Image, Markdown, display

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
# ## Which photos, which network
#
# `SOURCE` says where the photos come from:
#
# - `demo`: nothing to do;
# - `zip`: a dialogue asks for a zip file of the folder;
# - `drive`: the folder `DRIVE_FOLDER` of your Google Drive;
# - `oxford_iiit_pet`: 37 breeds of cats and dogs, 800 MB from the university's server.
#
# The folder is `PHOTOS/CLASS/*.jpg`, of which a fifth is kept for validation, or
# `PHOTOS/train/CLASS/*.jpg` and `PHOTOS/val/CLASS/*.jpg`.

# %% tags=["parameters"]
SOURCE = "demo"  # @param ["demo", "zip", "drive", "oxford_iiit_pet"]
DRIVE_FOLDER = "MyDrive/photos"  # @param {type: "string"}
BACKBONE = "mobilenet_v2"  # @param ["mobilenet_v2", "resnet18", "wrn50_2", "densenet161", "googlenet", "vgg16", "resnext50"]
IMAGE_SIZE = 128  # @param {type: "integer"}
EPOCHS = 6  # @param {type: "integer"}
BATCH = 32  # @param {type: "integer"}

# %%
from experiments.runs.notebook import offer, show, uploaded

DATA = SOURCE
if SOURCE == "zip":
    import zipfile

    (archive,) = uploaded()
    with zipfile.ZipFile(archive) as packed:
        packed.extractall("photos")
    found = [path for path in Path("photos").iterdir() if path.name != "__MACOSX"]
    # The archive of a folder holds that folder; its classes are below it.
    DATA = str(found[0] if len(found) == 1 else Path("photos"))
elif SOURCE == "drive":
    from google.colab import drive

    drive.mount("/content/drive")
    DATA = f"/content/drive/{DRIVE_FOLDER}"

# %% [markdown]
# ## Look first
#
# The photos are decoded once and lie on the device as bytes. Whatever is done to them at
# random is done there, to a whole batch at a time, by a *transform*, a pure function
# `(key, batch) -> batch`. Here the same six photos come three times.

# %%
from experiments.command.console import Console
from experiments.training.backbones import choose_weights, common_weights, scaled
from experiments.training.data import open_data
from jaxvision import models
from jaxvision.augment import photo_transform

console = Console()
NAME = models.variant(BACKBONE).name
WEIGHTS, warning = common_weights(
    (NAME,), "auto", is_demo=SOURCE == "demo", console=console
)
weights = choose_weights(NAME, WEIGHTS, console=console)
preprocessing = scaled(weights.preprocessing, IMAGE_SIZE)
dataset = open_data(
    DATA, preprocessing, train_size=round(IMAGE_SIZE * 8 / 7), console=console
)
print(f"{len(dataset.train)} photos to learn from, {len(dataset.val)} to judge by:")
print(", ".join(dataset.classes))


transform = photo_transform("full", preprocessing)
chosen = np.linspace(0, len(dataset.train) - 1, 6).astype(int)
batch = {"image": jnp.asarray(dataset.train.images[chosen])}
seen = [transform(jax.random.key(number), batch)["image"] for number in range(3)]
mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
titles = [dataset.classes[dataset.train.labels[index]] for index in chosen]
show(np.concatenate(seen) * std + mean, titles, columns=6, side=1.7)

# %% [markdown]
# ## Train
#
# One call trains, judges each epoch and keeps the best, and leaves a folder with a report.
# *Runtime → Interrupt execution* stops it between two steps with all saved; the line that it
# prints goes on to the same bits. First the training step is compiled, which takes from
# seconds to minutes on a GPU or TPU, and less the next time; then the picture grows with
# each epoch.

# %%
from experiments import transfer
from experiments.runs.notebook import live_curves
from jaxvision.optim import Optim

config = transfer.Config(
    backbone=(BACKBONE,),
    data=DATA,
    weights=WEIGHTS,
    image_size=IMAGE_SIZE,
    epochs=EPOCHS,
    batch_size=BATCH,
    augment=("flips",),
    optim=Optim(lr=0.003),
    output=OUTPUT,
)
with live_curves(OUTPUT):
    numbers = transfer.main(config)

# %% [markdown]
# ## What became of it
#
# Rows are the true classes, columns the answers.

# %%
from experiments.runs.folder import newest_run

RUN = newest_run(OUTPUT / "transfer")
display(Markdown(f"**{numbers['val_accuracy']:.1%}** of {len(dataset.val)} photos"))
display(Image(RUN / "confusion.png", width=620))

# %% [markdown]
# The surest mistakes: the photo, and what in it spoke for the wrong answer (Grad-CAM).
# `report.html` in the run's folder has all of them, and calibration, suspected labels and
# photos that are in both parts of the data.

# %%
from experiments.inference.classifier import explainer, make_predict, open_model
from experiments.pages.photos import overlay

bundle = open_model(RUN)
predict, explain = make_predict(bundle), explainer(bundle)


def explained(crops: np.ndarray, labels=None) -> Image:
    """What the network says of photos, beside where it looked."""
    probabilities = predict(crops)
    answers = probabilities.argmax(-1)
    pictures, titles = [], []
    for index, heat in enumerate(explain(crops, answers)):
        pictures += [crops[index] / 255, overlay(crops[index], heat) / 255]
        true = "" if labels is None else f"{bundle.classes[labels[index]]} taken for\n"
        answer = bundle.classes[answers[index]]
        titles += [f"{true}{answer}, {probabilities[index].max():.0%}", ""]
    return show(pictures, titles, columns=6, side=1.7)


probabilities = predict(dataset.val.images)
wrong = np.flatnonzero(probabilities.argmax(-1) != dataset.val.labels)
surest = wrong[np.argsort(-probabilities[wrong].max(-1))][:9]
if len(surest):
    display(explained(dataset.val.images[surest], dataset.val.labels[surest]))
else:
    print("There is none.")

# %% [markdown]
# ## The same by hand
#
# What `transfer.main` calls is a few pure functions over plain dicts of arrays, to be used
# in programs of your own: `apply` is the network, `step` one update, `epoch` many updates
# compiled into one program, with the photos on the device.

# %%

from experiments.training.backbones import build
from jaxvision import losses, optim, parallel, train
from jaxvision.functional import functionalize

start = build(NAME, weights, num_classes=len(dataset.classes), size=IMAGE_SIZE, seed=1)
dtype = None if DTYPE == "float32" else jnp.dtype(DTYPE)
apply, params, stats = functionalize(start.model, dtype=dtype)
tx = optim.make_optimizer(optim.Optim(lr=0.003), 0.003)
step = train.make_train_step(apply, losses.classification(), tx)

mesh = parallel.make_mesh()  # all devices share each batch
epoch = train.make_epoch(step, [transform], batch_size=BATCH, mesh=mesh)
evaluate = train.make_eval_step(apply, [transform], batch_size=BATCH, mesh=mesh)

data = {"image": dataset.train.images, "label": dataset.train.labels}
state = train.init_state(params, stats, tx)
sums = {"loss": jnp.zeros(()), "accuracy": jnp.zeros(())}
order = jax.random.permutation(jax.random.key(1), len(dataset.train))
state, sums, data, order, key = jax.device_put(
    (state, sums, data, order, jax.random.key(2)), parallel.replicated(mesh)
)
steps = min(10, len(dataset.train) // BATCH)
state, sums = epoch(state, sums, data, order, 0, steps, key)
logits = evaluate(state.params, state.stats, dataset.val.images)
right = (np.argmax(logits, -1) == dataset.val.labels).mean()
print(f"{steps} steps: loss {sums['loss'] / steps:.3f}; then {right:.1%} in validation")

# %% [markdown]
# ## A photo of your own
#
# Choose files in the dialogue; without any, three of the validation photos are asked about.

# %%
from jaxvision.data.image_files import file_photo
from jaxvision.data.squares import read_crops

ours = uploaded()
if ours:
    size = bundle.preprocessing
    crops, bad = read_crops(
        [file_photo(path) for path in ours],
        resize=size.resize,
        crop=size.crop,
        fit=size.fit,
    )
    for index, why in bad.items():
        print(f"{ours[index]}: {why}")
else:
    crops = dataset.val.images[np.linspace(0, len(dataset.val) - 1, 3).astype(int)]
explained(crops)

# %% [markdown]
# ## Take it with you
#
# `model.safetensors` has torchvision's names and layouts; the report says which call builds
# the network there. `predict` needs the file alone:
# `python -m experiments.predict model.safetensors PHOTOS --explain`.

# %%
from converters.to_torch import torch_call

print(f"model = {torch_call(bundle.name, num_classes=len(bundle.classes))}")
print('model.load_state_dict(safetensors.torch.load_file("model.safetensors"))')
offer(RUN / "model.safetensors", RUN / "report.html")

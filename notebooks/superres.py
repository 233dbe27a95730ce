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
# # Larger photographs: super-resolution
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxvision/jaxvision/blob/main/notebooks/superres.ipynb)
#
# A small convolutional network learns to make photographs two, three or four times larger,
# from pairs of a photo and what is left of it at a fraction of its size. It is judged beside
# bicubic interpolation, by the papers' protocol.
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

# What is compiled, and the runs, are kept in your Drive, for the next machine.
KEEP_IN_DRIVE = False  # @param {type: "boolean"}
OUTPUT = keep_in_drive() if KEEP_IN_DRIVE else Path("runs")

check_environment()  # the compiled programs are kept, and the CPU's convolutions found
device = jax.devices()[0]
print(f"JAX {jax.__version__} on {jax.device_count()} x {device.device_kind}")

# %% [markdown]
# `DATA` is `demo`, nine photographs that come with scikit-image; `oxford_iiit_pet`, 800 MB
# from the university's server; or a folder of photos, such as one of your Drive.

# %% tags=["parameters"]
DATA = "demo"  # @param {type: "string"}
MODEL = "light"  # @param ["light", "srcnn_955_residual", "srcnn_955", "srcnn_915"]
SCALE = 2  # @param {type: "integer"}
EPOCHS = 4  # @param {type: "integer"}
REPEAT = 64  # @param {type: "integer"}

# %% [markdown]
# ## A pair
#
# A *transform* cuts a random crop out of each photo and reduces it: the network sees `image`
# and should make `target` of it. All of it is on the device.

# %%
from experiments.runs.notebook import offer, show, uploaded
from jaxvision.data.pairs import pair_transform
from jaxvision.data.pieces import open_photos

CROP = 32 * SCALE
photos = open_photos(DATA, crop_size=CROP, scale=SCALE, val_count=50)
print(f"{photos.count} photos to learn from, {len(photos.val)} to judge by")


transform = pair_transform(crop_size=CROP, jitter=0.0, scale=SCALE, enlarged=False)
chosen = np.linspace(0, len(photos.images) - 1, 4).astype(int)
batch = {"image": photos.images[chosen], "size": photos.sizes[chosen]}
pairs = transform(jax.random.key(0), jax.tree.map(jnp.asarray, batch))
small, large = pairs["image"], pairs["target"]
show(
    [*small, *large],
    [f"{image.shape[0]} px" for image in (*small, *large)],
    columns=4,
    side=2.6,
)

# %% [markdown]
# ## Train
#
# One call trains, keeps the best epoch's model and judges it. *Runtime → Interrupt execution*
# stops it between two steps with all saved. The program is compiled first; then the picture
# grows with each epoch. More `EPOCHS` and more photos give more.

# %%
from experiments import superres
from experiments.runs.notebook import live_curves

config = superres.Config(
    data=(DATA,),
    model=MODEL,
    scale=SCALE,
    epochs=EPOCHS,
    repeat=REPEAT,
    output=OUTPUT,
)
with live_curves(OUTPUT):
    numbers = superres.main(config)

# %% [markdown]
# ## Side by side
#
# The low resolution, bicubic, the network, and the true photo, where bicubic is furthest off.

# %%
from experiments.runs.folder import newest_run

RUN = newest_run(OUTPUT / "superres")
print(
    f"{numbers['test_psnr']:.2f} dB on photos that it has not seen; "
    f"bicubic {numbers['test_psnr_bicubic']:.2f} dB"
)
display(Image(RUN / "comparison.png", width=900))

# %% [markdown]
# ## By hand: the step
#
# The loss is a function of two arrays; the step is made of it as for any other network.

# %%
from flax import nnx

from jaxvision import models, optim, parallel, train
from jaxvision.functional import functionalize

model = models.create(f"light_x{SCALE}", rngs=nnx.Rngs(0))
apply, params, stats = functionalize(model)


def loss_fn(out, batch):
    """The mean absolute error."""
    loss = jnp.abs(out - batch["target"]).mean()
    return loss, {"loss": loss}


tx = optim.make_optimizer(optim.Optim(name="adam"), 1e-3)
step = train.make_train_step(apply, loss_fn, tx)
mesh = parallel.make_mesh()  # all devices share each batch
epoch = train.make_epoch(step, [transform], batch_size=16, mesh=mesh)

data = {"image": photos.images, "size": photos.sizes}
state = train.init_state(params, stats, tx)
order = jnp.arange(16 * 20) % len(photos.images)  # several crops of each photo
state, sums, data, order, key = jax.device_put(
    (state, {"loss": jnp.zeros(())}, data, order, jax.random.key(1)),
    parallel.replicated(mesh),
)
for start in (0, 10):
    sums = {"loss": jnp.zeros_like(sums["loss"])}
    state, sums = epoch(state, sums, data, order, start, start + 10, key)
    print(f"steps {start + 1} to {start + 10}: loss {float(sums['loss']) / 10:.2e}")

# %% [markdown]
# ## A photo of your own
#
# Choose files in the dialogue; without any, a piece of one of the photos above is enlarged.
# It is worked on tile by tile, so that its size does not matter. Beside bicubic and the
# network from above stands the one that comes with jaxvision, which was trained for longer.

# %%
from PIL import Image as Picture

from experiments import upscale

ours = uploaded()
if not ours:
    ours = [Path("example.png")]
    image = photos.val[0].image
    top, left = (max(0, side // 2 - 64) for side in image.shape[:2])
    Picture.fromarray(image[top : top + 128, left : left + 128]).save(ours[0])
enlarged, shipped = (
    upscale.main(
        upscale.Config(
            images=tuple(ours),
            model=model,
            scale=SCALE,
            output=Path(folder),
            overwrite=True,
        )
    )
    for model, folder in ((str(RUN), "enlarged"), ("light", "enlarged_by_light"))
)
small, large = Picture.open(ours[0]).convert("RGB"), Picture.open(enlarged[0])
bicubic = small.resize(large.size, Picture.Resampling.BICUBIC)
pictures = [bicubic, large, Picture.open(shipped[0])]
middles = []
for picture in pictures:
    pixels = np.asarray(picture.convert("RGB")) / 255
    top, left = (max(0, side // 2 - 192) for side in pixels.shape[:2])
    middles.append(pixels[top : top + 384, left : left + 384])
titles = ["bicubic", f"{MODEL}, {EPOCHS} epochs", "light, as it comes along"]
show(middles, titles, columns=3, side=3.6)

# %% [markdown]
# ## Take it with you
#
# `python -m experiments.upscale IMAGES --model model.safetensors` needs the file alone; without
# `--model` it takes the network that comes with jaxvision, which was trained for longer.

# %%
offer(RUN / "model.safetensors", *enlarged)

# ---
# jupyter:
#   accelerator: GPU
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
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
from pathlib import Path

from experiments.runs.notebook import offer, show, uploaded
from jaxvision.data.pairs import pair_transform
from jaxvision.data.pieces import open_photos

OUTPUT = Path("runs")
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
# stops it between two steps with all saved. The picture grows with each epoch.

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
# The low resolution, bicubic, the network, and the true photo.

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
# Choose files in the dialogue; without any, one of the photos above is enlarged. The photo is
# worked on tile by tile, so that its size does not matter.

# %%
from PIL import Image as Picture

from experiments import upscale

ours = uploaded()
if not ours:
    ours = [Path("example.png")]
    Picture.fromarray(photos.val[0].image[:128, :128]).save(ours[0])
enlarged = upscale.main(
    upscale.Config(
        images=tuple(ours), model=str(RUN), output=Path("enlarged"), overwrite=True
    )
)
small, large = Picture.open(ours[0]).convert("RGB"), Picture.open(enlarged[0])
bicubic = small.resize(large.size, Picture.Resampling.BICUBIC)
pictures = [np.asarray(one.convert("RGB")) / 255 for one in (bicubic, large)]
show([one[:512, :512] for one in pictures], ["bicubic", MODEL], columns=2, side=4.5)

# %% [markdown]
# ## Take it with you
#
# `python -m experiments.upscale IMAGES --model model.safetensors` needs the file alone; without
# `--model` it takes the network that comes with jaxvision, which was trained for longer.

# %%
offer(RUN / "model.safetensors", *enlarged)

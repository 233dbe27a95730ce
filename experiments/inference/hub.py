"""The layout of a repository on the Hugging Face Hub, as timm reads it.

Nothing is uploaded: it is a folder with `config.json` beside `model.safetensors`.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from experiments.command.options import UsageError
from experiments.inference.portable import About
from jaxvision.files import write_text
from jaxvision.preprocess import Preprocessing
from jaxvision.text import shell_word

PREFIX = "hub:"
CONFIG = "config.json"
TIMM = {
    "resnet": ("fc", "conv1"),
    "resnext": ("fc", "conv1"),
    "wide_resnet": ("fc", "conv1"),
    "densenet": ("classifier", "features.conv0"),
    "vgg": ("head.fc", "features.0"),
}
"""How names begin that timm has too, with the same tensors: its last layer, its first.

timm's MobileNets have other names for their layers, and it has no GoogLeNet."""
TIMM_FITS = {"crop": "center", "pad": "border", "stretch": "squash"}
"""timm's names for how a photo becomes a square."""
LARGEST_VGG = 255
"""Pixels a side from which on timm's VGGs slide over the map that torchvision pools."""
_REPOSITORY = re.compile(r"(?=.{3,96}$)\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)


def repository(to: str) -> str:
    """OWNER/NAME of `hub:OWNER/NAME`.

    Raises:
      UsageError: it is none.
    """
    name = to.removeprefix(PREFIX)
    if not _REPOSITORY.fullmatch(name) or "--" in name or ".." in name:
        raise UsageError(
            f"--to {to}: it is {PREFIX}OWNER/NAME, each of letters, digits, '-', '_' "
            "and '.', as the Hub takes them"
        )
    return name


def timm_layers(about: About) -> tuple[str, str] | None:
    """The last and the first layer of the same network of timm's; None without one."""
    found = TIMM.get(re.split("[0-9]", about.name)[0])
    if about.name.startswith("vgg") and about.preprocessing.crop > LARGEST_VGG:
        return None
    return found


def write_config(folder: Path, about: About) -> None:
    """Writes `config.json`, by which `timm.create_model` builds and feeds the model."""
    size = about.preprocessing
    said: dict[str, Any] = {
        "architecture": about.name,
        "num_classes": len(about.classes),
        "label_names": list(about.classes),
    }
    cfg: dict[str, Any] = {
        "num_classes": len(about.classes),
        "input_size": [3, size.crop, size.crop],
        "crop_pct": crop_share(size),
        "crop_mode": TIMM_FITS[size.fit],
        "interpolation": "bilinear",
        "mean": list(size.mean),
        "std": list(size.std),
    }
    layers = timm_layers(about)
    if layers is not None:
        cfg |= {"classifier": layers[0], "first_conv": layers[1]}
    said["pretrained_cfg"] = cfg
    text = json.dumps(said, indent=2, ensure_ascii=False)
    write_text(folder / CONFIG, f"{text}\n")


def crop_share(size: Preprocessing) -> float:
    """`crop_pct`: of it timm makes the short side, `floor(crop / crop_pct)`."""
    if size.fit != "crop":
        return 1.0
    share = size.crop / size.resize
    # Rounding may lead to the pixel below; half a pixel more cannot.
    exact = int(size.crop / share) == size.resize
    return share if exact else size.crop / (size.resize + 0.5)


def front_matter(about: About) -> str:
    """What the Hub reads at the top of a `README.md`."""
    library = "jaxvision" if timm_layers(about) is None else "timm"
    said = {
        "library_name": library,
        "pipeline_tag": "image-classification",
        "license": "unknown",
        "tags": sorted({"image-classification", "jaxvision", "safetensors", library}),
    }
    return f"---\n{yaml.safe_dump(said, sort_keys=False)}---\n\n"


def notes(about: About, name: str) -> list[str]:
    """What the card says of the Hub."""
    loaded = "timm has no network that takes these tensors and computes the same."
    if timm_layers(about) is not None:
        loaded = (
            "timm (1.0 or newer) loads it, and what it says is the logits:\n\n"
            "```python\n"
            "import timm\n\n"
            f'model = timm.create_model("hf-hub:{name}", pretrained=True).eval()\n'
            "data = timm.data.resolve_model_data_config(model)\n"
            "transform = timm.data.create_transform(**data, is_training=False)\n"
            "```"
        )
        if about.preprocessing.mirror:
            loaded += "\n\nWithout the mirror image, of which timm does not know."
    return [
        "## With timm",
        loaded,
        "## With jaxvision",
        "In a checkout, after a download of this folder to FOLDER:\n\n"
        "```\n"
        "python -m experiments.predict FOLDER PHOTOS\n"
        f"python -m experiments.transfer --backbone {about.name} --weights FOLDER "
        "--data YOUR_PHOTOS\n"
        "```",
    ]


def upload_command(name: str, folder: Path) -> str:
    """What uploads the folder, which is for a person to run."""
    return f"hf upload {name} {shell_word(folder)}"

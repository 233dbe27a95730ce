"""A classifier that answers: what a photo shows, and where the net found it."""

from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from experiments.inference.classifier import Explain, explainer
from experiments.inference.portable import Portable, Predict, open_portable, read_photos
from experiments.inference.unsure import least_sure
from experiments.pages.photos import jpeg, overlay
from experiments.serving.nearest import NearestPhotos
from experiments.serving.service import (
    RefusedError,
    Reply,
    Service,
    Upload,
    as_json,
    safe_file,
    safe_folders,
)
from jaxvision.calibration import foremost
from jaxvision.data.decode import FORMATS, open_image, read_header
from jaxvision.data.photo import Photo
from jaxvision.data.reader import Guesses, guessed

TOGETHER = 4
"""Images a step: one photo waits for no more. With the nets that were tried (ResNet-18,
MobileNet-v2, DenseNet-121, by oneDNN) fewer have not all the bits of `predict`."""
SIDE = 320
"""Most pixels a side of a picture in the page."""
NO_PHOTOS = "An export does not know the training photos: serve the run to see them."
NO_HEAT = "An export has no gradients: serve the run to see where the net looked."


def classifier_service(path: Path, *, precision: float | None) -> Service:
    """The answers of a run or an export: `POST /predict`.

    Args:
      path: the run's folder, its `model.safetensors`, or the export's folder.
      precision: see `predict`.

    Raises:
      UsageError: there is none, or it does not know how sure it is.
    """
    model = open_portable(path)
    limit = least_sure(model, precision)
    predict = model.make_predict(batch_size=TOGETHER)
    explain = explainer(model.bundle, batch_size=1) if model.bundle else None
    device = Lock()  # one program at a time: two would take twice the memory, not less
    nearest = model.bundle and NearestPhotos(path, model.bundle, device=device)

    def answer(upload: Upload) -> Reply:
        image, notes = _read(upload, model)
        with device:
            (row,) = predict(image)
        said = _said(row, model, limit) | {"name": upload.name, "notes": notes}
        if upload.wishes.get("pictures"):
            with device:
                label = int(foremost(row[None], model.certainty)[0])
                said |= _looked(image[0], label, explain, model)
            said["file"] = safe_file(upload.name, ending=_ending(upload.data))
            said["nearest"] = nearest.find(image) if nearest else []
            said["nearest_note"] = nearest.note if nearest else NO_PHOTOS
        return as_json(said)

    return Service(
        about={
            "task": "classify",
            "net": model.name,
            "classes": list(model.classes),
            "folders": safe_folders(model.classes),
            "several": bool(model.certainty.label_thresholds),
            "facts": {"From": str(path)} | _facts(model, limit, precision),
        },
        answers={"/predict": answer},
        warm=lambda: _warm(model, predict, explain, device),
        behind=nearest.look_through if nearest else None,
    )


def _facts(model: Portable, limit: float, precision: float | None) -> dict[str, str]:
    size, certainty = model.preprocessing, model.certainty
    facts = {
        "Classes": str(len(model.classes)),
        "Sees": f"{size.crop} x {size.crop} pixels ({size.fit})",
        "Probabilities": f"after a temperature of {certainty.temperature:.3g}"
        if certainty.temperature != 1
        else "the net's own",
    }
    if certainty.label_thresholds:
        facts["Labels"] = "all that reach their thresholds"
    if precision is not None:
        which = f"below {limit:.1%}" if limit else "never"
        facts["Unsure"] = f"{which}, for {precision:.1%} right answers"
    return facts


def _read(upload: Upload, model: Portable) -> tuple[Any, list[str]]:
    """The photograph as the model takes it, and what was guessed of it.

    Raises:
      RefusedError: it is none that can be read.
    """
    name = upload.name
    photo = Photo(name, name, lambda: open_image(BytesIO(upload.data)))
    guesses: Guesses = {}
    images, bad = read_photos([photo], model, guesses=guesses)
    if bad:
        raise RefusedError(400, f"{name}: {bad[0]}")
    return images, guessed(guesses)


def _said(row: np.ndarray, model: Portable, limit: float) -> dict[str, Any]:
    """One class; of several labels all that reach their thresholds, as `predict`."""
    shares = dict(zip(model.classes, row.tolist(), strict=True))
    if limits := model.certainty.label_thresholds:
        reached = np.nonzero(row >= np.asarray(limits))[0]
        return {
            "predictions": [model.classes[int(label)] for label in reached],
            "probabilities": shares,
            "thresholds": dict(zip(model.classes, limits, strict=True)),
        }
    best = model.classes[int(row.argmax())]
    return {
        "prediction": best,
        "probability": shares[best],
        "unsure": shares[best] < limit,
        "probabilities": shares,
    }


def _looked(
    image: np.ndarray, label: int, explain: Explain | None, model: Portable
) -> dict[str, Any]:
    """What the net saw, and that with the heat of its answer over it."""
    said: dict[str, Any] = {"seen": jpeg(image, longest=SIDE), "looked": None}
    said["looked_for"] = model.classes[label]
    if model.bundle is None:
        return said | {"looked_note": NO_HEAT}
    if explain is None:
        return said | {"looked_note": f"{model.name} has no maps to look into."}
    (heat,) = explain(image[None], np.array([label], np.int64))
    return said | {"looked": jpeg(overlay(image, heat), longest=SIDE)}


def _ending(data: bytes) -> str:
    """How the files of this image's format end."""
    with read_header(BytesIO(data)) as image:
        return FORMATS.get(image.format or "", FORMATS["JPEG"])[0]


def _warm(
    model: Portable, predict: Predict, explain: Explain | None, device: Lock
) -> None:
    side = model.preprocessing.crop
    blank = np.zeros((1, side, side, 3), np.uint8)
    with device:
        predict(list(blank) if model.whole else blank)
        if explain is not None:
            explain(blank, np.zeros(1, np.int64))

"""Finding a set of TensorFlow Datasets, and preparing it where it is not prepared yet.

Reading needs no TensorFlow; preparing does, and a download unless the archives are at
hand. The folders are tfds's own: `TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
"""

import difflib
import importlib
import importlib.util
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jaxvision.files import read_text

PACKAGES = ("tensorflow_datasets", "array_record", "importlib_resources")
INSTALL = "pip install 'jaxvision[tfds]' (in a checkout: -e '.[tfds]')"

OWN = "tensorflow_datasets."
"""How the names of all classes begin that a prepared set may name."""

_NAME = re.compile(r"\w+(/[\w.-]+)?(:\d+\.\d+\.\d+)?")


def import_tfds(what: str) -> Any:
    """The package `tensorflow_datasets`, where all that reading needs is installed.

    Args:
      what: how the message begins that says what is missing.

    Raises:
      ValueError: a package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{what} needs {', '.join(missing)}: {INSTALL}")
    return importlib.import_module("tensorflow_datasets")


def find_builder(name: str, *, what: str) -> Any:
    """The builder of the set that tfds calls `name`, prepared or not.

    Raises:
      ValueError: a package is missing, or there is no set, no configuration or no
        version of that name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{what}: give a name as TensorFlow Datasets has it, for example "
            "tfds:cifar10, tfds:NAME/CONFIG or tfds:NAME:1.0.0"
        )
    tfds = import_tfds(what)
    _check_features_files(name, what=what)
    try:
        return tfds.builder(name)
    except tfds.core.DatasetNotFoundError:
        # With the community's sets, the list would come from the network.
        known = tfds.list_builders(with_community_datasets=False)
        own = re.split("[/:]", name)[0]
        close = difflib.get_close_matches(own.lower(), known, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see its catalogue"
        raise ValueError(
            f"{what}: TensorFlow Datasets has no {own!r}; {hint}"
        ) from None
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{what} needs {error.name or 'tensorflow'}: {INSTALL}"
        ) from error
    except Exception as error:  # ValueError, AssertionError: a config, a version
        raise ValueError(f"{what}: {one_line(error)}") from error


def _check_features_files(name: str, *, what: str) -> None:
    """Looks into what is prepared, before tfds imports the modules that it names.

    Raises:
      ValueError: it names a class that is not of tfds, or is no JSON.
    """
    core = "tensorflow_datasets.core"
    dirs = importlib.import_module(f"{core}.utils.file_utils").list_data_dirs()
    naming = importlib.import_module(f"{core}.naming")
    own = naming.parse_builder_name_kwargs(name)[0].name
    for folder in [Path(place) / own for place in dirs]:
        for depth in ("", "*/", "*/*/"):  # of a version, and of a configuration
            for path in sorted(folder.glob(f"{depth}features.json")):
                try:
                    foreign = _foreign_class(json.loads(read_text(path)))
                except (OSError, ValueError, RecursionError) as error:
                    raise ValueError(
                        f"{what}: {path} is damaged ({one_line(error)}): remove "
                        f"{path.parent}, and the set is prepared anew"
                    ) from None
                if foreign is not None:
                    raise ValueError(
                        f"{what}: {path} names the Python class {one_line(foreign)!r}, "
                        "which is none of TensorFlow Datasets' own and is not "
                        f"imported: remove {path.parent}, and the set is prepared anew"
                    )


def _foreign_class(value: Any) -> str | None:
    """The first class in the content of a `features.json` that is not of tfds."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        with suppress(ValueError):  # JSON within JSON
            value = json.loads(value)
    if isinstance(value, dict):
        keys = ["pythonClassName", "python_class_name"]
        keys += ["type"] if "content" in value else []  # as older versions wrote it
        for key in keys:
            name = value.get(key, OWN)
            if not isinstance(name, str) or not name.startswith(OWN):
                return str(name)
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        found = (_foreign_class(item) for item in items)
        return next((name for name in found if name is not None), None)
    return None


def prepare(builder: Any, *, what: str) -> None:
    """Sees to it that the set is on disk; what is written is array_record.

    Raises:
      ValueError: it is not there, and cannot be prepared here: TensorFlow is missing,
        the server of the archives does not answer, or tfds itself fails.
    """
    folder = builder.data_dir
    if builder.data_path.exists():
        if builder.is_prepared():
            return
        raise ValueError(
            f"{what}: {folder} is incomplete: remove it, and the set is prepared anew"
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"{what} is not prepared in {folder}, and preparing it needs tensorflow: "
            f"{INSTALL}; or copy that folder from where it is prepared as array_record"
        )
    downloads = Path(builder.data_dir_root) / "downloads"
    missing = missing_archives(builder, downloads)
    hosts = {urlsplit(url).netloc: url for url in missing}
    reasons = unreachable(hosts.values())
    if hosts and len(reasons) == len(hosts):
        url, reason = next(iter(reasons.items()))
        files = [f"{file} ({url})" for url, file in missing.items()]
        if len(files) > 3:
            files[3:] = [f"{len(files) - 3} more"]
        raise ValueError(
            f"{what} is not prepared in {folder}, and {urlsplit(url).netloc} cannot be "
            f"reached ({reason}): put {' and '.join(files)} into {downloads / 'manual'}"
        )
    with suppress(Exception):
        # TensorFlow would take the whole memory of a GPU, and JAX needs it.
        tensorflow = importlib.import_module("tensorflow")
        tensorflow.config.set_visible_devices([], "GPU")
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # each set has code of its own, which raises anything
        raise ValueError(
            f"{what} cannot be prepared in {folder}: {one_line(error)} (archives that "
            f"were fetched by hand belong into {downloads / 'manual'})"
        ) from error


def missing_archives(builder: Any, downloads: Path) -> dict[str, str]:
    """The addresses of what is to be downloaded, each with the name of its file."""
    resource = importlib.import_module("tensorflow_datasets.core.download.resource")
    missing = {}
    for url, info in (builder.url_infos or {}).items():
        file = info.filename or urlsplit(url).path.rsplit("/", 1)[-1]
        cached = resource.get_dl_fname(url, info.checksum)
        places = (
            downloads / "manual" / file,
            downloads / builder.name / cached,
            downloads / cached,
        )
        if url.startswith("http") and not any(place.exists() for place in places):
            missing[url] = file
    return missing


def unreachable(urls: Collection[str], *, timeout: float = 5.0) -> dict[str, str]:
    """Those of `urls` whose servers do not answer, with the reasons.

    One request each, all at once, through a proxy where one is set; `timeout` seconds
    in all. tfds itself tries for minutes.
    """
    reasons = dict.fromkeys(urls, f"no answer within {timeout:g} s")

    def probe(url: str) -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=timeout).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code >= 500 or error.code == 407:  # what a proxy may answer
                reasons[url] = f"HTTP status {error.code}"
                return
        except Exception as error:
            reason = getattr(error, "reason", error)
            reasons[url] = getattr(reason, "strerror", None) or one_line(reason)
            return
        del reasons[url]

    # Threads, because no timeout of urllib's covers the look-up of a host's name.
    threads = [threading.Thread(target=probe, args=(u,), daemon=True) for u in urls]
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return dict(reasons)


def one_line(error: object) -> str:
    """The text of an error without its line breaks, and no longer than three lines."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:240]} ..."

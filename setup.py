"""Builds the optional oneDNN extension; everything else is in pyproject.toml."""

import os
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import Extension, setup


def installed(package: str, file: str) -> Path:
    """Where `file` of an installed package lies.

    Raises:
      FileNotFoundError: the package or the file is not there.
    """
    try:
        for path in metadata.files(package) or ():
            if str(path).endswith(file):
                return Path(str(path.locate())).resolve()
    except metadata.PackageNotFoundError:
        pass
    raise FileNotFoundError(f"{file} of {package} is not installed")


def xla_headers() -> Path:
    """XLA's headers: the environment's own, else those of the isolated build."""
    folder = Path(sysconfig.get_path("platlib"), "jaxlib", "include")
    if (folder / "xla/ffi/api/ffi.h").exists():
        return folder
    return installed("jaxlib", "include/xla/ffi/api/ffi.h").parents[3]


def extensions() -> list[Extension]:
    """The extension where a compiler, the headers and the library are, else nothing."""
    try:
        if sys.platform != "linux":
            raise FileNotFoundError("it is for Linux")
        compiler = os.environ.get("CXX", "c++").split()[0]
        if not shutil.which(compiler):
            raise FileNotFoundError(f"there is no C++ compiler {compiler}")
        headers = installed("onednn-devel-cpu-gomp", "include/dnnl.hpp").parent
        library = installed("onednn-cpu-gomp", "libdnnl.so.3")
        xla = xla_headers()
    except FileNotFoundError as error:
        print(f"jaxvision: oneDNN convolutions are not built: {error}")
        return []
    return [
        Extension(
            "jaxvision._onednn",
            sources=["jaxvision/onednn.cc"],
            include_dirs=[str(headers)],
            # Not ours to mend: -isystem keeps the headers' warnings quiet.
            extra_compile_args=[
                "-std=c++17",
                "-O2",
                "-g0",
                "-pthread",
                "-isystem",
                str(xla),
            ],
            # By its name alone: the environment that it runs in may be another one.
            extra_link_args=["-pthread", str(library)],
            language="c++",
            optional=True,
        )
    ]


setup(ext_modules=extensions())

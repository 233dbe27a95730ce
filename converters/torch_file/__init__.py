"""torch's checkpoint files without torch: `read_torch` and `write_torch`."""

from converters.torch_file.errors import TorchFileError
from converters.torch_file.read import read_torch
from converters.torch_file.write import write_torch

__all__ = ["TorchFileError", "read_torch", "write_torch"]

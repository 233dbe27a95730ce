"""Weights between PyTorch and jaxvision, exactly; torch is imported here alone."""

from converters.from_torch import ConversionError, convert
from converters.to_torch import to_state_dict

__all__ = ["ConversionError", "convert", "to_state_dict"]

"""An ONNX classifier whose convolutions and products compute in 8 bits."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from experiments.inference.exporting import PIXELS
from jaxvision.data.image_files import file_photo

COMPUTED = ["Conv", "Gemm", "MatMul"]


class _Reader(CalibrationDataReader):
    """Gives the photos one by one."""

    def __init__(self, paths: Sequence[Path]):
        self._left = iter(paths)

    def get_next(self):
        path = next(self._left, None)
        if path is None:
            return None
        return {PIXELS: np.asarray(file_photo(path).open())[None]}


def quantize(file: Path, photos: Sequence[Path]) -> None:
    """Replaces a model by one of int8, its ranges found on photographs.

    Args:
      file: the model.
      photos: what the activations are seen on.
    """
    logging.getLogger().setLevel(logging.ERROR)  # it advises on the root logger
    with tempfile.TemporaryDirectory() as scratch:
        folded = Path(scratch) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        # BatchNorm goes into the convolutions, which are then what is rounded.
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        )
        options.optimized_model_filepath = str(folded)
        onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        quantize_static(
            str(folded),
            str(file),
            _Reader(photos),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=COMPUTED,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # onnxruntime 1.32 fails over it where scales are per channel.
            extra_options={"QDQDisableWeightAdjustForInt32Bias": True},
        )

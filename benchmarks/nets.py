"""The nets that are compared, with their batches and the ratios they are held to."""

from typing import NamedTuple


class Net(NamedTuple):
    """One net.

    Attributes:
      batch: images a training step.
      size: pixels a side.
      classes: width of the last layer.
      must: largest ratio to PyTorch's training step with oneDNN's convolutions.
      aim: the ratio to aim at.
      fallback: largest ratio with the rules in JAX.
    """

    batch: int
    size: int
    classes: int
    must: float
    aim: float
    fallback: float

    def limits(self, backend: str) -> dict[str, float]:
        """The fields `must` and `aim` of a row measured on a CPU."""
        if backend == "jax":
            return {"must": self.fallback}
        return {"must": self.must, "aim": self.aim}


NETS = {
    "fcn": Net(128, 32, 10, 1.0, 0.8, 1.0),
    "cnn": Net(128, 32, 10, 1.1, 0.7, 2.2),
    "resnet18": Net(16, 224, 1000, 1.1, 0.8, 2.2),
    "wide_resnet50_2": Net(4, 224, 1000, 1.1, 0.9, 2.0),
    "vgg16": Net(4, 224, 1000, 1.1, 0.9, 2.2),
    "densenet161": Net(4, 224, 1000, 1.1, 0.8, 2.2),
    "mobilenet_v2": Net(16, 224, 1000, 1.1, 0.7, 2.5),
    "resnext50_32x4d": Net(4, 224, 1000, 1.1, 0.8, 2.5),
    "googlenet": Net(8, 224, 1000, 1.1, 0.8, 2.2),
    "srcnn": Net(4, 256, 3, 1.1, 0.8, 2.0),
}
OTHERWISE = {"jax": {"must": 2.5}}
"""The same limits for other batches and sizes, by back end."""
GPU_BATCH = 128
"""Images a step on a GPU."""
INFERENCE = {"onednn": 1.1, "jax": 1.8}
"""Largest ratio of the forward pass alone, by back end."""
LOOP = 1.2
"""Largest ratio of a step inside a loop to a step that is a call of its own."""

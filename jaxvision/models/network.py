"""What the library asks of every network; each family's file has the answers."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx


class Network(nnx.Module):
    """A whole network, from images to logits or to images."""

    smallest: ClassVar[int]
    """Pixels a side of the smallest images that it takes."""
    revision = 1
    """Rises where the same arrays come to mean another function: a file of an older one
    is refused."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Children that are None where it is built without them. A converter then leaves
    their tensors out."""

    @property
    def torch_options(self) -> Mapping[str, Any]:
        """What `torchvision.models` has to be asked for to build the same."""
        return {}

    @abstractmethod
    def trunk(self) -> tuple[str, ...]:
        """The nodes whose maps can explain an answer, in the order of computation.

        The last is the one that Grad-CAM's paper takes: the last convolution, with what
        follows it at its size. `()` where the network has no such maps.
        """


class Enlarger(Network):
    """A network that makes photographs `scale` times larger."""

    scale: int
    takes_enlarged: ClassVar[bool]
    """Whether it is given them already enlarged, by bicubic interpolation."""

    def trunk(self) -> tuple[str, ...]:
        """Without classes there is no answer to explain."""
        return ()

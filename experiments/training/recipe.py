"""A run as one value: everything that decides how a network is trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Self

from experiments.command import limits
from experiments.command.limits import at_least, check_limits, limited, refuse
from jaxvision.augment import MIXES, PIPELINES
from jaxvision.optim import Optim

# The choices are those of the tables, which a checker of types cannot look into.
if TYPE_CHECKING:
    Pipeline = str
    Mix = str
else:
    Pipeline = Literal[tuple(PIPELINES)]
    Mix = Literal["none", *MIXES]


@dataclass(frozen=True)
class Recipe:
    """How any network is trained, one value an option.

    The programs' options are made of it: what is added here, each of them takes.
    """

    epochs: int = limited(10, at_least(1))
    """Passes over the training images."""
    batch_size: int = limited(32, at_least(1))
    """Images a step, over all devices."""
    accumulate: int = limited(1, at_least(1))
    """Parts of a batch that are computed one after the other, for less memory."""
    optim: Optim = field(default_factory=Optim)
    """The optimiser and its schedule."""
    ema: float = limited(0.0, limits.share)
    """Decay of the weights' moving average, which is evaluated and kept; 0: none."""
    patience: int = limited(0, at_least(0))
    """Epochs without a better one before the training ends early; 0: it never does."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type; auto is bfloat16 on TPUs and on GPUs that multiply it, else
    float32, also on a CPU, where bfloat16 is faster if it has AVX512-BF16 or AMX.
    float16, which is for older GPUs, comes with a dynamic loss scale."""
    shard: Literal["none", "params"] = "none"
    """params: the weights and the optimiser's state are spread over all devices, and
    gathered where a layer uses them, for models that outgrow a device; with the same
    numbers but for rounding."""
    seed: int = limited(0, limits.seed)
    """Seed of the new weights, the order and the augmentation."""
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where the numbers of each epoch go beside metrics.csv: tensorboard writes
    RUN/tensorboard; wandb writes RUN/wandb offline, unless WANDB_MODE=online sends
    it."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        check_limits(self)
        if self.batch_size % self.accumulate:
            refuse("accumulate", self.accumulate)

    @classmethod
    def of(cls, options: "Recipe", *, chosen: Mapping[str, Any] | None = None) -> Self:
        """The recipe among the options of a program.

        Args:
          options: of a class that has all fields of this one.
          chosen: option -> its value in this run, where `options` has several.
        """
        chosen = chosen or {}
        return cls(
            **{
                one.name: chosen.get(one.name, getattr(options, one.name))
                for one in fields(cls)
            }
        )


@dataclass(frozen=True)
class ClassifierRecipe(Recipe):
    """How a classifier is trained."""

    augment: Pipeline = "full"
    """How the training images are changed at random: none, or flips (random crop and
    horizontal flip); full: and rotation by up to 15 degrees, brightness, contrast and
    saturation by up to 20 %; resized_crop: a random part of 35 to 100 % of the image,
    horizontal flip, those colours; crop_flip: moved by up to an eighth, flipped;
    cutout: and a square grayed out; alternate: moved by up to a sixteenth, and flipped
    in every other epoch."""
    mix: Mix = "none"
    """mixup: each image blended with another; cutmix: with a box of another in it; and
    their targets likewise."""
    mix_alpha: float = limited(1.0, limits.positive)
    """How far mix goes: near 0 most images stay as they are, at 1 all shares are as
    likely."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: each class weighs the same in the loss, however few its images. Of
    several labels a photo, each weighs as much where it holds as where it does not."""
    sampler: Literal["none", "balanced"] = "none"
    """none: an epoch shows each image once. balanced: it draws as many, and all classes
    as often, however few their images; in place of --class-weights."""
    label_smoothing: float = limited(0.0, limits.share)
    """Share of each target that is spread over all classes; of several labels a photo,
    over yes and no."""
    freeze: str = "none"
    """none; backbone: all but the last layer; or prefixes with commas between, such as
    layer1,layer2. Frozen BatchNorm keeps its statistics."""
    tta: Literal["none", "mirror", "six"] = "none"
    """mirror: an answer is the mean over the image and its mirror image, here and in
    experiments.predict; six: and over both moved by a pixel, up left and down right."""

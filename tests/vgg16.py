"""VGG16's first layers with random weights, in numpy and in torch."""

import numpy as np

from converters.torchvision_import import import_torchvision


def random_state(last: int, *, dtype: str) -> dict[str, np.ndarray]:
    """Tensors of the convolutions up to `features.<last>`, in torch's layout."""
    pattern = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M"]
    pattern += [512, 512, 512, "M", 512, 512, 512]
    rng = np.random.default_rng(0)
    state, index, cin = {}, 0, 3
    for width in pattern:
        if width == "M":
            index += 1
            continue
        if index <= last:
            kernel = rng.standard_normal((width, cin, 3, 3), np.float32)
            kernel /= np.sqrt(4.5 * cin).astype(np.float32)
            bias = 0.1 * rng.standard_normal(width, np.float32)
            state[f"features.{index}.weight"] = kernel.astype(dtype)
            state[f"features.{index}.bias"] = bias.astype(dtype)
        index, cin = index + 2, width
    return state


def torch_layers(state: dict[str, np.ndarray], last: int):
    """torchvision's own modules up to `features.<last>`, with these weights."""
    import_torchvision()
    import torch
    from torchvision.models import vgg

    layers = vgg.make_layers(vgg.cfgs["D"])[: last + 1]
    tensors = {name: torch.tensor(x) for name, x in state.items()}
    layers.to(next(iter(tensors.values())).dtype)
    layers.load_state_dict(
        {name.removeprefix("features."): x for name, x in tensors.items()}
    )
    for parameter in layers.parameters():
        parameter.requires_grad = False
    return layers


def torch_features(layers, x) -> list:
    """The output of every layer, `n c h w`; none is changed in place by the next."""
    import torch

    outputs = []
    for layer in layers:
        x = torch.relu(x) if isinstance(layer, torch.nn.ReLU) else layer(x)
        outputs.append(x)
    return outputs

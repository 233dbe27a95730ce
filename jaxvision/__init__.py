"""Computer vision in JAX: torchvision's backbones, pure steps, augmentation."""

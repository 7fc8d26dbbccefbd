"""Parameter lists for the GPU: single tensors of 1M to 1B elements, and three networks."""

from __future__ import annotations

from .parameter_lists import Shape, resnet34_shapes

SINGLE_TENSORS = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)


def vit_large_shapes() -> list[Shape]:
    """ViT-L/16 at 224 x 224 (Dosovitskiy et al. 2021): width 1024, 24 blocks, hidden width 4096, 1000 classes."""
    width, hidden = 1024, 4096
    block: list[Shape] = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (hidden, width), (hidden,), (width, hidden), (width,)]
    stem: list[Shape] = [(1, 1, width), (1, 197, width), (width, 3, 16, 16), (width,)]
    return stem + 24 * block + [(width,), (width,), (1000, width), (1000,)]


def transformer_layer_shapes() -> list[Shape]:
    """One layer of a transformer of 7 billion parameters: width 4096, gated hidden width 11008, no biases."""
    width, hidden = 4096, 11008
    return 4 * [(width, width)] + [(hidden, width), (hidden, width), (width, hidden), (width,), (width,)]


def gpu_lists() -> dict[str, list[Shape]]:
    lists: dict[str, list[Shape]] = {f"one tensor, {n // 1_000_000}M": [(n,)] for n in SINGLE_TENSORS}
    lists["ResNet-34"] = resnet34_shapes()
    lists["ViT-L/16"] = vit_large_shapes()
    lists["transformer layer (7B)"] = transformer_layer_shapes()
    return lists

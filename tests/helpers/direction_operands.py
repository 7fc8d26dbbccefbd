"""Operands of the operator of direction noise."""

import torch
from law_parameters import PARAMETERS

from nvrm_fast.contract.layers import DirectionSettings
from nvrm_fast.reference.angles import ANGLES


def operands(
    direction, magnitude, shape, *, groups=1, given=False, bias=True, fan_in=30, dtype=torch.float32, offset=0
):
    outer, neurons, inner = shape
    generator = torch.Generator().manual_seed(neurons)
    random = lambda *size: torch.rand(*size, generator=generator)  # noqa: E731
    settings = DirectionSettings(2**32 - 5, 3, offset, direction, magnitude, fan_in, 0.5, -1.4, 1.5, given)
    first, second = (None if p is None else p * (0.5 + random(neurons)) for p in PARAMETERS[direction])
    constants = torch.empty(0, neurons)
    if direction:
        constants = ANGLES[direction].constants(first, second, fan_in, settings.low, settings.high)
    s = (random(*shape) - 0.5).to(dtype)
    square = random(*shape) if given else 0.1 + random(outer, groups, inner)
    inputs = [
        s, square if direction else torch.empty(0), 0.5 + random(neurons), random(neurons),
        random(neurons) if magnitude else None, random(neurons) if bias else None, first, second, constants,
        torch.tensor([-(2**62) - 12345]),
    ]  # fmt: skip
    return inputs, settings

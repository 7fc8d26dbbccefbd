"""The executable specification: plain torch, written to be read, and the kernel of every device that has no other.

Imports nothing but torch. What a function here returns is what every fast kernel must return, bit for bit.
"""

from .distribution import DISTRIBUTIONS
from .noise import add_noise, fill_noise_, noise
from .philox import philox4x32
from .step import adam_step_, change_coat_, sgd_step_

__all__ = [
    "DISTRIBUTIONS",
    "adam_step_",
    "add_noise",
    "change_coat_",
    "fill_noise_",
    "noise",
    "philox4x32",
    "sgd_step_",
]

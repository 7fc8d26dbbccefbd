"""The executable specification: plain torch, written to be read, and the kernel of every device that has no other.

Imports nothing but torch and the contract. What a function here returns is what every fast kernel must return, bit for
bit.
"""

from .noise import add_noise, fill_noise_, noise
from .philox import philox4x32
from .step import measure_, reperturb_, step_

__all__ = ["add_noise", "fill_noise_", "measure_", "noise", "philox4x32", "reperturb_", "step_"]

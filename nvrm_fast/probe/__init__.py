"""Noise as an instrument: injection nodes, what they measure, and the phases that they reveal.

Source: N. Levi, I. M. Bloch, M. Freytsis and T. Volansky, "Noise injection as a probe of deep learning dynamics", 2022.

    from nvrm_fast.probe import probe

    diagram = probe(model, "fc1", sigma=1.0, train=(x, y), test=(x_test, y_test), lr=0.05, epochs=5)
    print(diagram.describe(1.0))
"""

from . import linear
from .around import probe
from .decay import DecayFit, fit_decay
from .example_noise import example_noise
from .injection import NoiseInjection
from .local import UpdateSides, local_gradient, local_hessian_product, local_hessian_trace, update_sides
from .phase_diagram import PhaseDiagram
from .phases import PHASES, Criteria, classify
from .recorder import Recorder
from .scan import Plan, scan
from .stacked import CheckpointMismatch

__all__ = [
    "PHASES",
    "CheckpointMismatch",
    "Criteria",
    "DecayFit",
    "NoiseInjection",
    "PhaseDiagram",
    "Plan",
    "Recorder",
    "UpdateSides",
    "classify",
    "example_noise",
    "fit_decay",
    "linear",
    "local_gradient",
    "local_hessian_product",
    "local_hessian_trace",
    "probe",
    "scan",
    "update_sides",
]

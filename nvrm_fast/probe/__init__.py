"""Noise injection as a probe: nodes with their phases; neural variability with its bounds.

Sources: N. Levi, I. M. Bloch, M. Freytsis and T. Volansky, "Noise injection as a probe of deep learning dynamics", 2022
(injection nodes); Z. Xie et al., "Artificial Neural Variability for Deep Learning", 2021 (perturbed weights).

    from nvrm_fast.probe import probe

    diagram = probe(model, "fc1", sigma=1.0, train=(x, y), test=(x_test, y_test), lr=0.05, epochs=5)
    print(diagram.describe(1.0))

    from nvrm_fast.probe import neural_variability

    print(neural_variability(model.eval(), loss, (x, y), 0.01))
"""

from . import linear
from .api import probe
from .bounds import (
    InformationBound,
    PacBayesBound,
    information_bound,
    kl_to_prior,
    mutual_information_bound,
    pac_bayes_bound,
    squared_distance,
    weight_count,
)
from .decay import DecayFit, fit_decay
from .example_noise import example_noise
from .injection import NoiseInjection
from .layer_derivatives import UpdateSides, local_gradient, local_hessian_product, local_hessian_trace, update_sides
from .phase_diagram import PhaseDiagram
from .phases import PHASES, Criteria, classify
from .recorder import Recorder
from .scan import Plan, scan
from .stacked_models import CheckpointMismatch
from .suggest import Suggestion, suggest_variability
from .variability import (
    NeuralVariability,
    NoiseCurve,
    accuracy,
    accuracy_against_noise,
    neural_variabilities,
    neural_variability,
    zero_one_loss,
)

__all__ = [
    "PHASES",
    "CheckpointMismatch",
    "Criteria",
    "DecayFit",
    "InformationBound",
    "NeuralVariability",
    "NoiseCurve",
    "NoiseInjection",
    "PacBayesBound",
    "PhaseDiagram",
    "Plan",
    "Recorder",
    "Suggestion",
    "UpdateSides",
    "accuracy",
    "accuracy_against_noise",
    "classify",
    "example_noise",
    "fit_decay",
    "information_bound",
    "kl_to_prior",
    "linear",
    "local_gradient",
    "local_hessian_product",
    "local_hessian_trace",
    "mutual_information_bound",
    "neural_variabilities",
    "neural_variability",
    "pac_bayes_bound",
    "probe",
    "scan",
    "squared_distance",
    "suggest_variability",
    "update_sides",
    "weight_count",
    "zero_one_loss",
]

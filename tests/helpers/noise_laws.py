"""The distributions as SciPy has them, and a test of moments; for the statistical tests of the noise."""

import math

import numpy as np
import scipy.stats

# Law, standard deviation at scale 1, kurtosis (fourth moment over squared variance).
LAWS = {
    "gaussian": (scipy.stats.norm(), 1.0, 3.0),
    "uniform": (scipy.stats.uniform(-1, 2), 1 / math.sqrt(3), 9 / 5),
    "laplace": (scipy.stats.laplace(), math.sqrt(2), 6.0),
    "rademacher": (scipy.stats.rv_discrete(values=([-1, 1], [0.5, 0.5])), 1.0, 1.0),
}
#: Those whose square is not a constant, and those that have a density.
VARYING = [name for name, (_, _, kurtosis) in LAWS.items() if kurtosis > 1]


def check_moments(distribution: str, x: np.ndarray) -> None:
    """The first four moments of x, of unit standard deviation, within 5 standard errors."""
    n, kurtosis = len(x), LAWS[distribution][2]
    sixth = {"gaussian": 15.0, "uniform": 27 / 7, "laplace": 90.0, "rademacher": 1.0}[distribution]
    eighth = {"gaussian": 105.0, "uniform": 9.0, "laplace": 2520.0, "rademacher": 1.0}[distribution]
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs((x**2).mean() - 1) <= 5 * math.sqrt((kurtosis - 1) / n)
    assert abs((x**3).mean()) < 5 * math.sqrt(sixth / n)
    assert abs((x**4).mean() - kurtosis) <= 5 * math.sqrt((eighth - kurtosis**2) / n)

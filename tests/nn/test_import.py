"""A plain installation brings torch and nothing else: the layers work without numpy."""

import subprocess
import sys
from pathlib import Path

import torch

import nvrm_fast
from nvrm_fast.nn.variational import gauss_legendre

CODE = """
import sys
sys.modules["numpy"] = None  # any import of it fails
import torch
from nvrm_fast import nn as noisy

model = noisy.to_noisy(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)), "variational")
model(torch.ones(5, 3)).sum().backward()
with noisy.noise_mode(model, "mean"):
    assert model(torch.ones(5, 3)).isfinite().all()
"""


def test_layers_need_no_numpy():
    root = str(Path(nvrm_fast.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{CODE}"], text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_quadrature_is_exact_for_polynomials():
    """Up to degree 2 n - 1, within 100 roundings; and not beyond."""
    for count in (1, 2, 5, 64):
        nodes, weights = gauss_legendre(count)
        for power in range(2 * count):
            exact = 2 / (power + 1) if power % 2 == 0 else 0.0
            assert abs(float((weights * nodes**power).sum()) - exact) < 100 * torch.finfo(torch.float64).eps
    nodes, weights = gauss_legendre(5)
    assert abs(float((weights * nodes**10).sum()) - 2 / 11) > 1e-4

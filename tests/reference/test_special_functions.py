"""ln, sin, cos, sqrt and fma of the contract against the truth: every input where inputs can be counted."""

import ctypes
import ctypes.util
import decimal

import numpy as np
import pytest
import torch

from nvrm_fast.reference import special_functions


def ulps(value: torch.Tensor, truth: np.ndarray) -> float:
    """Largest error of float32 values in units in the last place of the truth."""
    last_place = np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(value.double().numpy() - truth) / last_place))


# The noise's own: errors in distances to the next input's value, of which the contract allows a tenth. These bounds are
# what the coefficients reach, so that a wrong digit shows.
@pytest.mark.parametrize("bits, factor", [(18, 2), (15, 1)])
def test_logarithm_of_the_noise(bits, factor):
    n = torch.arange(1, 2 ** (bits + 1), 2)
    u = n.double().numpy() / 2 ** (bits + 1)
    value = special_functions.negative_ln_of_bits(n, bits, factor).double().numpy()
    spacing = factor * 2.0**-bits / u
    assert np.max(np.abs(value + factor * np.log(u)) / spacing) < {18: 0.040, 15: 0.030}[bits]
    assert value.min() > 0 and (np.diff(value) < 0).all()


def test_angle_of_the_noise():
    s = (2 * torch.arange(2**14) - 16383).float() / 2**14
    cosine, sine = (x.double().numpy() for x in special_functions.cosine_sine_of_half_turns(s))
    angle = np.pi * s.double().numpy()
    assert np.hypot(cosine - np.cos(angle), sine - np.sin(angle)).max() < 0.041 * 2 * np.pi / 2**14


def test_moments_of_all_words():
    """Mean, variance and kurtosis over every word, exactly: not a sample. What differs from the law's own (the Gaussian
    ends at 5.13 and the exponential at 11.1, where 18 and 15 bits end) is the same with the true ln, sin and cos."""
    radius = (
        special_functions.square_root(special_functions.negative_ln_of_bits(torch.arange(1, 2**19, 2), 18, 2))
        .double()
        .numpy()
    )
    s = (2 * torch.arange(2**14) - 16383).float() / 2**14
    for coordinate in special_functions.cosine_sine_of_half_turns(s):
        direction = coordinate.double().numpy()
        mean, variance, fourth = (np.mean(radius**k) * np.mean(direction**k) for k in (1, 2, 4))
        assert abs(mean) < 1e-8
        assert abs(variance - 0.9999987) < 1e-7
        assert abs(fourth / variance**2 - 2.999950) < 2e-6
    magnitude = special_functions.negative_ln_of_bits(torch.arange(1, 2**16, 2), 15, 1).double().numpy()
    variance = np.mean(magnitude**2)
    assert abs(variance - 1.9997339) < 1e-6
    assert abs(np.mean(magnitude**4) / variance**2 - 5.980233) < 2e-6


# What needs float32's precision (special_functions.py).
@pytest.mark.parametrize("shift, factor", [(19, 2), (16, 1)])
def test_negative_ln_of_every_input(shift, factor):
    n = torch.arange(1, 2**shift, 2)
    truth = -factor * np.log(n.numpy().astype(np.longdouble) / 2**shift)
    assert ulps(special_functions.negative_ln(n, shift, factor), truth.astype(np.float64)) < 1.8


def test_sine_and_cosine_of_every_input():
    s = (2 * torch.arange(4096) - 4095).float() / 4096
    sine, cosine = special_functions.sine_cosine_of_eighth_turns(s)
    angle = np.pi / 4 * s.double().numpy()
    assert ulps(sine, np.sin(angle)) < 1.5
    assert ulps(cosine, np.cos(angle)) < 1.5


def test_fused_multiply_add_is_libms():
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    libm.fmaf.restype = ctypes.c_float
    libm.fmaf.argtypes = [ctypes.c_float] * 3
    random = np.random.default_rng(0)
    n = 20_000
    a, b = (random.standard_normal(n).astype(np.float32) * np.exp2(random.integers(-30, 30, n)) for _ in range(2))
    a, b = a.astype(np.float32), b.astype(np.float32)
    # Addends near the product, of either sign, and near the points half way between two float32 numbers.
    c = (-(a.astype(np.float64) * b) * np.exp2(random.integers(-30, 30, n))).astype(np.float32)
    c[::3] = (a * b)[::3] * np.float32(2**24)
    result = special_functions.fused_multiply_add(*(torch.from_numpy(x) for x in (a, b, c))).numpy()
    expected = np.array([libm.fmaf(*map(float, abc)) for abc in zip(a, b, c)], dtype=np.float32)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_root_is_correctly_rounded(dtype):
    random = np.random.default_rng(1)
    numpy_dtype = np.float32 if dtype == torch.float32 else np.float64
    x = np.exp2(random.uniform(-100, 100, 200_000)).astype(numpy_dtype)
    x[:6] = [0.0, 1.0, 4.0, np.inf, np.finfo(numpy_dtype).tiny, np.finfo(numpy_dtype).smallest_subnormal]
    np.testing.assert_array_equal(special_functions.square_root(torch.from_numpy(x)).numpy(), np.sqrt(x))
    assert special_functions.square_root(torch.tensor(-1.0, dtype=dtype)).isnan()


@pytest.mark.parametrize("base", [0.5, 0.9, 0.95, 0.999, 0.999999])
def test_powers_are_within_their_bound(base):
    """exponent * 2^-53 relative to the power, to first order; a power below 1e-300 only has to be tiny."""
    with decimal.localcontext(prec=60, Emin=-(10**9)):
        for exponent in (0, 1, 2, 3, 6, 10, 999, 1000, 12_345, 10**6 + 1, 10**7):
            truth = decimal.Decimal(base) ** exponent
            found = special_functions.power(base, exponent)
            if truth < decimal.Decimal("1e-300"):
                assert 0 <= found < 1e-299
            else:
                assert abs(decimal.Decimal(found) / truth - 1) <= decimal.Decimal(exponent) / 2**53

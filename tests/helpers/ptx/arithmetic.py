"""What PTX's arithmetic instructions compute, on arrays, rounded once as PTX says."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

Operation = tuple[Callable[..., np.ndarray], tuple[str, ...]]
_COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "neu": np.not_equal,  # NumPy's != holds for NaN, as PTX's unordered one
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    # Unordered: true where either is NaN.
    "ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b), "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
}  # fmt: skip
_TYPES = {"u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "s16": np.int16, "s32": np.int32, "s64": np.int64,
          "f16": np.float16, "f32": np.float32, "f64": np.float64, "u8": np.uint8, "s8": np.int8}  # fmt: skip
#: Units in the last place that rsqrt.approx (PTX: a relative error of 2^-22.9) and rcp.approx (one unit) may be off.
#: What is made of them must not depend on it: tests set them.
rsqrt_error = rcp_error = 0


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c rounded once: the product is exact in float64; the sum is rounded to odd there, then to float32."""
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    rest = total - product
    error = (product - (total - rest)) + (addend - rest)
    bits = total.view(np.int64).copy()
    inexact = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
    toward_zero = (error < 0) == (total > 0)
    bits[inexact] += np.where(toward_zero, -1, 1)[inexact]
    return bits.view(np.float64).astype(np.float32)


def _rsqrt(x: np.ndarray) -> np.ndarray:
    return _moved(1 / np.sqrt(_flushed(x).astype(np.float64)), rsqrt_error)


def _rcp(x: np.ndarray) -> np.ndarray:
    return _flushed(_moved(1 / _flushed(x).astype(np.float64), rcp_error))


def _flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float32(2**-126), np.copysign(np.float32(0), x), x)


def _moved(exact: np.ndarray, units: int) -> np.ndarray:
    rounded = exact.astype(np.float32)
    moved = (rounded.view(np.int32) + np.int32(units)).view(np.float32)
    return np.where(np.isfinite(rounded) & (rounded != 0), moved, rounded)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whole numbers towards zero; divided by 0 PTX leaves it open, here all bits are set."""
    if a.dtype.kind == "u":
        return np.where(b == 0, ~np.zeros_like(a), a // np.where(b == 0, 1, b).astype(a.dtype))
    safe = np.where(b == 0, 1, b).astype(a.dtype)
    quotient = a // safe
    return quotient + ((quotient * safe != a) & ((a < 0) != (safe < 0)))


def _remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a - _divide(a, b) * b


def _left(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    width = 8 * a.dtype.itemsize
    return np.where(by >= width, a.dtype.type(0), a << np.minimum(by, width - 1).astype(a.dtype))


def _right(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    width = 8 * a.dtype.itemsize
    shifted = a >> np.minimum(by, width - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(by >= width, a.dtype.type(0), shifted)


def _wide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
    return a.astype(wide) * b.astype(wide)


def _insert(a: np.ndarray, b: np.ndarray, position: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The low bits of a in the place of some of b's."""
    ones = ~np.zeros_like(b)
    mask = _left(~_left(ones, length), position)
    return (b & ~mask) | (_left(a, position) & mask)


def _negative(a: np.ndarray) -> np.ndarray:
    return np.negative(a)


_WHOLE = {"add": np.add, "sub": np.subtract, "mul.lo": np.multiply, "div": _divide, "rem": _remainder, "neg": _negative,
          "shl": _left, "shr": _right, "mul.wide": _wide, "min": np.minimum, "max": np.maximum, "mad.lo":
          lambda a, b, c: a * b + c, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
          "not": np.bitwise_not}  # fmt: skip
_ROUNDED = {"add.rn": np.add, "sub.rn": np.subtract, "mul.rn": np.multiply, "div.rn": np.divide, "sqrt.rn": np.sqrt,
            "neg": _negative, "abs": np.abs, "rcp.rn": lambda a: np.divide(a.dtype.type(1), a),
            # As PTX's: of a number and NaN the number.
            "min": np.fmin, "max": np.fmax}  # fmt: skip
_ARITY = {np.sqrt: 1, _negative: 1, np.abs: 1, np.bitwise_not: 1, _ROUNDED["rcp.rn"]: 1, _WHOLE["mad.lo"]: 3}


@functools.cache
def operation(parts: tuple[str, ...]) -> Operation | None:
    """What an opcode computes, and the types of its sources; None for one that is not known here."""
    *words, kind = parts
    name = ".".join(words)
    if kind == "pred" and name in ("and", "or", "xor", "mov", "not"):
        if name == "mov":
            return (lambda a: a), ("pred",)
        return {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not}[name], (
            ("pred",) if name == "not" else ("pred", "pred")
        )
    if words[0] in ("mov", "cvta"):
        return (lambda a: a), (kind,)
    if words[0] == "selp":
        return (lambda a, b, p: np.where(p, a, b)), (kind, kind, "pred")
    if words[0] == "setp" and len(words) == 2:
        return _COMPARE[words[1]], (kind, kind)
    if words == ["bfi"]:
        return _insert, (kind, kind, "u32", "u32")
    if words[0] == "cvt":
        return _conversion(words[1:], kind)
    if parts == ("fma", "rn", "f32"):
        return fma32, ("f32", "f32", "f32")
    if parts == ("rsqrt", "approx", "ftz", "f32"):
        return _rsqrt, ("f32",)
    if parts == ("rcp", "approx", "ftz", "f32"):
        return _rcp, ("f32",)
    function = (_ROUNDED if kind.startswith("f") else _WHOLE).get(name)
    if function is None:
        return None
    if name in ("shl", "shr"):
        return function, (kind, "u32")
    return function, (kind,) * _ARITY.get(function, 2)


def _conversion(words: list[str], source: str) -> Operation | None:
    target = words[-1]
    from_whole, to_whole = not source.startswith("f"), not target.startswith("f")
    rounds = not to_whole and (from_whole or int(target[1:]) < int(source[1:]))
    if to_whole and not from_whole or (words[:-1] == ["rn"]) != rounds:
        return None
    return (lambda a: a.astype(_TYPES[target])), (source,)

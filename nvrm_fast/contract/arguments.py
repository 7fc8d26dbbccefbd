"""The arguments of the operators that change or measure weights: once, for schemas, reference, Triton and optimizers.

A field's type is its type in the schema, with an alias letter where the tensors are overwritten. csrc/python takes the
same arguments in the same order.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from torch import Tensor

#: Types of the fields whose tensors are overwritten, with the alias letters of the schema.
_P = Annotated[list[Tensor], "a!"]
_S = Annotated[list[Tensor], "b!"]
_M = Annotated[list[Tensor], "m!"]
_T = Annotated[list[Tensor], "s!"]
_R = Annotated[list[Tensor], "r!"]
_W = Annotated[list[Tensor], "w!"]
_Q = Annotated[list[Tensor], "q!"]


class StepArguments(NamedTuple):
    """`step_`: takes the noise off, applies an update rule to the clean weights, puts new noise on."""

    #: Code of the update rule (contract/rules.py).
    rule: int
    #: float32, float64, bfloat16 or float16 tensors of one dtype and device, of any strides; overwritten.
    params: _P
    #: Gradients of the same shapes and dtype.
    grads: list[Tensor]
    #: All parameters' first state, then all second states, ...: of the parameters' dtype, or the masters' where there
    #: are any; overwritten.
    states: _S
    #: Clean weights in float32 (float64 for float64 parameters), overwritten; or empty: the noise is kept in place.
    masters: _M
    #: int64 counters with one element, on the parameters' device: steps done before this one; increased by 1. All are
    #: read before one is written.
    steps: _T
    #: The records (contract/record.py), on the parameters' device. They say what noise is taken off and from which
    #: stream the new one is drawn, and are overwritten with what was put on.
    records: _R
    #: The rule's hyper-parameters, in the order of its specification; flags as 0.0 and 1.0.
    hyper: list[float]
    #: Global row-major index of each parameter's first element (a shard's place in its tensor).
    offsets: list[int]
    #: b of the noise to put on (0: leave the weights clean); with `measure` the factor of the measures.
    scale: float
    #: Key of the draw: 64 bits in two's complement.
    seed: int
    #: Code of the distribution to draw from (contract/distributions.py).
    distribution: int
    #: The noise stays in the weights for good (perturbed SGD): nothing is taken off.
    keep_noise: bool
    #: Empty, or a float32 tensor with one element for each parameter, read instead of `scale`.
    scale_tensors: list[Tensor]
    #: Empty, or each parameter's measures (contract/measures.py): float32 of shape (2, rows), on its device,
    #: contiguous. Noise of which a record says so comes off by their line ON. With `measure` they are overwritten.
    measures: _W = []
    #: With `measure`, for shards: int64 tensors of shape (rows, 4), contiguous, overwritten with the sums of the
    #: elements that are here. CLEAN then stays: it is worked out when all processes' sums are joined. Empty: all
    #: elements are here.
    sums: _Q = []
    #: With measures: elements of each (full, unsharded) parameter's rows; 0: it has one measure.
    row_lengths: list[int] = []
    #: Code of a measure: new noise is scaled by the line CLEAN, which moves to the line ON, and the clean weights that
    #: the step makes are measured into CLEAN. 0: b is absolute, and the measures stay.
    measure: int = 0
    #: k > 0: the weights are left clean after every k-th step of a parameter.
    denoise_every: int = 0
    #: New noise comes in cycles (contract/cycles.py); refused with keep_noise.
    cycle: bool = False
    #: None, or a float64 tensor on the parameters' device that is read instead of `hyper`.
    hyper_tensor: Tensor | None = None
    #: None, or a float32 tensor with one element: the gradients are divided by it (torch.amp.GradScaler); they are only
    #: read, so they keep the scale.
    grad_scale: Tensor | None = None
    #: None, or such a tensor: if it is not 0 nothing is written at all, counters and records included.
    found_inf: Tensor | None = None
    #: With run_strides: where a shard lies in its full tensor not in one piece but in runs of so many elements, the
    #: next beginning so many elements after the one before (columns of a matrix); its tensors must be contiguous. A
    #: length of 0: in one piece. Empty lists: all in one piece.
    run_lengths: list[int] = []
    run_strides: list[int] = []


class ReperturbArguments(NamedTuple):
    """`reperturb_`: takes off the noise that the records tell of and puts on what the targets say; no step is done.

    Fields of the same name are those of StepArguments.
    """

    params: _P
    masters: list[Tensor]
    records: _R
    #: Records of the noise to put on. Their words SCALE to TURN go into `records`.
    targets: list[Tensor]
    offsets: list[int]
    #: Both noises are scaled by the line ON where their records say that they are relative. Only read.
    measures: list[Tensor] = []
    row_lengths: list[int] = []
    run_lengths: list[int] = []
    run_strides: list[int] = []


class MeasureArguments(NamedTuple):
    """`measure_`: measures the clean weights that are there, into the line CLEAN (or the sums); weights stay.

    Fields of the same name are those of StepArguments.
    """

    params: list[Tensor]
    masters: list[Tensor]
    records: list[Tensor]
    offsets: list[int]
    measures: _W
    sums: _Q
    row_lengths: list[int]
    #: Not 0.
    measure: int
    #: Parameters whose records say that they carry noise are left out: their measures (or sums) stay.
    only_clean: bool = False
    run_lengths: list[int] = []
    run_strides: list[int] = []


Arguments = StepArguments | ReperturbArguments | MeasureArguments

_NAMES = {int: "int", float: "float", bool: "bool", Tensor: "Tensor"}


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        _, alias = get_args(hint)
        return f"Tensor({alias})[]"
    if get_origin(hint) is list:
        return f"{_NAMES[get_args(hint)[0]]}[]"
    if Tensor in get_args(hint):
        return "Tensor?"
    return _NAMES[hint]


def schema_fields(record: type[NamedTuple]) -> str:
    """The fields of a record as arguments of an operator schema."""
    fields = []
    for name, hint in get_type_hints(record, include_extras=True).items():
        kind = _type_name(hint)
        # torch's schemas know no default for lists of tensors.
        has_default = name in record._field_defaults and not (kind.startswith("Tensor") and kind.endswith("]"))
        fields.append(f"{kind} {name}" + (f"={record._field_defaults[name]}" if has_default else ""))
    return ", ".join(fields)


def schema(arguments: type[NamedTuple]) -> str:
    """The operator schema, without a name, of one of the argument records above."""
    return f"({schema_fields(arguments)}) -> ()"

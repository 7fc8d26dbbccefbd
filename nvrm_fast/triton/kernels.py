"""The kernels: one launch for a whole list of parameters, each program a stretch of one of them.

A tile has shape (blocks, 8): row r is Philox block r of the tile, column l its lane l, so element
128 (r // 16) + 16 l + r % 16. Sixteen neighbouring rows are sixteen neighbouring elements: a warp's loads are coalesced
and a thread's eight values come from its own block. Where a tensor (or a shard, at any offset) begins or ends within a
tile, the rest is masked.
"""

import triton
import triton.language as tl

from .distribution import draw
from .elementary import divide, power
from .layout import (
    BIAS,
    COAT_SCALE,
    COAT_SEED,
    COLUMN_COUNT,
    COUNT,
    FOUND_INF,
    GRAD_SCALE,
    GRADIENT,
    HEADER,
    HYPER,
    IS_FIRST,
    MASTER,
    NUMEL,
    OFFSET,
    PARAMETER,
    PROGRAM_SUPERBLOCKS,
    ROOT_SCALE,
    SCALE,
    SEED,
    STATE_0,
    STATE_1,
    STATE_2,
    STEP,
    STEP_POINTER,
    STEP_SIZE,
    STREAM,
    SUPERBLOCK_ELEMENTS,
    TILE_BLOCKS,
    TILE_ELEMENTS,
    TILE_SUPERBLOCKS,
)
from .rule import adam, sgd

NO_RULE, SGD, ADAM = (tl.constexpr(i) for i in range(3))


@triton.jit
def cell(table, COLUMN: tl.constexpr, tensor):
    """Address of one tensor's word in a column."""
    return table + HEADER + COLUMN * tl.load(table + COUNT) + tensor


@triton.jit
def base(table, COLUMN: tl.constexpr, tensor, DTYPE: tl.constexpr):
    return tl.load(cell(table, COLUMN, tensor)).to(tl.pointer_type(DTYPE))


@triton.jit
def real(pointer, DTYPE: tl.constexpr):
    """The float64 number that a word of the table holds, rounded to DTYPE."""
    return tl.load(pointer).to(tl.float64, bitcast=True).to(DTYPE)


@triton.jit
def program(table):
    """This program's tensor, its first superblock and the one after its last."""
    programs = table + HEADER + COLUMN_COUNT * tl.load(table + COUNT)
    tensor = tl.load(programs + tl.program_id(0))
    first = tl.load(programs + tl.num_programs(0) + tl.program_id(0))
    end = tl.load(cell(table, OFFSET, tensor)) + tl.load(cell(table, NUMEL, tensor))
    last = (end + SUPERBLOCK_ELEMENTS - 1) // SUPERBLOCK_ELEMENTS
    return tensor, first, tl.minimum(last, first + PROGRAM_SUPERBLOCKS)


@triton.jit
def tile(superblock, first_element, numel):
    """Philox blocks of a tile, its elements' places from `start`, which of them exist, and `start`.

    start is the tensor's element where the tile begins; it is negative where the tile begins before the tensor does.
    """
    row = tl.arange(0, TILE_BLOCKS)
    block = superblock * 16 + row.to(tl.int64)
    place = (row // 16 * SUPERBLOCK_ELEMENTS + row % 16)[:, None] + 16 * tl.arange(0, 8)[None, :]
    start = superblock * SUPERBLOCK_ELEMENTS - first_element
    # In 32 bits an element from here on; the 64-bit start is added to the base address once.
    low = tl.maximum(-start, 0).to(tl.int32)
    high = tl.minimum(numel - start, TILE_ELEMENTS).to(tl.int32)
    return block, place, (place >= low) & (place < high), start


@triton.jit
def fill_noise_kernel(table, DISTRIBUTION: tl.constexpr):
    """Overwrites float32 tensors with scale * noise."""
    tensor, first, last = program(table)
    target = base(table, PARAMETER, tensor, tl.float32)
    numel = tl.load(cell(table, NUMEL, tensor))
    offset = tl.load(cell(table, OFFSET, tensor))
    stream = tl.load(cell(table, STREAM, tensor))
    step = tl.load(cell(table, STEP, tensor))
    scale = real(cell(table, SCALE, tensor), tl.float32)
    seed = tl.load(table + SEED)
    for superblock in range(first, last, TILE_SUPERBLOCKS):
        block, place, mask, start = tile(superblock, offset, numel)
        tl.store(target + start + place, draw(block, stream, step, seed, scale, DISTRIBUTION), mask=mask)


@triton.jit
def step_kernel(
    table,
    RULE: tl.constexpr,
    DTYPE: tl.constexpr,  # of parameters and gradients
    MATH: tl.constexpr,  # in which the rule computes: float64 for float64 parameters, else float32
    WITH_MASTERS: tl.constexpr,
    KEEP_NOISE: tl.constexpr,
    DISTRIBUTION: tl.constexpr,
    COAT_DISTRIBUTION: tl.constexpr,
    STATES: tl.constexpr,  # SGD: 1 with momentum; Adam: 3 with amsgrad, else 2
    WITH_DECAY: tl.constexpr,
    NESTEROV: tl.constexpr,
    DECOUPLED: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    BIAS_ON_DEVICE: tl.constexpr,
    SCALED: tl.constexpr,  # the gradients are divided by grad_scale
):
    """Coat off, rule on the clean weights, coat on; with NO_RULE the coat alone, both draws at the same step."""
    STATE: tl.constexpr = MATH if WITH_MASTERS else DTYPE
    tensor, first, last = program(table)
    parameter = base(table, PARAMETER, tensor, DTYPE)
    gradient = base(table, GRADIENT, tensor, DTYPE)
    master = base(table, MASTER, tensor, MATH)
    state_0 = base(table, STATE_0, tensor, STATE)
    state_1 = base(table, STATE_1, tensor, STATE)
    state_2 = base(table, STATE_2, tensor, STATE)
    numel = tl.load(cell(table, NUMEL, tensor))
    offset = tl.load(cell(table, OFFSET, tensor))
    stream = tl.load(cell(table, STREAM, tensor))
    scale = real(cell(table, SCALE, tensor), tl.float32)
    coat_scale = real(cell(table, COAT_SCALE, tensor), tl.float32)
    seed = tl.load(table + SEED)
    coat_seed = tl.load(table + COAT_SEED)
    is_first = tl.load(cell(table, IS_FIRST, tensor)) != 0
    # From the device where the counter lies there: a replayed CUDA graph then draws fresh noise.
    step_pointer = tl.load(cell(table, STEP_POINTER, tensor))
    step = tl.load(
        step_pointer.to(tl.pointer_type(tl.int64)),
        mask=step_pointer != 0,
        other=tl.load(cell(table, STEP, tensor)),
    )
    # A step that a GradScaler found to be infinite has nothing to do.
    found_inf = tl.load(table + FOUND_INF)
    if tl.load(found_inf.to(tl.pointer_type(tl.float32)), mask=found_inf != 0, other=0.0) != 0:
        last = first
    divisor = 1.0
    if SCALED:
        divisor = tl.load(tl.load(table + GRAD_SCALE).to(tl.pointer_type(tl.float32))).to(MATH)
    # Here and not in the loop: after a store the compiler would have to load them again.
    h0 = real(table + HYPER, MATH)
    h1 = real(table + HYPER + 1, MATH)
    h2 = real(table + HYPER + 2, MATH)
    h3 = real(table + HYPER + 3, MATH)
    h4 = real(table + HYPER + 4, MATH)
    h5 = real(table + HYPER + 5, MATH)
    h6 = real(table + HYPER + 6, MATH)
    next_step = step
    if RULE != NO_RULE:
        next_step = step + 1
    if RULE == ADAM:
        if BIAS_ON_DEVICE:
            one = step.to(tl.float64) * 0.0 + 1.0
            step_size = real(table + BIAS, tl.float64) / (one - power(real(table + BIAS + 1, tl.float64), next_step))
            root_scale = one / tl.sqrt(one - power(real(table + BIAS + 2, tl.float64), next_step))
            step_size = step_size.to(MATH)
            root_scale = root_scale.to(MATH)
        else:
            step_size = real(cell(table, STEP_SIZE, tensor), MATH)
            root_scale = real(cell(table, ROOT_SCALE, tensor), MATH)

    for superblock in range(first, last, TILE_SUPERBLOCKS):
        block, place, mask, start = tile(superblock, offset, numel)
        # All loads first: the stores below could be to the same addresses for all that the compiler knows.
        if WITH_MASTERS:
            x = tl.load(master + start + place, mask=mask, other=0.0)
        else:
            x = tl.load(parameter + start + place, mask=mask, other=0.0).to(MATH)
        if RULE != NO_RULE:
            g = tl.load(gradient + start + place, mask=mask, other=0.0).to(MATH)
            if SCALED:
                g = divide(g, divisor)
        s0 = x
        s1 = x
        s2 = x
        if STATES > 0:
            s0 = tl.load(state_0 + start + place, mask=mask, other=0.0).to(MATH)
        if STATES > 1:
            s1 = tl.load(state_1 + start + place, mask=mask, other=0.0).to(MATH)
        if STATES > 2:
            s2 = tl.load(state_2 + start + place, mask=mask, other=0.0).to(MATH)

        if not WITH_MASTERS:
            if not (KEEP_NOISE and RULE != NO_RULE):
                if coat_scale != 0:
                    x = x - draw(block, stream, step, coat_seed, coat_scale, COAT_DISTRIBUTION).to(MATH)

        # Hyper-parameters in the order in which step.py puts them into the table.
        if RULE == SGD:
            x, s0 = sgd(x, g, s0, h0, h1, h2, h3, is_first, STATES > 0, WITH_DECAY, NESTEROV, MAXIMIZE)
        if RULE == ADAM:
            x, s0, s1, s2 = adam(
                x, g, s0, s1, s2, h0, h1, h2, h3, h4, h5, h6, step_size, root_scale, STATES > 2, WITH_DECAY, DECOUPLED,
                MAXIMIZE,
            )  # fmt: skip
        noisy = x
        if scale != 0:
            noisy = x + draw(block, stream, next_step, seed, scale, DISTRIBUTION).to(MATH)

        if STATES > 0:
            tl.store(state_0 + start + place, s0.to(STATE), mask=mask)
        if STATES > 1:
            tl.store(state_1 + start + place, s1.to(STATE), mask=mask)
        if STATES > 2:
            tl.store(state_2 + start + place, s2.to(STATE), mask=mask)
        if WITH_MASTERS and RULE != NO_RULE:
            if KEEP_NOISE:
                tl.store(master + start + place, noisy, mask=mask)
            else:
                tl.store(master + start + place, x, mask=mask)
        tl.store(parameter + start + place, noisy.to(DTYPE), mask=mask)

"""The kernels: one launch for a whole list of parameters, each program a stretch of one of them.

A tile has shape (blocks, 8): row r is Philox block r of the tile, column l its lane l, so element
128 (r // 16) + 16 l + r % 16. Sixteen neighboring rows are sixteen neighboring elements: a warp's loads are coalesced
and a thread's eight values come from its own block. Where a tensor (or a shard, at any offset) begins or ends within a
tile, the rest is masked.
"""

import triton
import triton.language as tl

from ..contract import record as contract
from .distribution import draw, turned
from .layout import (
    COLUMN_COUNT,
    COUNT,
    CYCLE,
    DENOISE_EVERY,
    FINISHED,
    FOUND_INF,
    GRAD_SCALE,
    GRADIENT,
    HEADER,
    HYPER,
    HYPER_POINTER,
    LEFT,
    MASTER,
    MEASURES,
    NUMEL,
    OFFSET,
    OWNER,
    PARAMETER,
    PROGRAM_SUPERBLOCKS,
    PROGRAMS,
    RECORD,
    ROW_COUNT,
    ROW_LENGTH,
    ROWS,
    SCALE,
    SCALE_POINTER,
    SEED,
    STATE_0,
    STATE_1,
    STATE_2,
    STEP,
    STEP_POINTER,
    STREAM,
    SUMS,
    SUPERBLOCK_ELEMENTS,
    TARGET,
    TILE_BLOCKS,
    TILE_ELEMENTS,
    TILE_SUPERBLOCKS,
)
from .measure import add_tile, finish_rows, relative_scale, row_scales
from .rule import NO_RULE, combine, update
from .special_functions import divide

#: Bit of the word SCALE.
RELATIVE = tl.constexpr(contract.RELATIVE)
#: Words of a record.
R_SCALE, R_SEED, R_DISTRIBUTION, R_STREAM, R_STEP, R_TURN, R_RULE_STEPS = (
    tl.constexpr(word)
    for word in (
        contract.SCALE, contract.SEED, contract.DISTRIBUTION, contract.STREAM, contract.STEP, contract.TURN,
        contract.RULE_STEPS,
    )
)  # fmt: skip


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
    stream = tl.load(table + STREAM)
    step = tl.load(table + STEP)
    scale = real(table + SCALE, tl.float32)
    seed = tl.load(table + SEED)
    for superblock in range(first, last, TILE_SUPERBLOCKS):
        block, place, mask, start = tile(superblock, offset, numel)
        even, odd = draw(block, stream, step, seed, DISTRIBUTION)
        tl.store(target + start + place, turned(even, odd, scale, 0), mask=mask)


@triton.jit
def scale_of(record):
    """The b that a record tells of: float32 from its bits."""
    return tl.load(record + R_SCALE).to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def is_relative(record):
    """Whether b is the number in a record times the measures."""
    return (tl.load(record + R_SCALE) & RELATIVE) != 0


@triton.jit
def tile_noise(
    even, odd, turn, superblock, place, mask, scale, line, rows, row_length, by_rows,
    WITH_MEASURES: tl.constexpr,
):  # fmt: skip
    """The noise of a tile, from what `draw` gives, turned. by_rows: of unit scale in each row, times scale and the
    row's measure."""
    if WITH_MEASURES:
        noise = turned(even, odd, tl.where(by_rows, 1.0, scale), turn)
        if by_rows:
            element = superblock * SUPERBLOCK_ELEMENTS + place.to(tl.int64)
            noise = noise * row_scales(element, scale, line, rows, row_length, mask)
        return noise
    else:
        return turned(even, odd, scale, turn)


@triton.jit
def step_kernel(
    table,
    RULE: tl.constexpr,
    STATES: tl.constexpr,  # of the rule
    DTYPE: tl.constexpr,  # of parameters and gradients
    MATH: tl.constexpr,  # in which the rule computes: float64 for float64 parameters, else float32
    WITH_MASTERS: tl.constexpr,
    KEEP_NOISE: tl.constexpr,
    DISTRIBUTION: tl.constexpr,  # to draw from
    SCALED: tl.constexpr,  # the gradients are divided by grad_scale
    WITH_MEASURES: tl.constexpr,  # the parameters have measures
    MEASURE: tl.constexpr,  # the code of the measure to be taken, or 0
    ONE_DRAW: tl.constexpr,  # in place and in cycles: what comes off and what goes on may be of one draw
):
    """Noise off, rule on the clean weights, noise on; with NO_RULE the noise alone, as the targets say."""
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
    # What is on the weights, from the parameter's own memory.
    record = base(table, RECORD, tensor, tl.int64)
    scale_off = scale_of(record)
    seed_off = tl.load(record + R_SEED)
    distribution_off = tl.load(record + R_DISTRIBUTION)
    step_off = tl.load(record + R_STEP)
    turn_off = tl.load(record + R_TURN) & 3
    stream = tl.load(record + R_STREAM)
    rule_steps = tl.load(record + R_RULE_STEPS)
    # A step that a GradScaler found to be infinite has nothing to do.
    found_inf = tl.load(table + FOUND_INF)
    is_skipped = tl.load(found_inf.to(tl.pointer_type(tl.float32)), mask=found_inf != 0, other=0.0) != 0
    if is_skipped:
        last = first
    if WITH_MEASURES:
        measures = base(table, MEASURES, tensor, tl.float32)
        rows = tl.load(cell(table, ROWS, tensor))
        row_length = tl.load(cell(table, ROW_LENGTH, tensor))
        sums = base(table, SUMS, tensor, tl.int64)
        off_by_rows = is_relative(record) & (row_length != 0)
        if is_relative(record) & (row_length == 0) & (scale_off != 0):
            scale_off = relative_scale(scale_off, tl.load(measures))
    else:
        measures = record
        rows = numel
        row_length = numel
        sums = record
        off_by_rows = False
    on_by_rows = False
    line = measures
    factor = scale_off
    # What is to be put on.
    target = record
    stream_off = stream
    counter = record
    if RULE == NO_RULE:
        target = base(table, TARGET, tensor, tl.int64)
        stream = tl.load(target + R_STREAM)
        step = tl.load(target + R_STEP)
        turn = tl.load(target + R_TURN) & 3
        scale = scale_of(target)
        seed = tl.load(target + R_SEED)
        if scale == 0 and scale_of(record) == 0:
            last = first
        factor = scale
        if WITH_MEASURES:
            on_by_rows = is_relative(target) & (row_length != 0)
            if is_relative(target) & (row_length == 0) & (scale != 0):
                scale = relative_scale(scale, tl.load(measures))
    else:
        counter = base(table, STEP_POINTER, tensor, tl.int64)
        count = tl.load(counter) + 1
        is_cycle = tl.load(table + CYCLE) != 0
        step = tl.where(is_cycle, count >> 2, count)
        turn = tl.where(is_cycle, count & 3, 0)
        seed = tl.load(table + SEED)
        own_scale = tl.load(cell(table, SCALE_POINTER, tensor))
        scale = tl.load(
            own_scale.to(tl.pointer_type(tl.float32)), mask=own_scale != 0, other=real(table + SCALE, tl.float32)
        )
        every = tl.load(table + DENOISE_EVERY)
        scale = tl.where((every > 0) & (count % tl.maximum(every, 1) == 0), 0.0, scale)
        factor = scale
        if MEASURE != 0:
            line = measures + rows
            on_by_rows = row_length != 0
            if (row_length == 0) & (scale != 0):
                scale = relative_scale(scale, tl.load(line))
        divisor = 1.0
        if SCALED:
            divisor = tl.load(tl.load(table + GRAD_SCALE).to(tl.pointer_type(tl.float32))).to(MATH)
        # Here and not in the loop: after a store the compiler would have to load them again.
        at = tl.load(table + HYPER_POINTER)
        own = at.to(tl.pointer_type(tl.int64))
        hyper = tl.where(at != 0, own, table + HYPER)
        h0 = real(hyper, tl.float64)
        h1 = real(hyper + 1, tl.float64)
        h2 = real(hyper + 2, tl.float64)
        h3 = real(hyper + 3, tl.float64)
        h4 = real(hyper + 4, tl.float64)
        h5 = real(hyper + 5, tl.float64)
        h6 = real(hyper + 6, tl.float64)
        c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 = combine(h0, h1, h2, h3, h4, h5, h6, count, RULE)
        c0 = c0.to(MATH)
        c1 = c1.to(MATH)
        c2 = c2.to(MATH)
        c3 = c3.to(MATH)
        c4 = c4.to(MATH)
        c5 = c5.to(MATH)
        c6 = c6.to(MATH)
        c7 = c7.to(MATH)
        c8 = c8.to(MATH)
        c9 = c9.to(MATH)

    # Whether both noises are turns of one draw: then its values are made once.
    is_one_draw = False
    if ONE_DRAW:
        is_one_draw = (
            (scale_off != 0) & (scale != 0) & (seed_off == seed) & (stream_off == stream)
            & (((step_off ^ step) & 0xFFFFFFFF) == 0) & (distribution_off == DISTRIBUTION)
        )  # fmt: skip

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

        if ONE_DRAW:
            even = tl.zeros((TILE_BLOCKS, 4), tl.float32)
            odd = even
        if not WITH_MASTERS:
            if not KEEP_NOISE:
                if scale_off != 0:
                    even, odd = draw(block, stream_off, step_off, seed_off, distribution_off)
                    x = x - tile_noise(
                        even, odd, turn_off, superblock, place, mask, scale_off, measures, rows, row_length,
                        off_by_rows, WITH_MEASURES,
                    ).to(MATH)  # fmt: skip
        if RULE != NO_RULE:
            x, s0, s1, s2 = update(
                x, g, s0, s1, s2, rule_steps == 0, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, RULE
            )  # fmt: skip
        noisy = x
        clean = x
        if MEASURE != 0 and not WITH_MASTERS:
            clean = x.to(DTYPE).to(MATH)
        if scale != 0:
            if ONE_DRAW:
                if not is_one_draw:
                    even, odd = draw(block, stream, step, seed, DISTRIBUTION)
            else:
                if RULE == NO_RULE:
                    distribution = tl.load(target + R_DISTRIBUTION)
                else:
                    distribution = DISTRIBUTION
                even, odd = draw(block, stream, step, seed, distribution)
            put_on = tile_noise(
                even, odd, turn, superblock, place, mask, scale, line, rows, row_length, on_by_rows,
                WITH_MEASURES,
            ).to(MATH)  # fmt: skip
            noisy = x + put_on
            if MEASURE != 0 and not WITH_MASTERS:
                clean = noisy.to(DTYPE).to(MATH) - put_on

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
        if MEASURE != 0:
            add_tile(
                sums, clean.to(tl.float32), mask, superblock * SUPERBLOCK_ELEMENTS, place, offset + numel, row_length,
                MEASURE,
            )  # fmt: skip

    # The last program of a parameter writes its record: all others have read it. So weights and record change in one
    # launch, and neither the host nor a replayed graph can come between them.
    tl.debug_barrier()
    owner = tl.load(cell(table, OWNER, tensor))
    finished = tl.atomic_add(cell(table, FINISHED, owner), 1)
    if (finished + 1 == tl.load(cell(table, PROGRAMS, owner))) and not is_skipped:
        if RULE == NO_RULE:
            tl.store(record + R_SCALE, tl.load(target + R_SCALE))
            tl.store(record + R_SEED, tl.load(target + R_SEED))
            tl.store(record + R_DISTRIBUTION, tl.load(target + R_DISTRIBUTION))
            tl.store(record + R_STREAM, tl.load(target + R_STREAM))
            tl.store(record + R_STEP, tl.load(target + R_STEP))
            tl.store(record + R_TURN, tl.load(target + R_TURN))
        else:
            if KEEP_NOISE:
                tl.store(record + R_SCALE, 0)
            else:
                bits = factor.to(tl.uint32, bitcast=True).to(tl.int64)
                if MEASURE != 0:
                    bits = tl.where(bits != 0, bits | RELATIVE, bits)
                tl.store(record + R_SCALE, bits)
            tl.store(record + R_SEED, seed)
            tl.store(record + R_DISTRIBUTION, DISTRIBUTION)
            tl.store(record + R_STEP, step)
            tl.store(record + R_TURN, turn)
            # Loaded again: held over the loop, the address would take registers of which Adam has none to spare.
            counter = base(table, STEP_POINTER, tensor, tl.int64)
            tl.store(record + R_RULE_STEPS, tl.load(record + R_RULE_STEPS) + 1)
            tl.store(counter, count)
            if MEASURE != 0:
                finish(table, tensor, measures, sums, rows, True, MEASURE)


@triton.jit
def finish(table, tensor, measures, sums, rows, MOVES: tl.constexpr, MEASURE: tl.constexpr):
    left = tl.load(cell(table, LEFT, tensor))
    count = tl.load(cell(table, ROW_COUNT, tensor))
    finish_rows(measures, sums, left.to(tl.pointer_type(tl.int64)), rows, count, MOVES, left == 0, MEASURE)


@triton.jit
def measure_kernel(
    table,
    DTYPE: tl.constexpr,
    MATH: tl.constexpr,
    WITH_MASTERS: tl.constexpr,
    MEASURE: tl.constexpr,
    ONLY_CLEAN: tl.constexpr,  # parameters that carry noise are left out
):
    """Measures clean weights: master weights, or the parameters without their noise. Nothing else is written."""
    tensor, first, last = program(table)
    parameter = base(table, PARAMETER, tensor, DTYPE)
    master = base(table, MASTER, tensor, MATH)
    numel = tl.load(cell(table, NUMEL, tensor))
    offset = tl.load(cell(table, OFFSET, tensor))
    record = base(table, RECORD, tensor, tl.int64)
    measures = base(table, MEASURES, tensor, tl.float32)
    sums = base(table, SUMS, tensor, tl.int64)
    rows = tl.load(cell(table, ROWS, tensor))
    row_length = tl.load(cell(table, ROW_LENGTH, tensor))
    scale = scale_of(record)
    seed = tl.load(record + R_SEED)
    distribution = tl.load(record + R_DISTRIBUTION)
    step = tl.load(record + R_STEP)
    turn = tl.load(record + R_TURN) & 3
    stream = tl.load(record + R_STREAM)
    is_left_out = ONLY_CLEAN and scale != 0
    if is_left_out:
        last = first
    by_rows = is_relative(record) & (row_length != 0)
    if is_relative(record) & (row_length == 0) & (scale != 0):
        scale = relative_scale(scale, tl.load(measures))
    for superblock in range(first, last, TILE_SUPERBLOCKS):
        block, place, mask, start = tile(superblock, offset, numel)
        if WITH_MASTERS:
            x = tl.load(master + start + place, mask=mask, other=0.0)
        else:
            x = tl.load(parameter + start + place, mask=mask, other=0.0).to(MATH)
            if scale != 0:
                even, odd = draw(block, stream, step, seed, distribution)
                x = x - tile_noise(
                    even, odd, turn, superblock, place, mask, scale, measures, rows, row_length, by_rows, True,
                ).to(MATH)  # fmt: skip
        first_element = superblock * SUPERBLOCK_ELEMENTS
        add_tile(sums, x.to(tl.float32), mask, first_element, place, offset + numel, row_length, MEASURE)
    tl.debug_barrier()
    owner = tl.load(cell(table, OWNER, tensor))
    finished = tl.atomic_add(cell(table, FINISHED, owner), 1)
    if (finished + 1 == tl.load(cell(table, PROGRAMS, owner))) and not is_left_out:
        finish(table, tensor, measures, sums, rows, False, MEASURE)

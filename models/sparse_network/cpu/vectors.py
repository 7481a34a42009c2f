"""The two inner loops, written in LLVM's own vectors.

numba cannot tell its compiler that two arrays do not overlap, so that sums which should stay in registers are stored
and loaded again for every edge, and each loop is preceded by a test. Here the sums are vectors of a cache line, 64
bytes, which LLVM cuts into the widest that the processor has: with AVX-512, where a loop of numba's own would use half
of its width, that is 1.5 times as fast.
"""
# ruff: noqa: ANN001, ANN002, ANN202, ANN201
# mypy: disallow-untyped-defs=False
# numba hands types and LLVM values to these functions; none has a type that a checker knows.

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

# Samples are computed in multiples of this.
LANES = 8
_LINE = 64
_with_literals: Any = intrinsic(prefer_literal=True)
_FAST = ("reassoc", "contract", "nsz")


def _rows(context, builder, table_type, table):
    """A function that gives the address of an element of a C-contiguous array by its indices."""
    array = make_array(table_type)(context, builder, table)
    shape = cgutils.unpack_tuple(builder, array.shape, table_type.ndim)

    def address(*indices):
        offset = indices[0]
        for size, index in zip(shape[1:], indices[1:], strict=True):
            offset = builder.add(builder.mul(offset, size), index)
        return builder.gep(array.data, [offset])

    return address, shape


def _load_vector(builder, address, vector, offset, bytes_each):
    pointer = builder.bitcast(builder.gep(address, [ir.Constant(ir.IntType(64), offset)]), vector.as_pointer())
    return builder.load(pointer, align=bytes_each)


def _load_row(builder, address, index, intp):
    value = builder.load(address(index))
    return builder.sext(value, intp) if value.type.width < intp.width else value


def _zeros(builder, vector, count):
    nothing = ir.Constant(vector, [0.0] * vector.count)
    return [cgutils.alloca_once_value(builder, nothing) for _ in range(count)]


def _accumulate(builder, total, left, right):
    product = builder.fmul(left, right, flags=_FAST)
    builder.store(builder.fadd(builder.load(total), product, flags=_FAST), total)


def _spread(builder, number, vector):
    """The number in every place of a vector."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, _mask([0] * vector.count))


def _mask(places):
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))


def _add_up(builder, vectors):
    """The sums of each of 1, 2, 4 … vectors' numbers, as one vector: folded together, half as many at each step."""
    count, size = len(vectors), vectors[0].type.count
    while size > 1:
        half = size // 2
        if len(vectors) > 1:
            pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
            parts = 2 * vectors[0].type.count // size
        else:
            pairs = [(vectors[0], vectors[0])]
            parts = count
        low = [part * size + place for part in range(parts) for place in range(half)]
        high = [place + half for place in low]
        vectors = [
            builder.fadd(
                builder.shuffle_vector(left, right, _mask(low)),
                builder.shuffle_vector(left, right, _mask(high)),
                flags=_FAST,
            )
            for left, right in pairs
        ]
        size = half
    return vectors[0]


def _weigh(context, builder, kinds, values, width):
    """Σ_e factors[e]·table[rows[e], column + j] for first ≤ e < last and j < width, as vectors in registers.

    Also gives how an element of the table is addressed. The sum's order does not depend on the width.
    """
    table, rows, factors = kinds
    table_value, rows_value, factors_value, start, stop, left = values
    lanes = min(width, _LINE * 8 // table.dtype.bitwidth)
    intp = context.get_value_type(types.intp)
    vector = ir.VectorType(context.get_data_type(table.dtype), lanes)
    bytes_each = table.dtype.bitwidth // 8
    element, _ = _rows(context, builder, table, table_value)
    row_of, _ = _rows(context, builder, rows, rows_value)
    factor_of, _ = _rows(context, builder, factors, factors_value)
    count = width // lanes
    sums = _zeros(builder, vector, count)
    # A sum waits four cycles for itself; two sums, of edges in turn, fill one another's.
    others = _zeros(builder, vector, count)

    def add(edge, totals):
        address = element(_load_row(builder, row_of, edge, intp), left)
        factor = _spread(builder, builder.load(factor_of(edge)), vector)
        for index, total in enumerate(totals):
            found = _load_vector(builder, address, vector, index * lanes, bytes_each)
            _accumulate(builder, total, factor, found)

    one, two = ir.Constant(intp, 1), ir.Constant(intp, 2)
    edges = builder.sub(stop, start)
    even = builder.sub(stop, builder.and_(edges, one))
    with cgutils.for_range_slice(builder, start, even, two, intp) as (edge, _):
        add(edge, sums)
        add(builder.add(edge, one), others)
    with cgutils.for_range_slice(builder, even, stop, one, intp) as (edge, _):
        add(edge, sums)
    totals = [
        builder.fadd(builder.load(total), builder.load(other), flags=_FAST)
        for total, other in zip(sums, others, strict=True)
    ]
    return totals, element


def _store_vectors(builder, address, vectors, bytes_each):
    for index, vector in enumerate(vectors):
        place = builder.gep(address, [ir.Constant(ir.IntType(64), index * vector.type.count)])
        builder.store(vector, builder.bitcast(place, vector.type.as_pointer()), align=bytes_each)


@_with_literals
def weigh_rows(typingctx, table, rows, factors, first, last, column, width, out):
    """``out[column + j] = Σ_e factors[e]·table[rows[e], column + j]`` for first ≤ e < last and j < width.

    ``table`` is (N, T); ``width`` is a literal number, a multiple of ``LANES``; the sum's order does not depend on it.
    """
    if not isinstance(width, types.IntegerLiteral):
        return None
    signature = types.void(table, rows, factors, types.intp, types.intp, types.intp, width, out)

    def build(context, builder, signature, args):
        *given, left, _, out_value = args
        kinds = signature.args[:3]
        totals, _ = _weigh(context, builder, kinds, (*given, left), width.literal_value)
        target, _ = _rows(context, builder, out, out_value)
        _store_vectors(builder, target(left), totals, table.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, build


@_with_literals
def clamp_rows(typingctx, table, rows, factors, first, last, column, width, bias, response, low, high, out, row):
    """``out[row, column + j] = clamp(bias + response·Σ_e factors[e]·table[rows[e], column + j], low, high)``.

    As :func:`weigh_rows`, for a node whose activation is a clamp (NaN: no bound), in one go: a node of few edges costs
    half of what it does when its sum is written down and read again. NaN stays NaN.
    """
    if not isinstance(width, types.IntegerLiteral):
        return None
    real = table.dtype
    signature = types.void(
        table, rows, factors, types.intp, types.intp, types.intp, width, real, real, real, real, out, types.intp
    )

    def build(context, builder, signature, args):
        *given, left, _, bias_value, response_value, low_value, high_value, out_value, node = args
        target, _ = _rows(context, builder, out, out_value)
        totals, _ = _weigh(context, builder, signature.args[:3], (*given, left), width.literal_value)
        vector = totals[0].type
        b, r, p, q = (_spread(builder, v, vector) for v in (bias_value, response_value, low_value, high_value))
        found = []
        for total in totals:
            z = builder.fadd(builder.fmul(r, total, flags=_FAST), b, flags=_FAST)
            upper = builder.select(builder.fcmp_ordered(">=", z, q), q, z)
            found.append(builder.select(builder.fcmp_ordered("<=", z, p), p, upper))
        _store_vectors(builder, target(node, left), found, real.bitwidth // 8)
        return context.get_dummy_value()

    return signature, build


@_with_literals
def pull_rows_clamped(typingctx, deltas, rows, factors, first, last, column, width, values, low, high, row, seeded):
    """``deltas[row, column + j] = φ′·(Σ_e factors[e]·deltas[rows[e], column + j] + what was there, if seeded)``.

    φ is a clamp: its slope is 1 where the node's value lies between low and high, and 0 elsewhere.
    """
    if not isinstance(width, types.IntegerLiteral):
        return None
    real = deltas.dtype
    signature = types.void(
        deltas, rows, factors, types.intp, types.intp, types.intp, width, values, real, real, types.intp, types.boolean
    )

    def build(context, builder, signature, args):
        *given, left, _, values_value, low_value, high_value, node, begun = args
        totals, element = _weigh(context, builder, signature.args[:3], (*given, left), width.literal_value)
        vector, bytes_each = totals[0].type, real.bitwidth // 8
        value_of, _ = _rows(context, builder, values, values_value)
        p, q = (_spread(builder, v, vector) for v in (low_value, high_value))
        nothing = ir.Constant(vector, [0.0] * vector.count)
        own, ours = element(node, left), value_of(node, left)
        sums = [cgutils.alloca_once_value(builder, total) for total in totals]
        with cgutils.if_likely(builder, builder.trunc(begun, ir.IntType(1))):
            for index, total in enumerate(sums):
                before = _load_vector(builder, own, vector, index * vector.count, bytes_each)
                builder.store(builder.fadd(builder.load(total), before, flags=_FAST), total)
        found = []
        for index, total in enumerate(sums):
            y = _load_vector(builder, ours, vector, index * vector.count, bytes_each)
            outside = builder.or_(builder.fcmp_ordered("<=", y, p), builder.fcmp_ordered(">=", y, q))
            found.append(builder.select(outside, nothing, builder.load(total)))
        _store_vectors(builder, own, found, bytes_each)
        return context.get_dummy_value()

    return signature, build


@_with_literals
def dot_rows(typingctx, table, rows, first, edges, deltas, target, tile, tiles, out):
    """``out[e] += Σ_t Σ_j deltas[t, target, j]·table[t, rows[e], j]`` for first ≤ e < first + edges, tile ≤ t < tiles.

    ``table`` and ``deltas`` are (tiles, N, T), T a multiple of 16; ``edges`` is a literal number.
    """
    if not isinstance(edges, types.IntegerLiteral):
        return None
    count = edges.literal_value
    lanes = _LINE * 8 // table.dtype.bitwidth
    signature = types.void(table, rows, types.intp, edges, deltas, types.intp, types.intp, types.intp, out)

    def build(context, builder, signature, args):
        table_value, rows_value, start, _, deltas_value, node, tile_first, tile_last, out_value = args
        intp = context.get_value_type(types.intp)
        real = context.get_data_type(table.dtype)
        vector = ir.VectorType(real, lanes)
        bytes_each = table.dtype.bitwidth // 8
        element, shape = _rows(context, builder, table, table_value)
        delta, _ = _rows(context, builder, deltas, deltas_value)
        row_of, _ = _rows(context, builder, rows, rows_value)
        result, _ = _rows(context, builder, out, out_value)
        zero, one = ir.Constant(intp, 0), ir.Constant(intp, 1)
        places = [builder.add(start, ir.Constant(intp, index)) for index in range(count)]
        sources = [_load_row(builder, row_of, place, intp) for place in places]
        sums = _zeros(builder, vector, count)
        with cgutils.for_range_slice(builder, tile_first, tile_last, one, intp) as (t, _):
            ours = delta(t, node, zero)
            theirs = [element(t, source, zero) for source in sources]
            with cgutils.for_range_slice(builder, zero, shape[2], ir.Constant(intp, lanes), intp) as (j, _):
                left = _load_vector(builder, builder.gep(ours, [j]), vector, 0, bytes_each)
                for address, total in zip(theirs, sums, strict=True):
                    right = _load_vector(builder, builder.gep(address, [j]), vector, 0, bytes_each)
                    _accumulate(builder, total, left, right)
        found = _add_up(builder, [builder.load(total) for total in sums])
        target = builder.bitcast(result(start), found.type.as_pointer())
        before = builder.load(target, align=bytes_each)
        builder.store(builder.fadd(before, found, flags=_FAST), target, align=bytes_each)
        return context.get_dummy_value()

    return signature, build

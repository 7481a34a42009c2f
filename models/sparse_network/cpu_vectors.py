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


@_with_literals
def weigh_rows(typingctx, table, rows, factors, first, last, column, width, out):
    """``out[column + j] = Σ_e factors[e]·table[rows[e], column + j]`` for first ≤ e < last and j < width.

    ``table`` is (N, T); ``width`` is a literal number, a multiple of ``LANES``. The sums are taken in the order of e.
    """
    if not isinstance(width, types.IntegerLiteral):
        return None
    lanes = min(width.literal_value, _LINE * 8 // table.dtype.bitwidth)
    count = width.literal_value // lanes
    signature = types.void(table, rows, factors, types.intp, types.intp, types.intp, width, out)

    def build(context, builder, signature, args):
        table_value, rows_value, factors_value, start, stop, left, _, out_value = args
        intp = context.get_value_type(types.intp)
        real = context.get_data_type(table.dtype)
        vector = ir.VectorType(real, lanes)
        bytes_each = table.dtype.bitwidth // 8
        element, _ = _rows(context, builder, table, table_value)
        row_of, _ = _rows(context, builder, rows, rows_value)
        factor_of, _ = _rows(context, builder, factors, factors_value)
        target, _ = _rows(context, builder, out, out_value)
        zero = ir.Constant(vector, [0.0] * lanes)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(count)]
        with cgutils.for_range_slice(builder, start, stop, ir.Constant(intp, 1), intp) as (edge, _):
            address = element(_load_row(builder, row_of, edge, intp), left)
            factor = builder.insert_element(
                ir.Constant(vector, ir.Undefined), builder.load(factor_of(edge)), ir.Constant(ir.IntType(32), 0)
            )
            factor = builder.shuffle_vector(factor, ir.Constant(vector, ir.Undefined), everywhere)
            for index, total in enumerate(sums):
                values = _load_vector(builder, address, vector, index * lanes, bytes_each)
                product = builder.fmul(factor, values, flags=_FAST)
                builder.store(builder.fadd(builder.load(total), product, flags=_FAST), total)
        begin = target(left)
        for index, total in enumerate(sums):
            place = builder.gep(begin, [ir.Constant(ir.IntType(64), index * lanes)])
            builder.store(builder.load(total), builder.bitcast(place, vector.as_pointer()), align=bytes_each)
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
        nothing = ir.Constant(vector, [0.0] * lanes)
        sums = [cgutils.alloca_once_value(builder, nothing) for _ in range(count)]
        with cgutils.for_range_slice(builder, tile_first, tile_last, one, intp) as (t, _):
            ours = delta(t, node, zero)
            theirs = [element(t, source, zero) for source in sources]
            with cgutils.for_range_slice(builder, zero, shape[2], ir.Constant(intp, lanes), intp) as (j, _):
                left = _load_vector(builder, builder.gep(ours, [j]), vector, 0, bytes_each)
                for address, total in zip(theirs, sums, strict=True):
                    right = _load_vector(builder, builder.gep(address, [j]), vector, 0, bytes_each)
                    product = builder.fmul(left, right, flags=_FAST)
                    builder.store(builder.fadd(builder.load(total), product, flags=_FAST), total)
        for place, total in zip(places, sums, strict=True):
            builder.store(
                builder.fadd(builder.load(result(place)), _add_up(builder, builder.load(total)), flags=_FAST),
                result(place),
            )
        return context.get_dummy_value()

    return signature, build


def _add_up(builder, vector):
    """The sum of a vector's numbers, half onto half."""
    width = lanes = vector.type.count
    while width > 1:
        width //= 2
        mask = [ir.Constant(ir.IntType(32), width + lane if lane < width else 0) for lane in range(lanes)]
        upper = builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), lanes), mask))
        vector = builder.fadd(vector, upper, flags=_FAST)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

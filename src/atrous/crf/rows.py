"""Sums of rows of a matrix, in vector registers.

Everything that the CRF does on a CPU is a weighted sum of rows: a vertex gathers its pixels, a pixel its vertices, a
blur three neighbours. LLVM unrolls short loops over the columns before it could vectorise them, which costs a factor of
two to four, so the inner loop is written here as vector instructions. Rows are a multiple of four floats long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

#: Floats to which a row is padded.
STEP = 4

_FLOAT, _INT64 = ir.FloatType(), ir.IntType(64)


def _vector_of(width: int) -> Any:
    return ir.VectorType(_FLOAT, width)


def _splat(builder: Any, value: Any, width: int) -> Any:
    """A vector whose lanes all hold one value."""
    undefined = ir.Constant(_vector_of(width), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    return builder.shuffle_vector(first, undefined, lanes)


def _place(builder: Any, array: Any, row: Any, column: Any, width: int) -> Any:
    """The address of `width` floats of a C-contiguous matrix."""
    length = builder.extract_value(array.shape, 1)
    offset = builder.add(builder.mul(row, length), column)
    return builder.bitcast(builder.gep(array.data, [offset]), _vector_of(width).as_pointer())


def _sum_of_rows(width: int) -> Any:
    """An intrinsic for `width` columns of one weighted sum of rows."""

    @intrinsic
    def sum_columns(context, out, row, column, source, indices, weights, first, last):
        """out[row, column:+width] = Σ weights[p] · source[indices[p], column:+width] for p in first…last."""
        signature = types.void(out, types.int64, types.int64, source, indices, weights, types.int64, types.int64)

        def generate(context, builder, signature, arguments):
            def array(position: int) -> Any:
                return context.make_array(signature.args[position])(context, builder, arguments[position])

            out, source, indices, weights = array(0), array(3), array(4), array(5)
            row, column, first, last = (arguments[position] for position in (1, 2, 6, 7))
            total = cgutils.alloca_once(builder, _vector_of(width))
            builder.store(ir.Constant(_vector_of(width), [0.0] * width), total)
            step = ir.Constant(_INT64, 1)
            with cgutils.for_range_slice(builder, first, last, step, intp=_INT64) as (place, _):
                index = builder.sext(builder.load(builder.gep(indices.data, [place])), _INT64)
                weight = _splat(builder, builder.load(builder.gep(weights.data, [place])), width)
                values = builder.load(_place(builder, source, index, column, width), align=4)
                product = builder.fmul(values, weight, flags=["fast"])
                builder.store(builder.fadd(builder.load(total), product, flags=["fast"]), total)
            builder.store(builder.load(total), _place(builder, out, row, column, width), align=4)
            return context.get_dummy_value()

        return signature, generate

    return sum_columns


def _blur_of_rows(width: int) -> Any:
    """An intrinsic for `width` columns of one vertex's blur along one direction."""

    @intrinsic
    def blur_columns(context, out, row, column, source, before, after):
        """out[row] = source[row] + (source[before] + source[after]) / 2, for columns column…column + width."""
        signature = types.void(out, types.int64, types.int64, source, types.int64, types.int64)

        def generate(context, builder, signature, arguments):
            out = context.make_array(signature.args[0])(context, builder, arguments[0])
            source = context.make_array(signature.args[3])(context, builder, arguments[3])
            column = arguments[2]
            here, before, after = (
                builder.load(_place(builder, source, arguments[position], column, width), align=4)
                for position in (1, 4, 5)
            )
            half = ir.Constant(_vector_of(width), [0.5] * width)
            both = builder.fmul(builder.fadd(before, after, flags=["fast"]), half, flags=["fast"])
            place = _place(builder, out, arguments[1], column, width)
            builder.store(builder.fadd(here, both, flags=["fast"]), place, align=4)
            return context.get_dummy_value()

        return signature, generate

    return blur_columns


def _logits_of_row(width: int) -> Any:
    """An intrinsic for `width` columns of one pixel's logits."""

    @intrinsic
    def logit_columns(context, out, column, unary, row, near, alike, near_weight, alike_weight):
        """out[0] = unary[row] + near_weight · near[0] + alike_weight · alike[0]; returns the largest."""
        signature = types.float32(out, types.int64, unary, types.int64, near, alike, types.float32, types.float32)

        def generate(context, builder, signature, arguments):
            def at(position: int, row: Any) -> Any:
                array = context.make_array(signature.args[position])(context, builder, arguments[position])
                return _place(builder, array, row, arguments[1], width)

            zero = ir.Constant(_INT64, 0)
            total = builder.load(at(2, arguments[3]), align=4)
            for position, weight in ((4, 6), (5, 7)):
                values = builder.load(at(position, zero), align=4)
                product = builder.fmul(values, _splat(builder, arguments[weight], width), flags=["fast"])
                total = builder.fadd(total, product, flags=["fast"])
            builder.store(total, at(0, zero), align=4)
            return _reduce(builder, "fmax", total, width)

        return signature, generate

    return logit_columns


def _exp_of_row(width: int) -> Any:
    """An intrinsic for `width` columns of e^x, to 2 units in the last place for −87 ≤ x ≤ 0 (Cephes' expf)."""

    @intrinsic
    def exp_columns(context, values, column, shift):
        """values[0] = e^(values[0] − shift); returns their sum."""
        signature = types.float32(values, types.int64, types.float32)

        def generate(context, builder, signature, arguments):
            def each(value: float) -> Any:
                return ir.Constant(_vector_of(width), [value] * width)

            def plus(a: Any, b: Any) -> Any:
                return builder.fadd(a, b, flags=["contract"])

            def times(a: Any, b: Any) -> Any:
                return builder.fmul(a, b, flags=["contract"])

            whole = ir.VectorType(ir.IntType(32), width)
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            place = _place(builder, array, ir.Constant(_INT64, 0), arguments[1], width)
            x = builder.fsub(builder.load(place, align=4), _splat(builder, arguments[2], width))
            x = builder.select(builder.fcmp_ordered(">", x, each(-87.0)), x, each(-87.0))
            power = builder.fptosi(plus(times(x, each(1.44269504)), each(-0.5)), whole)  # towards zero: x ≤ 0
            rounded = builder.sitofp(power, _vector_of(width))
            x = plus(plus(x, times(rounded, each(-0.693359375))), times(rounded, each(2.12194440e-4)))
            y = each(1.9875691500e-4)
            for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
                y = plus(times(y, x), each(coefficient))
            y = plus(plus(times(times(y, x), x), x), each(1.0))
            bias, mantissa = (ir.Constant(whole, [value] * width) for value in (127, 23))
            scale = builder.bitcast(builder.shl(builder.add(power, bias), mantissa), _vector_of(width))
            y = times(y, scale)
            builder.store(y, place, align=4)
            return _reduce(builder, "fadd", y, width)

        return signature, generate

    return exp_columns


def _reduce(builder: Any, operation: str, vector: Any, width: int) -> Any:
    """The sum or the largest of a vector's lanes."""
    name = f"llvm.vector.reduce.{operation}.v{width}f32"
    start = [ir.Constant(_FLOAT, 0.0)] if operation == "fadd" else []
    kind = ir.FunctionType(_FLOAT, [value.type for value in start] + [_vector_of(width)])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, [*start, vector], fastmath=["reassoc"] if start else ["nnan"])


_sum16, _sum4 = _sum_of_rows(16), _sum_of_rows(4)
_blur16, _blur4 = _blur_of_rows(16), _blur_of_rows(4)
_logits16, _logits4 = _logits_of_row(16), _logits_of_row(4)
_exp16, _exp4 = _exp_of_row(16), _exp_of_row(4)


@njit(inline="always")
def sum_rows(out, row, source, indices, weights, first, last):
    """out[row] = Σ weights[p] · source[indices[p]] for first ≤ p < last."""
    column = 0
    while column + 16 <= source.shape[1]:
        _sum16(out, row, column, source, indices, weights, first, last)
        column += 16
    while column < source.shape[1]:
        _sum4(out, row, column, source, indices, weights, first, last)
        column += 4


@njit(inline="always")
def blur_row(out, row, source, before, after):
    """out[row] = source[row] + (source[before] + source[after]) / 2."""
    column = 0
    while column + 16 <= source.shape[1]:
        _blur16(out, row, column, source, before, after)
        column += 16
    while column < source.shape[1]:
        _blur4(out, row, column, source, before, after)
        column += 4


@njit(inline="always")
def logit_row(out, unary, row, near, alike, near_weight, alike_weight):
    """out[0] = unary[row] + near_weight · near[0] + alike_weight · alike[0]; returns the largest."""
    column, largest = 0, np.float32(-np.inf)
    while column + 16 <= out.shape[1]:
        largest = max(largest, _logits16(out, column, unary, row, near, alike, near_weight, alike_weight))
        column += 16
    while column < out.shape[1]:
        largest = max(largest, _logits4(out, column, unary, row, near, alike, near_weight, alike_weight))
        column += 4
    return largest


@njit(inline="always")
def exp_row(values, shift):
    """values[0] = e^(values[0] − shift), for values ≤ shift; returns their sum."""
    column, total = 0, np.float32(0)
    while column + 16 <= values.shape[1]:
        total += _exp16(values, column, shift)
        column += 16
    while column < values.shape[1]:
        total += _exp4(values, column, shift)
        column += 4
    return total

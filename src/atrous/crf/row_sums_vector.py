"""The sums of `row_sums` as vector instructions of LLVM.

LLVM unrolls short loops over the columns before it can vectorise them, and unrolled loops are slower (docs/crf.md).
Therefore the inner loops are written here as vector instructions.

This module uses internals of numba and llvmlite. If these internals do not work in the installed versions, `row_sums`
uses `row_sums_plain` instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

#: Prefetch distance of the blur, in rows.
AHEAD = 64

_FLOAT, _INT64 = ir.FloatType(), ir.IntType(64)


def _vector_of(width: int) -> Any:
    return ir.VectorType(_FLOAT, width)


def _each(value: float, width: int) -> Any:
    return ir.Constant(_vector_of(width), [value] * width)


def _splat(builder: Any, value: Any, width: int) -> Any:
    """Builds a vector with the same value in all lanes."""
    undefined = ir.Constant(_vector_of(width), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    return builder.shuffle_vector(first, undefined, lanes)


def _data(context: Any, builder: Any, signature: Any, arguments: Any, position: int) -> Any:
    """Builds the address of the first element of an array argument."""
    return context.make_array(signature.args[position])(context, builder, arguments[position]).data


def _place(builder: Any, data: Any, offset: Any, width: int) -> Any:
    """Builds the address of the `width` floats that begin at `offset`."""
    return builder.bitcast(builder.gep(data, [offset]), _vector_of(width).as_pointer())


def _ask_for(builder: Any, address: Any) -> None:
    """Builds a prefetch of an address."""
    whole = ir.IntType(32)
    address = builder.bitcast(address, ir.IntType(8).as_pointer())
    name = "llvm.prefetch.p0i8"
    kind = ir.FunctionType(ir.VoidType(), [address.type, whole, whole, whole])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, [address, *(ir.Constant(whole, value) for value in (0, 3, 1))])


def add_rows_of(width: int) -> Any:
    """Returns an intrinsic that computes one weighted sum of rows of a panel."""

    @intrinsic
    def add_rows(context, out, place, source, base, stride, indices, weights, first, last):
        """Sets out[place:+width] = Σ weights[p] · source[base + indices[p]·stride : +width] over first ≤ p < last."""
        whole = types.int64
        signature = types.void(out, whole, source, whole, whole, indices, weights, whole, whole)

        def generate(context, builder, signature, arguments):
            out, source, indices, weights = (
                _data(context, builder, signature, arguments, position) for position in (0, 2, 5, 6)
            )
            place, base, stride, first, last = (arguments[position] for position in (1, 3, 4, 7, 8))
            total = cgutils.alloca_once(builder, _vector_of(width))
            builder.store(_each(0.0, width), total)
            step = ir.Constant(_INT64, 1)
            with cgutils.for_range_slice(builder, first, last, step, intp=_INT64) as (entry, _):
                row = builder.sext(builder.load(builder.gep(indices, [entry])), _INT64)
                weight = _splat(builder, builder.load(builder.gep(weights, [entry])), width)
                offset = builder.add(base, builder.mul(row, stride))
                values = builder.load(_place(builder, source, offset, width), align=4)
                product = builder.fmul(values, weight, flags=["fast"])
                builder.store(builder.fadd(builder.load(total), product, flags=["fast"]), total)
            builder.store(builder.load(total), _place(builder, out, place, width), align=4)
            return context.get_dummy_value()

        return signature, generate

    return add_rows


def blur_chains_of(width: int) -> Any:
    """Returns an intrinsic that blurs rows along chains of neighbours, in place."""

    @intrinsic
    def blur_chains(context, values, chains, first, last):
        """Adds (v[i − 1] + v[i + 1]) / 2 to v[i] for the rows chains[first:last]; an entry ~row ends a chain."""
        signature = types.void(values, chains, types.int64, types.int64)

        def generate(context, builder, signature, arguments):
            values, chains = (_data(context, builder, signature, arguments, position) for position in (0, 1))
            first, last = arguments[2:]
            nothing, half = _each(0.0, width), _each(0.5, width)
            zero, step, wide = (ir.Constant(_INT64, value) for value in (0, 1, width))

            def row(entry: Any) -> tuple[Any, Any]:
                """Builds the address of an entry's row, and the condition that the row ends its chain."""
                number = builder.sext(builder.load(builder.gep(chains, [entry])), _INT64)
                ends = builder.icmp_signed("<", number, zero)
                number = builder.select(ends, builder.not_(number), number)
                return _place(builder, values, builder.mul(number, wide), width), ends

            before = cgutils.alloca_once(builder, _vector_of(width))
            here = cgutils.alloca_once(builder, _vector_of(width))
            builder.store(nothing, before)
            with builder.if_then(builder.icmp_signed("<", first, last)):
                builder.store(builder.load(row(first)[0], align=4), here)
            final = builder.sub(last, step)
            with cgutils.for_range_slice(builder, first, last, step, intp=_INT64) as (entry, _):
                place, ends = row(entry)
                ahead = builder.add(entry, ir.Constant(_INT64, AHEAD))
                ahead = builder.select(builder.icmp_signed("<", ahead, final), ahead, final)
                _ask_for(builder, row(ahead)[0])
                following = builder.select(
                    builder.icmp_signed("<", entry, final), builder.add(entry, step), entry
                )  # the last entry ends its chain, so no row follows it
                after = builder.load(row(following)[0], align=4)
                value = builder.load(here)
                both = builder.fadd(builder.load(before), builder.select(ends, nothing, after), flags=["fast"])
                blurred = builder.fadd(value, builder.fmul(both, half, flags=["fast"]), flags=["fast"])
                builder.store(blurred, place, align=4)
                builder.store(builder.select(ends, nothing, value), before)
                builder.store(after, here)
            return context.get_dummy_value()

        return signature, generate

    return blur_chains


def add_messages_of(width: int) -> Any:
    """Returns an intrinsic that adds the messages of both kernels to one pixel."""

    @intrinsic
    def add_messages(context, near, place, alike, column, near_weight, alike_weight):
        """Sets near[place] = near_weight · near[place] + alike_weight · alike[column]."""
        signature = types.void(near, types.int64, alike, types.int64, types.float32, types.float32)

        def generate(context, builder, signature, arguments):
            near, alike = (
                _place(builder, _data(context, builder, signature, arguments, position), arguments[position + 1], width)
                for position in (0, 2)
            )
            near_weight, alike_weight = (_splat(builder, arguments[position], width) for position in (4, 5))
            total = builder.fmul(builder.load(near, align=4), near_weight, flags=["fast"])
            product = builder.fmul(builder.load(alike, align=4), alike_weight, flags=["fast"])
            builder.store(builder.fadd(total, product, flags=["fast"]), near, align=4)
            return context.get_dummy_value()

        return signature, generate

    return add_messages


def weigh_of(width: int) -> Any:
    """Returns an intrinsic that computes one pixel's beliefs before their normalisation."""

    @intrinsic
    def weigh(context, out, place, unary, messages, there):
        """Sets out[place] = unary[place] · e^messages[there]; returns the sum over the columns.

        The error of the exponential is at most 2 units in the last place for messages from −80 to 80 (Cephes' expf).
        """
        signature = types.float32(out, types.int64, unary, messages, types.int64)

        def generate(context, builder, signature, arguments):
            def plus(a: Any, b: Any) -> Any:
                return builder.fadd(a, b, flags=["contract"])

            def times(a: Any, b: Any) -> Any:
                return builder.fmul(a, b, flags=["contract"])

            def at(position: int, offset: Any) -> Any:
                return _place(builder, _data(context, builder, signature, arguments, position), offset, width)

            def each(value: float) -> Any:
                return _each(value, width)

            whole = ir.VectorType(ir.IntType(32), width)
            mantissa = ir.Constant(whole, [23] * width)
            x = builder.load(at(3, arguments[4]), align=4)
            # Rounds to the nearest integer: adds 127.5, which makes the number positive, and truncates.
            biased = builder.fptosi(plus(times(x, each(1.44269504)), each(127.5)), whole)
            rounded = plus(builder.sitofp(biased, _vector_of(width)), each(-127.0))
            x = plus(plus(x, times(rounded, each(-0.693359375))), times(rounded, each(2.12194440e-4)))
            y = each(1.9875691500e-4)
            for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
                y = plus(times(y, x), each(coefficient))
            y = plus(plus(times(times(y, x), x), x), each(1.0))
            scale = builder.bitcast(builder.shl(biased, mantissa), _vector_of(width))
            y = times(times(y, scale), builder.load(at(2, arguments[1]), align=4))
            builder.store(y, at(0, arguments[1]), align=4)
            return _sum_of(builder, y, width)

        return signature, generate

    return weigh


def share_out_of(width: int) -> Any:
    """Returns an intrinsic that scales one pixel's beliefs to a sum of 1."""

    @intrinsic
    def share_out(context, out, place, share, messages, there, peaks, column):
        """Sets out[place] *= share and peaks[column] = max(peaks[column], out[place] · messages[there])."""
        signature = types.void(out, types.int64, types.float32, messages, types.int64, peaks, types.int64)

        def generate(context, builder, signature, arguments):
            out, messages, peaks = (
                _place(builder, _data(context, builder, signature, arguments, position), offset, width)
                for position, offset in ((0, arguments[1]), (3, arguments[4]), (5, arguments[6]))
            )
            belief = builder.fmul(builder.load(out, align=4), _splat(builder, arguments[2], width))
            builder.store(belief, out, align=4)
            change = builder.fmul(belief, builder.load(messages, align=4))
            before = builder.load(peaks, align=4)
            largest = builder.select(builder.fcmp_ordered(">", change, before), change, before)
            builder.store(largest, peaks, align=4)
            return context.get_dummy_value()

        return signature, generate

    return share_out


def _sum_of(builder: Any, vector: Any, width: int) -> Any:
    """Builds the sum of a vector's lanes."""
    name = f"llvm.vector.reduce.fadd.v{width}f32"
    kind = ir.FunctionType(_FLOAT, [_FLOAT, _vector_of(width)])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, [ir.Constant(_FLOAT, 0.0), vector], fastmath=["reassoc"])


def prefetch_of() -> Any:
    """Returns an intrinsic that prefetches memory."""

    @intrinsic
    def ask(context, array, place):
        """Prefetches array[place]; without prefetching, loops over scattered rows would wait for memory at each row."""
        signature = types.void(array, types.int64)

        def generate(context, builder, signature, arguments):
            data = _data(context, builder, signature, arguments, 0)
            _ask_for(builder, builder.gep(data, [arguments[1]]))
            return context.get_dummy_value()

        return signature, generate

    return ask


_add, _blur, _messages, _weigh, _share, _ask = (
    add_rows_of(4), blur_chains_of(4), add_messages_of(4), weigh_of(4), share_out_of(4), prefetch_of(),
)  # fmt: skip


def _all_once(values, chains, indices, weights, out, peaks):
    _ask(values, 0)
    _blur(values, chains, 0, chains.size)
    _add(out, 0, values, 0, 4, indices, weights, 0, indices.size)
    _messages(out, 0, values, 4, np.float32(0.5), np.float32(2.0))
    total = _weigh(out, 4, values, out, 0)
    _share(out, 4, np.float32(1.0) / total, values, 8, peaks, 0)
    return total


def works() -> bool:
    """Returns whether this version of numba compiles the instructions and the loops compute correct results."""
    rng = np.random.default_rng(0)
    values, weights = rng.uniform(-1, 1, 16).astype(np.float32), rng.uniform(0, 1, 3).astype(np.float32)
    chains, indices = np.array([0, 2, ~1, ~3], np.int32), np.array([3, 0, 1], np.int32)
    out, peaks = np.zeros(8, np.float32), np.full(4, -9, np.float32)
    rows = values.reshape(4, 4).astype(float)
    rows[[0, 2, 1]] += (np.pad(rows[[2, 1]], ((0, 1), (0, 0))) + np.pad(rows[[0, 2]], ((1, 0), (0, 0)))) / 2
    messages = 0.5 * weights @ rows[indices] + 2 * rows[1]
    beliefs = rows[1] * np.exp(messages)
    shares = beliefs / beliefs.sum()
    try:
        total = _compiled(_all_once)(values, chains, indices, weights, out, peaks)
    except Exception:  # another version of numba or llvmlite may raise any error
        return False
    found = (values, out[:4], out[4:], peaks, total)
    expected = (rows.ravel(), messages, shares, shares * rows[2], beliefs.sum())
    return all(np.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(found, expected, strict=True))


def _compiled(function: Any) -> Any:
    try:
        return njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # no cache folder is writable
        return njit(error_model="numpy")(function)

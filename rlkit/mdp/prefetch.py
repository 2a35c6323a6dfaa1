"""`prefetch(array, i)` for compiled kernels: ask for array[i] some time before it is needed.

Reading a model in another order than it is stored in, a processor waits for memory most of the
time, unless it is told early enough what comes next.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


def _prefetch(typing_context: Any, array: Any, i: Any) -> Any:
    """Nothing but a hint; i may even lie outside the array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, i_type = signature.args
        data = context.make_array(array_type)(context, builder, arguments[0]).data
        offset = context.cast(builder, arguments[1], i_type, types.intp)
        address = builder.bitcast(builder.gep(data, [offset]), cgutils.voidptr_t)
        i32 = ir.IntType(32)
        hint: Any = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module,
            ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, i32, i32, i32]),
            "llvm.prefetch.p0",
        )
        builder.call(hint, [address, i32(0), i32(3), i32(1)])  # read, keep, data
        return context.get_dummy_value()

    return types.void(array, i), generate


prefetch: Any = intrinsic(_prefetch)

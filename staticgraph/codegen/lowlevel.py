"""What the launcher's loop needs beyond Python arithmetic: memory words, atomics, C calls, a clock.

All intrinsics take and return int64; addresses are int64.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

WORD, INT, BYTE, VOID = ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.VoidType()
POINTER = ir.PointerType()
ARCHITECTURE = llvm.get_process_triple().split("-")[0]

#: Marks a function that others of the same source call. `direct` lowers it in place and needs no
#: mark; Numba's own pipeline compiles only functions that are registered with it.
part = register_jitable(error_model="numpy")


def _define(arity: int) -> Callable:
    """An intrinsic of `arity` int64s from `emit(builder, *args) -> value or None`."""

    def decorate(emit: Callable) -> Any:
        signature = types.int64(*[types.int64] * arity)

        def generate(context, builder, sig, args):
            value = emit(builder, *args)
            return ir.Constant(WORD, 0) if value is None else value

        parameters = ", ".join(f"a{k}" for k in range(arity))
        scope = {"rule": (signature, generate)}
        exec(f"def {emit.__name__}(typing_context, {parameters}):\n    return rule", scope)
        return intrinsic(scope[emit.__name__])

    return decorate


def _at(b: ir.IRBuilder, address: ir.Value, index: ir.Value | None = None) -> ir.Value:
    if index is not None:
        address = b.add(address, b.shl(index, ir.Constant(WORD, 3)))
    return b.inttoptr(address, WORD.as_pointer())


def _c_function(b: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
    known = b.module.globals.get(name)
    return known or ir.Function(b.module, ir.FunctionType(result, arguments), name)


# -- memory ---------------------------------------------------------------------------------------
@_define(2)
def word(b, address, index):
    return b.load(_at(b, address, index), align=8)


@_define(3)
def put(b, address, index, value):
    b.store(value, _at(b, address, index), align=8)


@_define(1)
def byte(b, address):
    return b.zext(b.load(b.inttoptr(address, BYTE.as_pointer())), WORD)


@_define(3)
def copy_bytes(b, target, source, count):
    function = _c_function(b, "memcpy", POINTER, POINTER, POINTER, WORD)
    b.call(function, [b.inttoptr(target, POINTER), b.inttoptr(source, POINTER), count])


@_define(2)
def zero_bytes(b, target, count):
    function = _c_function(b, "memset", POINTER, POINTER, INT, WORD)
    b.call(function, [b.inttoptr(target, POINTER), ir.Constant(INT, 0), count])


# -- atomics --------------------------------------------------------------------------------------
@_define(2)
def atomic_word(b, address, index):
    return b.load_atomic(_at(b, address, index), "seq_cst", 8)


@_define(3)
def atomic_put(b, address, index, value):
    b.store_atomic(value, _at(b, address, index), "seq_cst", 8)


@_define(3)
def atomic_add(b, address, index, value):
    """The word before `value` was added."""
    return b.atomic_rmw("add", _at(b, address, index), value, "seq_cst")


@_define(4)
def exchange_if(b, address, index, expected, value):
    """1 if the word was `expected` and is now `value`."""
    pair = b.cmpxchg(_at(b, address, index), expected, value, "seq_cst", "seq_cst")
    return b.zext(b.extract_value(pair, 1), WORD)


# -- calls ----------------------------------------------------------------------------------------
def _call_address(b: ir.IRBuilder, address: ir.Value, result: ir.Type, args: tuple) -> ir.Value:
    kind = ir.FunctionType(result, [WORD] * len(args))
    return b.call(b.inttoptr(address, kind.as_pointer()), args)


@_define(5)
def call_kernel(b, address, lo, hi, bufs, scratch):
    _call_address(b, address, VOID, (lo, hi, bufs, scratch))


@_define(4)
def call_poll(b, address, frame, gil, may_signal):
    return _call_address(b, address, WORD, (frame, gil, may_signal))


def _define_c(name: str, arity: int, returns: bool) -> Any:
    """The C function `name` of words; it returns a word, or its result is of no interest."""

    def emit(b, *args):
        function = _c_function(b, name, WORD if returns else VOID, *[WORD] * arity)
        value = b.call(function, args)
        return value if returns else None

    emit.__name__ = name
    return _define(arity)(emit)


mutex_lock = _define_c("pthread_mutex_lock", 1, False)
mutex_unlock = _define_c("pthread_mutex_unlock", 1, False)
condition_wait = _define_c("pthread_cond_wait", 2, False)
condition_signal = _define_c("pthread_cond_signal", 1, False)
yield_core = _define_c("sched_yield", 0, False)

release_gil = _define_c("PyEval_SaveThread", 0, True)
acquire_gil = _define_c("PyEval_RestoreThread", 1, False)
int_of_object = _define_c("PyLong_AsLongLong", 1, True)
object_of_int = _define_c("PyLong_FromLongLong", 1, True)
exception_set = _define_c("PyErr_Occurred", 0, True)


@_define(0)
def check_signals(b):
    """Run pending Python signal handlers (with the GIL); non-zero if one raised."""
    return b.sext(b.call(_c_function(b, "PyErr_CheckSignals", INT), []), WORD)


# -- time and the processor -----------------------------------------------------------------------
@_define(0)
def now(b):
    """Nanoseconds of CLOCK_MONOTONIC, the clock of `time.perf_counter_ns` on Linux."""
    pair = cgutils.alloca_once(b, ir.ArrayType(WORD, 2))  # once: in a loop the stack would grow
    function = _c_function(b, "clock_gettime", INT, INT, POINTER)
    start = b.bitcast(pair, POINTER)
    b.call(function, [ir.Constant(INT, time.CLOCK_MONOTONIC), start])
    seconds, rest = (b.extract_value(b.load(pair), k) for k in (0, 1))
    return b.add(b.mul(seconds, ir.Constant(WORD, 1_000_000_000)), rest)


@_define(0)
def pause(b):
    """Tell the core that this is a spin loop."""
    if ARCHITECTURE == "x86_64":
        b.call(_c_function(b, "llvm.x86.sse2.pause", VOID), [])
    elif ARCHITECTURE == "aarch64":
        b.call(_c_function(b, "llvm.aarch64.hint", VOID, INT), [ir.Constant(INT, 1)])


@_define(1)
def set_float_mode(b, mode):
    """Set the float control word and return the old one (x86-64; elsewhere nothing happens).

    A library built with fast-math may have left a thread flushing denormals to zero; results must
    not depend on which thread computed a tile.
    """
    if ARCHITECTURE != "x86_64":
        return mode
    cell = cgutils.alloca_once(b, INT)
    where = b.bitcast(cell, POINTER)
    b.call(_c_function(b, "llvm.x86.sse.stmxcsr", VOID, POINTER), [where])
    old = b.zext(b.load(cell), WORD)
    b.store(b.trunc(mode, INT), cell)
    b.call(_c_function(b, "llvm.x86.sse.ldmxcsr", VOID, POINTER), [where])
    return old

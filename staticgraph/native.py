"""Machine code of this process: the host as LLVM sees it, object files, linking, disassembly.

Only llvmlite is imported here, never Numba: a program whose kernels are all in the cache starts
without paying for a compiler (30 cached kernels link in 1 ms; importing Numba takes 200 ms).
Objects go through ORC's JITLink, which lays one object out in one block of memory (so the small
code model is safe) and reports an unresolved symbol or a torn file as an error; MCJIT aborts.

LLVM's global context serves throughout: llvmlite locks around each call into LLVM, and a context of
one's own may be freed before the modules in it when the garbage collector meets both.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from collections.abc import Iterable
from typing import TypeVar

import llvmlite.binding as llvm
from llvmlite.binding import newpassmanagers as passes

from staticgraph import lapack

Owner = TypeVar("Owner")
REGISTER_TILE = '@"sg_tile_'  # how a function of codegen/microkernel.py appears in assembly

_library_numbers = itertools.count()


class LinkError(RuntimeError):
    """Object code that cannot be made runnable: torn, or calling a symbol nobody defines."""


@functools.cache
def host() -> tuple[str, str]:
    """Name and feature string of the CPU to compile for (NUMBA_CPU_NAME and _FEATURES override)."""
    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        generic = name.lower() == "generic"
        features = "" if generic else llvm.get_host_cpu_features().flatten()
    return name, features


@functools.cache
def target_machine() -> llvm.TargetMachine:
    """Position-independent code for this CPU, constants addressed relative to the code.

    LLVM's default for JIT code is the large model, where each constant of a polynomial first needs
    its 64-bit address in a register.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    name, features = host()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    return target.create_target_machine(
        cpu=name, features=features, opt=3, reloc="pic", codemodel="small"
    )


def optimise(text: str, name: str, libraries: Iterable[bytes], keep: str) -> llvm.ModuleRef:
    """Optimise LLVM assembly, together with the bitcode it calls, for the function `keep`."""
    module = llvm.parse_assembly(text)
    for bitcode in libraries:
        module.link_in(llvm.parse_bitcode(bitcode))
    module.name = name
    module.verify()
    for function in module.functions:
        if not function.is_declaration and function.name != keep:
            function.linkage = "internal"
    tuning = passes.create_pipeline_tuning_options(speed_level=2)
    # Kernels are explicit SIMD: the vectorizers would cost time, and results could depend on them.
    tuning.loop_vectorization = False
    tuning.slp_vectorization = False
    tuning.loop_interleaving = False
    builder = passes.create_pass_builder(target_machine(), tuning)
    contraction = REGISTER_TILE in text
    manager = _short_pipeline(module) if contraction else builder.getModulePassManager()
    manager.run(module, builder)
    return module


def _short_pipeline(module: llvm.ModuleRef) -> passes.ModulePassManager:
    """For contractions, which spend their time in register tiles that are in their final form.

    LLVM's full pipeline takes 38 ms for a matmul with an epilogue, this one 12, and the result runs
    as fast. It has no inliner that weighs; what is not marked to stay out of line goes in.
    """
    for function in module.functions:
        if not function.is_declaration and not any(b"noinline" in a for a in function.attributes):
            function.add_function_attribute("alwaysinline")
    manager = passes.create_new_module_pass_manager()
    manager.add_always_inliner_pass()
    manager.add_global_dead_code_eliminate_pass()
    manager.add_sroa_pass()
    manager.add_instruction_combine_pass()
    manager.add_simplify_cfg_pass()
    manager.add_loop_rotate_pass()
    manager.add_new_gvn_pass()
    manager.add_loop_simplify_pass()
    manager.add_lcssa_pass()
    manager.add_loop_unroll_pass()
    manager.add_instruction_combine_pass()
    manager.add_simplify_cfg_pass()
    return manager


def object_code(module: llvm.ModuleRef) -> bytes:
    return target_machine().emit_object(module)


def assembly(bitcode: bytes) -> str:
    """Assembly text of an optimised module."""
    return target_machine().emit_assembly(llvm.parse_bitcode(bitcode))


def llvm_text(bitcode: bytes) -> str:
    return str(llvm.parse_bitcode(bitcode))


@functools.cache
def _linker() -> llvm.LLJIT:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return immortal(llvm.create_lljit_compiler(None, use_jit_link=True, suppress_errors=True))


def immortal(owner: Owner) -> Owner:
    """Never let `owner` be freed: code may be called to the process's very end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))
    return owner


def link(objects: dict[str, bytes]) -> dict[str, int]:
    """Address of each symbol, which the object code beside it defines. The code stays forever."""
    builder = llvm.JITLibraryBuilder()
    for symbol, code in objects.items():
        builder.add_object_img(code)
        builder.export_symbol(symbol)
    for name, address in lapack.symbols(b"\0".join(objects.values())).items():
        builder.import_symbol(name, address)
    builder.add_current_process()
    try:
        tracker = builder.link(_linker(), f"staticgraph-{next(_library_numbers)}")
    except RuntimeError as error:
        raise LinkError(f"cannot link {', '.join(objects)}: {error}") from None
    immortal(tracker)
    return {symbol: tracker[symbol] for symbol in objects}

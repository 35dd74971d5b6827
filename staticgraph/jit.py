"""From generated Python source to LLVM assembly.

`direct` takes what kernels are usually made of. For the rest there is Numba's own pipeline, cut
down: kernels have no arrays, objects or exceptions, so that most passes (inlining, rewrites,
literal unrolling, parfors, object mode) would have nothing to do. In both cases one small C entry
replaces Numba's wrappers, and LLVM optimises once, not twice.

Importing this module imports Numba; only a kernel that is in no cache needs it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from llvmlite import ir as llvmir
from numba.core import compiler, ir, lowering, typed_passes, types, untyped_passes
from numba.core.codegen import CodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import AnalysisPass, PassManager, register_pass
from numba.core.registry import cpu_target

from staticgraph import direct
from staticgraph.meanings import Meanings, Unsupported

RAISES = (ir.Raise, ir.StaticRaise, ir.DynamicRaise, ir.TryRaise)


class UnsupportedSource(ValueError):
    """Generated source that a kernel cannot be made of."""


class _RememberingTypes:
    """Numba's typing context, with each question answered once per process.

    A kernel asks the same few questions hundreds of times (`f32 vector * f32 vector`), and Numba
    tries every registered overload each time: 0.5 ms per operation without this.
    """

    def __init__(self, context: Any):
        self._context = context
        self._answers: dict[tuple, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, args: tuple, kws: dict) -> Any:
        question = (function, args, tuple(kws.items()))
        answer = self._answers.get(question)
        if answer is None:
            answer = self._context.resolve_function_type(function, args, kws)
            if answer is not None:
                self._answers[question] = answer
        return answer


class _ModuleOnly(CodeLibrary):
    """Where lowering leaves its LLVM module; optimising and linking happen elsewhere."""

    def __init__(self, codegen: Any, name: str):
        super().__init__(codegen, name)
        self.module: llvmir.Module | None = None
        self.libraries: list[CodeLibrary] = []

    def add_ir_module(self, ir_module: llvmir.Module) -> None:
        self.module = ir_module

    def add_linking_library(self, library: CodeLibrary) -> None:
        self.libraries.append(library)

    def finalize(self) -> None:
        raise NotImplementedError

    get_function = get_llvm_str = get_asm_str = finalize


class _Lower(lowering.Lower):
    """Lowering that takes operators' signatures from typing instead of resolving them again."""

    def lower_binop(self, resty: types.Type, expr: ir.Expr, op: Callable) -> Any:
        signature = self.fndesc.calltypes[expr]
        function = self.context.typing_context.resolve_value_type(op)
        try:
            emit = self.context.get_function(function, signature)
        except (KeyError, NotImplementedError):
            return super().lower_binop(resty, expr, op)
        operands = [
            self.context.cast(self.builder, self.loadvar(var.name), self.typeof(var.name), want)
            for var, want in zip((expr.lhs, expr.rhs), signature.args, strict=True)
        ]
        result = emit(self.builder, operands)
        return self.context.cast(self.builder, result, signature.return_type, resty)


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(typed_passes.NativeLowering):
    _name = "staticgraph_lowering"
    lowering_class = _Lower


@register_pass(mutates_CFG=False, analysis_only=True)
class _RefuseRaise(AnalysisPass):
    """Nobody could see an exception: a kernel runs without the GIL on any thread."""

    _name = "staticgraph_refuse_raise"

    def __init__(self):
        AnalysisPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        for block in state.func_ir.blocks.values():
            for statement in block.body:
                if isinstance(statement, RAISES):
                    raise UnsupportedSource(f"a kernel cannot raise ({statement.loc})")
        return False


class _Pipeline(compiler.CompilerBase):
    def define_pipelines(self) -> list[PassManager]:
        manager = PassManager("staticgraph")
        for step in (
            untyped_passes.TranslateByteCode,
            untyped_passes.FixupArgs,
            untyped_passes.IRProcessing,
            _RefuseRaise,
            untyped_passes.ReconstructSSA,
            typed_passes.NopythonTypeInference,
            typed_passes.PreLowerStripPhis,
            typed_passes.IRLegalization,
            _Lowering,
        ):
            manager.add_pass(step, step.__name__)
        manager.finalize()
        return [manager]


def _flags() -> compiler.Flags:
    flags = compiler.Flags()
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.no_rewrites = True
    flags.nrt = False
    flags.error_model = "numpy"
    return flags


_types = _RememberingTypes(cpu_target.typing_context)
_meanings = Meanings(compiler._make_subtarget(cpu_target.target_context, _flags()))
_meanings.context.typing_context = _meanings.typing


@global_compiler_lock
def lower(
    tree: ast.Module, namespace: dict[str, Any], entry: str, arity: int, symbol: str
) -> tuple[str, list[bytes]]:
    """LLVM assembly that defines `symbol`, and the bitcode of other Numba functions it calls.

    The function `entry` of the module takes `arity` 64-bit integers and returns nothing or one; so
    does `symbol`, by the C calling convention.
    """
    try:
        library = lower_directly(tree, namespace, entry, arity, symbol)
    except Exception:  # whatever it was, Numba's own pipeline decides, and words the error
        library = lower_by_numba(namespace[entry], arity, symbol)
    return assembled(library)


@global_compiler_lock
def assembled(library: _ModuleOnly) -> tuple[str, list[bytes]]:
    """The assembly of a lowered module, and the bitcode of the libraries it calls."""
    linked = [other._get_module_for_linking().as_bitcode() for other in library.libraries]
    return str(library.module), linked


def lower_directly(
    tree: ast.Module, namespace: dict[str, Any], entry: str, arity: int, symbol: str
) -> _ModuleOnly:
    functions = direct.definitions(tree)
    definition = functions.pop(entry)
    context = _meanings.context
    library = _ModuleOnly(context.codegen(), symbol)
    module = library.module = library.create_ir_module(symbol)
    returns = direct.returns_value(definition)
    result, arguments = types.int64 if returns else types.none, (types.int64,) * arity
    kind = context.call_conv.get_function_type(result, arguments)
    inner = llvmir.Function(module, kind, f"{symbol}_body")
    builder = llvmir.IRBuilder(inner.append_basic_block("entry"))

    def leave(value: llvmir.Value | None) -> None:
        if returns and value is None:
            raise Unsupported("a function that returns a number or nothing")
        context.call_conv.return_value(builder, value or context.get_dummy_value())

    with context.push_code_library(library):
        words = context.call_conv.get_arguments(inner)
        direct.Function(definition, functions, namespace, words, builder, _meanings, leave)
    _add_entry(module, inner, symbol, returns=returns)
    return library


def lower_by_numba(function: Callable, arity: int, symbol: str) -> _ModuleOnly:
    target = cpu_target.target_context
    library = _ModuleOnly(target.codegen(), symbol)
    pipeline = _Pipeline(
        cpu_target.typing_context, target, library, (types.int64,) * arity, None, _flags(), {}
    )
    pipeline.state.typingctx = _types
    pipeline.state.targetctx.typing_context = _types
    lowered = pipeline.compile_extra(function).fndesc
    returned = types.unliteral(lowered.restype)
    if returned not in (types.none, types.int64):
        raise UnsupportedSource(f"a kernel returns nothing or an int64, not {returned}")
    inner = library.module.globals[lowered.llvm_func_name]
    _add_entry(library.module, inner, symbol, returns=returned == types.int64)
    return library


def _add_entry(
    module: llvmir.Module, inner: llvmir.Function, symbol: str, *, returns: bool
) -> None:
    """A C function around Numba's own convention of (result, exception, arguments...) -> status."""
    inner.linkage = "internal"
    inner.attributes.add("alwaysinline")
    for name, value in module.globals.items():
        if name.startswith("_ZN08NumbaEnv"):
            value.linkage = "internal"
            value.initializer = llvmir.Constant(value.value_type, None)
    word = llvmir.IntType(64)
    result_type = word if returns else llvmir.VoidType()
    entry = llvmir.Function(
        module, llvmir.FunctionType(result_type, [word] * (len(inner.args) - 2)), symbol
    )
    entry.attributes.add("nounwind")
    builder = llvmir.IRBuilder(entry.append_basic_block("entry"))
    result, exception = (
        builder.bitcast(builder.alloca(word), argument.type) for argument in inner.args[:2]
    )
    builder.call(inner, [result, exception, *entry.args])
    if returns:
        builder.ret(builder.load(builder.bitcast(result, word.as_pointer())))
    else:
        builder.ret_void()

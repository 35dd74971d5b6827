"""From generated Python source to LLVM assembly, through a cut-down Numba pipeline.

Kernels are straight code over integers and `Vec` values: no arrays, no objects, no exceptions. So
most of Numba's passes have nothing to do (inlining, rewrites, literal unrolling, parfors, object
mode), and its double optimisation and wrappers are replaced by one small C entry. Measured on two
hundred vector operations: 268 ms with `cfunc`, 50 ms here, of which LLVM takes 9.

Importing this module imports Numba; only a kernel that is in no cache needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir as llvmir
from numba.core import compiler, ir, lowering, typed_passes, types, untyped_passes
from numba.core.codegen import CodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import AnalysisPass, PassManager, register_pass
from numba.core.registry import cpu_target

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


@global_compiler_lock
def lower(function: Callable, arity: int, symbol: str) -> tuple[str, list[bytes]]:
    """LLVM assembly that defines `symbol`, and the bitcode of other Numba functions it calls.

    `function` takes `arity` 64-bit integers and returns nothing or one; so does `symbol`, by the
    C calling convention.
    """
    target = cpu_target.target_context
    library = _ModuleOnly(target.codegen(), symbol)
    pipeline = _Pipeline(
        cpu_target.typing_context, target, library, (types.int64,) * arity, None, _flags(), {}
    )
    pipeline.state.typingctx = _types
    pipeline.state.targetctx.typing_context = _types
    lowered = pipeline.compile_extra(function)
    returned = types.unliteral(lowered.fndesc.restype)
    if returned not in (types.none, types.int64):
        raise UnsupportedSource(f"a kernel returns nothing or an int64, not {returned}")
    _add_entry(library.module, lowered.fndesc, symbol, returns=returned == types.int64)
    text = str(library.module)
    return text, [lib._get_module_for_linking().as_bitcode() for lib in library.libraries]


def _add_entry(module: llvmir.Module, description: Any, symbol: str, *, returns: bool) -> None:
    """A C function around Numba's own convention of (result, exception, arguments...) -> status."""
    inner = module.globals[description.llvm_func_name]
    inner.linkage = "internal"
    inner.attributes.add("alwaysinline")
    for name, value in module.globals.items():
        if name.startswith("_ZN08NumbaEnv"):
            value.linkage = "internal"
            value.initializer = llvmir.Constant(value.value_type, None)
    word = llvmir.IntType(64)
    result_type = word if returns else llvmir.VoidType()
    kind = llvmir.FunctionType(result_type, [word] * len(description.argtypes))
    entry = llvmir.Function(module, kind, symbol)
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

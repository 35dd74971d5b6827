"""The child process of `remarks`: compiles the kernel on stdin; LLVM prints to stderr."""

from __future__ import annotations

import ast
import sys

import llvmlite.binding as llvm

from staticgraph import jit, native

# Spills and stack of the register allocator, and what became of loops. The vectorizers are off.
OPTIONS = (
    "--pass-remarks=loop-unroll|loop-vectorize",
    "--pass-remarks-missed=regalloc|loop-vectorize",
    "--pass-remarks-analysis=asm-printer|prologepilog|loop-vectorize",
)


def main() -> None:
    entry, symbol = sys.argv[1], "kernel"
    text = sys.stdin.read()
    namespace = {"__name__": "kernel", "__file__": "kernel.py"}
    tree = ast.parse(text)
    exec(compile(tree, "kernel.py", "exec"), namespace)
    lowered, libraries = jit.lower(tree, namespace, entry, 4, symbol)
    for option in OPTIONS:
        llvm.set_option("staticgraph", option)
    native.object_code(native.optimise(lowered, entry, libraries, keep=symbol))


if __name__ == "__main__":
    main()

"""The kernels by hand: for each op that no nest says well, the function that writes its kernels.

`generate(types of operands, types of results, *, name, **attributes)` gives the kernels in order
and the bytes of the workspaces between them.
"""

from __future__ import annotations

from collections.abc import Callable

from staticgraph.byhand import decompose, linalg, scan, scatter, sort, topk
from staticgraph.codegen.cpu import Kernels

BY_HAND: dict[str, Callable[..., Kernels]] = {
    **{op: scan.scan(op) for op in ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp")},
    "cholesky_factor": linalg.cholesky_factor,
    "eigh": decompose.eigh,
    "eigvalsh": decompose.eigvalsh,
    "last_writer": scatter.last_writer,
    "linear_scan": scan.linear_scan,
    "lu_factor": linalg.lu_factor,
    "lu_inverse": linalg.lu_inverse,
    "lu_solve": linalg.lu_solve,
    "qr": decompose.qr,
    "scatter_add": scatter.scatter_add,
    "sort": sort.sort,
    "svd": decompose.svd,
    "svdvals": decompose.svdvals,
    "triangular_solve": linalg.triangular_solve,
    "top_k": topk.top_k,
    "unsort": sort.unsort,
}

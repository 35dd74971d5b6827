"""The kernels by hand: for each op that no nest says well, the function that writes its kernels.

`generate(types of operands, types of results, *, name, **attributes)` gives the kernels in order
and the bytes of the workspaces between them.
"""

from __future__ import annotations

from collections.abc import Callable

from staticgraph.byhand import (
    attention,
    attentiongrad,
    decompose,
    fft,
    linalg,
    scan,
    scatter,
    sort,
    topk,
)
from staticgraph.codegen.spec import Kernels

BY_HAND: dict[str, Callable[..., Kernels]] = {
    "attention": attention.attention,
    "attention_grad": attentiongrad.attention_grad,
    "cholesky_factor": linalg.cholesky_factor,
    "cummax": scan.scan("max", "maximum({0}, {1})"),
    "cummin": scan.scan("min", "minimum({0}, {1})"),
    "cumprod": scan.scan("prod", "{0} * {1}", carry="f64"),
    "cumsum": scan.scan("sum", "{0} + {1}", carry="f64"),
    "eigh": decompose.eigh,
    "eigvalsh": decompose.eigvalsh,
    "fft": fft.fft,
    "irfft": fft.irfft,
    "last_writer": scatter.last_writer,
    "linear_scan": scan.linear_scan,
    "logcumsumexp": scan.scan("", "logaddexp({0}, {1})", carry="f64"),
    "lu_factor": linalg.lu_factor,
    "lu_inverse": linalg.lu_inverse,
    "lu_solve": linalg.lu_solve,
    "qr": decompose.qr,
    "rfft": fft.rfft,
    "scatter_add": scatter.scatter_add,
    "sort": sort.sort,
    "svd": decompose.svd,
    "svdvals": decompose.svdvals,
    "triangular_solve": linalg.triangular_solve,
    "top_k": topk.top_k,
    "unsort": sort.unsort,
}

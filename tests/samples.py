"""All rows of the op tables: see `sampling` for what a row is.

Every op in OPS and every public function of `staticgraph.ops` appears here, which a test enforces.
"""

from samples_layers import LAYERS
from samples_math import MATH
from sampling import Sample

SAMPLES: list[Sample] = [*MATH, *LAYERS]

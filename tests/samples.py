"""All rows of the op tables: see `sampling` for what a row is.

Every op in OPS and every public function of `staticgraph.ops` appears here, which a test enforces.
"""

from samples_catalogue import CATALOGUE
from samples_contract import CONTRACT
from samples_fft import FFT
from samples_layers import LAYERS
from samples_linalg import LINALG
from samples_math import MATH
from samples_order import ORDER
from samples_windows import WINDOWS
from sampling import Sample

SAMPLES: list[Sample] = [*CATALOGUE, *CONTRACT, *FFT, *MATH, *LAYERS, *LINALG, *ORDER, *WINDOWS]

"""fastcorr: N-d cross-correlation and convolution of NumPy arrays at the CPU's full speed.

    correlate, convolve              signal.py     arguments in
      -> call                        _call.pyx     a repeated problem goes straight to its Runner
           -> Problem                problem.py    what is to be computed; every user error
           -> Plan                   planner.py    which method, and why not the others
      -> Runner.run                  _call.pyx     casts, allocates, chooses threads
           -> Plane.run              kernels/<isa>/<element>/plane     the loops; kernels/tile.pxd multiplies
              Spectrum, Separable                          spectrum, separable

    conv, conv_transpose, local_conv and every gradient        nn.py, gradients.py; layers.py keeps weights
      -> Contraction                 contraction.py    which array of <g, conv(x, w)> from the other two
      -> contract                    layer_methods.py  direct, with fewer products, by Fourier transform, or as defined
           -> Dense, Depth,          kernels/<isa>/<element>/dense, depth, weights, local, winograd, frequency
              Weights, Local,
              Winograd, Frequency

    match_template                   template.py   a correlation by the first path, over the spread of each window
      -> Windows                     kernels/<isa>/float64/windows

reference.py is the definition; boundary.py, threads.py and isa.py say how signals go on past their ends, how many
threads a call may use and which instruction set it runs on.
"""

from .config import show_config
from .gradients import (
    conv_transpose_vjp,
    conv_vjp,
    convolve_vjp,
    correlate_vjp,
    local_conv_vjp,
)
from .nn import conv, conv_transpose, local_conv
from .planner import Plan, plan
from .signal import convolve, correlate, correlation_lags
from .template import match_template
from .threads import get_num_threads, num_threads, set_num_threads

__version__ = "0.1.0"  # read by pyproject.toml; importlib.metadata would cost an import 15 ms

__all__ = [
    "Plan",
    "conv",
    "conv_transpose",
    "conv_transpose_vjp",
    "conv_vjp",
    "convolve",
    "convolve_vjp",
    "correlate",
    "correlate_vjp",
    "correlation_lags",
    "get_num_threads",
    "local_conv",
    "local_conv_vjp",
    "match_template",
    "num_threads",
    "plan",
    "set_num_threads",
    "show_config",
]

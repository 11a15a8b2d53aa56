"""What this installation is and what it found."""

import numpy as np

from . import _cpu, isa, threads


def show_config() -> None:
    """Print version, compiler, OpenMP, instruction-set levels and threads.

    Examples
    --------
    >>> import fastcorr
    >>> fastcorr.show_config()  # doctest: +ELLIPSIS
    fastcorr ...
    """
    from . import __version__

    openmp = f"yes (specification {_cpu.OPENMP})" if _cpu.OPENMP else "no: one thread"
    print(f"fastcorr {__version__}, numpy {np.__version__}")
    print(f"compiler  {_cpu.COMPILER}")
    print(f"OpenMP    {openmp}")
    print(f"ISA       {isa.LEVEL} (built: {', '.join(isa.built())}; usable: {', '.join(isa.usable())})")
    print(f"threads   {threads.get_num_threads()}")
    print("FFT       its own: kernels/spectrum.pyx")

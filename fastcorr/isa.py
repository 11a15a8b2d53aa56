"""Which instruction-set level runs: the highest one that is built and that this processor has.

``FASTCORR_ISA`` names another; one that cannot run is an ImportError, never a silent fallback.
"""

import os
from glob import escape, iglob  # pathlib takes a quarter of the time of `import fastcorr`

from . import kernels
from ._cpu import X86_LEVEL


def built() -> tuple[str, ...]:
    """Levels this installation has kernels for, lowest first."""
    folder = os.path.dirname(kernels.__file__)
    return tuple(level for level in kernels.LEVELS if any(iglob(f"{escape(folder)}/{level}/*")))


def usable() -> tuple[str, ...]:
    """Built levels that this processor runs, lowest first."""
    return tuple(level for level in built() if kernels.NEEDS[level] <= X86_LEVEL)


def _choose() -> str:
    levels = usable()
    if not levels:
        raise ImportError(f"fastcorr has no kernels for this processor; built: {', '.join(built()) or 'none'}")
    wanted = os.environ.get("FASTCORR_ISA") or levels[-1]
    if wanted not in levels:
        raise ImportError(f"FASTCORR_ISA={wanted} cannot run here; usable levels are {', '.join(levels)}")
    return wanted


LEVEL = _choose()

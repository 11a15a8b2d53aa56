"""Builds the kernels: each .pyx is cythonized once, its C compiled once per instruction-set level and element type.

FASTCORR_OPENMP=0 leaves OpenMP out (it is left out by itself where the compiler has none).
"""

import copy
import os
import platform
import runpy
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

TABLE = runpy.run_path(str(Path(__file__).parent / "fastcorr" / "kernels" / "__init__.py"))
ON_X86 = platform.machine().lower() in ("x86_64", "amd64")
PLAIN = ("_cpu.pyx", "_call.pyx", "signal.py")  # no arithmetic: one build; signal.py saves a call 0.14 us as C
OPTIONS = {
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
}
# Kernels are called by fastcorr alone: no signatures, no pickles, 10 of the 58 kB of a module of layers.
BARE = {"binding": False, "auto_pickle": False}
# For modules that few run, integers and baseline: without what -O3 copies around the vector loops of tile.pxd and
# butterfly.pxd. Loops over samples ask for their vectors themselves: `eager_void` in simd.h.
LEAN = [
    "-fno-asynchronous-unwind-tables",
    "-fvect-cost-model=very-cheap",
    "-fno-unswitch-loops",
    "-fno-ipa-cp-clone",
    "-fno-split-paths",
    "-fno-split-loops",
    "-fno-version-loops-for-strides",
    "-fno-inline-functions",
    "--param=max-inline-insns-single=70",
    "--param=max-inline-insns-auto=15",
    "--param=inline-min-speedup=30",
]


def extensions():
    """One per plain module and one per (kernel, level), all from C that is generated once."""
    plain = [f"fastcorr/{name}" for name in PLAIN]
    kernels = sorted({f"fastcorr/kernels/{row.family}.pyx" for row in TABLE["KERNELS"]})
    modules = []
    for files, options in ((plain, OPTIONS), (kernels, OPTIONS | BARE)):
        group = [Extension(file.rpartition(".")[0].replace("/", "."), [file]) for file in files]
        modules += cythonize(group, compiler_directives=options, include_path=["."])
    built = []
    for module in modules:
        if module.name.startswith("fastcorr.kernels."):
            for row in TABLE["KERNELS"]:
                for level in TABLE["LEVELS"] if ON_X86 else ["baseline"]:
                    one = copy.copy(module)
                    one.name = f"fastcorr.kernels.{level}.{row.element}.{row.family}"
                    one.define_macros = [("REAL", row.ctype)]
                    if module.name.endswith("." + row.family):
                        built.append(one)
        else:
            built.append(module)
    return built


class BuildKernels(build_ext):
    """Compiles all side by side, each in a build directory of its own; levels the compiler lacks are left out."""

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        flags = ["/O2", "/std:c11"] if msvc else ["-O3", "-g0", "-fno-math-errno", "-fwrapv"]
        openmp = ["/openmp"] if msvc else ["-fopenmp"]
        if os.environ.get("FASTCORR_OPENMP") == "0" or not self.compiles(openmp, "#include <omp.h>"):
            openmp = []
        lean = LEAN if self.compiles(["-Werror", *LEAN], "") else []
        levels = {name for name, args in TABLE["LEVELS"].items() if not args or (not msvc and self.compiles(args, ""))}
        kept = []
        for ext in self.extensions:
            level, element = ext.name.split(".")[2:4] if ext.name.startswith("fastcorr.kernels.") else ("baseline", "")
            if level not in levels:
                continue
            ext.include_dirs = [numpy.get_include(), "fastcorr/kernels"]
            ext.define_macros = [*ext.define_macros, ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
            few = level == "baseline" or element.startswith("int")
            ext.extra_compile_args = flags + (lean if few else []) + openmp + TABLE["LEVELS"][level]
            ext.extra_link_args = [] if msvc else [*openmp, "-s"] if sys.platform == "linux" else openmp
            kept.append(ext)
        self.extensions = kept
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self.build_one, self.extensions))

    def build_one(self, ext):
        own = copy.copy(self)
        own.build_temp = str(Path(self.build_temp, ext.name))
        own.build_extension(ext)

    def copy_extensions_to_source(self):
        for ext in self.extensions:  # an editable install: the levels' folders are not in the tree
            Path(*ext.name.split(".")[:-1]).mkdir(parents=True, exist_ok=True)
        super().copy_extensions_to_source()

    def compiles(self, flags, code):
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text(code + "\nint probe(void) { return 0; }\n")
            try:
                self.compiler.compile([str(probe)], output_dir=folder, extra_postargs=flags)
            except CompileError:
                return False
            return True


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})

"""Builds the kernels: each .pyx is cythonized once, its C compiled once per instruction-set level and element type.

FASTCORR_OPENMP=0 leaves OpenMP out (it is left out by itself where the compiler has none). FASTCORR_LEVELS=native
builds the highest level of this machine alone, FASTCORR_LEVELS=baseline,x86_64_v3 these two.
"""

import copy
import os
import platform
import runpy
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, OptionError

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
# Kernels are called by fastcorr alone: no signatures, no pickles, 10 of the 58 kB of a module of layers; and no
# docstrings, which `Options` knows, 1 kB of each of 93 modules.
BARE = {"binding": False, "auto_pickle": False}
# -O3 without what it copies around the vector loops of tile.pxd and butterfly.pxd, a quarter of a module and of its
# compiling. -fno-tree-ch would save 9 % more, and 3 x 3 filters would take twice as long. Loops over samples ask for
# their vectors themselves: `eager_void` in simd.h.
LEAN = [
    "-fno-asynchronous-unwind-tables",
    "-fvect-cost-model=very-cheap",
    "-fno-tree-slp-vectorize",
    "-fno-thread-jumps",
    "-fno-caller-saves",
    "-freorder-blocks-algorithm=simple",
    "-fno-unswitch-loops",
    "-fno-ipa-cp-clone",
    "-fno-split-paths",
    "-fno-split-loops",
    "-fno-version-loops-for-strides",
    "-fno-inline-functions",
    "-fno-plt",
    "-falign-jumps=1",
    "--param=max-inline-insns-single=70",
    "--param=max-inline-insns-auto=15",
    "--param=inline-min-speedup=30",
]


def extensions():
    """One per plain module, and one per kernel, element and level."""
    built = [Extension(f"fastcorr.{name.partition('.')[0]}", [f"fastcorr/{name}"]) for name in PLAIN]
    for row in TABLE["KERNELS"]:
        for level in TABLE["LEVELS"] if ON_X86 else ["baseline"]:
            name = f"fastcorr.kernels.{level}.{row.element}.{row.family}"
            built.append(Extension(name, [f"fastcorr/kernels/{row.family}.pyx"], define_macros=[("REAL", row.ctype)]))
    return built


class BuildKernels(build_ext):
    """Each source becomes C once, whose variants compile side by side, while the next source becomes C."""

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        flags = ["/O2", "/std:c11"] if msvc else ["-O3", "-g0", "-fno-math-errno", "-fwrapv"]
        openmp = ["/openmp"] if msvc else ["-fopenmp"]
        if os.environ.get("FASTCORR_OPENMP") == "0" or not self.compiles(openmp, "#include <omp.h>"):
            openmp = []
        lean = LEAN if self.compiles(["-Werror", *LEAN], "") else []
        levels = self.levels(msvc)
        kept, variants = [], {}
        for ext in self.extensions:
            level = ext.name.split(".")[2] if ext.name.startswith("fastcorr.kernels.") else None
            if level and level not in levels:
                continue
            ext.include_dirs = [numpy.get_include(), "fastcorr/kernels"]
            ext.define_macros = [*ext.define_macros, ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
            if level:  # whole numbers from Python by its API alone: 2 kB less, and no loop has any
                ext.define_macros.append(("CYTHON_USE_PYLONG_INTERNALS", "0"))
            ext.extra_compile_args = flags + lean + openmp + TABLE["LEVELS"].get(level, [])
            ext.extra_link_args = [] if msvc else [*openmp, "-s"] if sys.platform == "linux" else openmp
            kept.append(ext)
            variants.setdefault(ext.sources[0], []).append(ext)
        self.extensions = kept
        with ThreadPoolExecutor(self.parallel or os.cpu_count()) as pool:
            builds = []
            for source, exts in variants.items():
                kernel = source.startswith("fastcorr/kernels/")
                options = OPTIONS | BARE if kernel else OPTIONS
                Options.docstrings = not kernel
                module = Extension(source.rpartition(".")[0].replace("/", "."), [source])
                (made,) = cythonize([module], compiler_directives=options, include_path=["."])
                for ext in exts:
                    ext.sources, ext.depends = made.sources, made.depends
                    builds.append(pool.submit(self.build_one, ext))
            for build in builds:
                build.result()

    def levels(self, msvc):
        """Of the levels that the compiler knows, those that FASTCORR_LEVELS names; all, if it is not set."""
        flags = {name: args for name, args in TABLE["LEVELS"].items() if not args or (ON_X86 and not msvc)}
        known = [name for name, args in flags.items() if not args or self.compiles(args, "")]
        wanted = os.environ.get("FASTCORR_LEVELS")
        if not wanted:
            return known
        names = wanted.split(",")
        if wanted == "native":
            mine = self.machine_level()
            names = [name for name in known if TABLE["NEEDS"][name] <= mine][-1:]
        if not set(names) <= set(known):
            raise OptionError(f"FASTCORR_LEVELS={wanted}: levels are native alone, or any of {', '.join(known)}")
        return names

    def machine_level(self):
        """What isa.py will find: the exit code of a program."""
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder, "level.c")
            program.write_text('#include "cpu.h"\nint main(void) { return x86_level(); }\n')
            objects = self.compiler.compile([str(program)], output_dir=folder, include_dirs=["fastcorr"])
            self.compiler.link_executable(objects, "level", output_dir=folder)
            return subprocess.call([Path(folder, "level")])

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

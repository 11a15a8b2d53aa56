"""Builds the kernels: each .pyx is cythonized once, its C compiled once per instruction-set level and element type.

The objects of a level and element are linked into one library, ``kernels/<level>/<element>``, with an init function of
each family: a symbol table less for each, and one copy of what families share, where the linker folds equal functions.

FASTCORR_OPENMP=0 leaves OpenMP out (it is left out by itself where the compiler has none). FASTCORR_LEVELS=native
builds the highest level of this machine alone, FASTCORR_LEVELS=baseline,x86_64_v3 these two.
"""

import os
import platform
import re
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
from setuptools.errors import CompileError, LinkError, OptionError
from setuptools.modified import newer_group

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
# Their side towards Python, by the names that Cython gives it, and the methods that lay out a call and start its loops
# run once per call: small, not fast. A tenth of a library.
GLUE = re.compile(
    r"^static (?=(?:int|void|PyObject \*) ?__pyx_(?:(?:pw|pf|tp)_|f_\w+\d[A-Z]\w+_run_(?:job|phase|weight)s?\())", re.M
)
# Equal functions once: those of line.pxd and tile.pxd are in most families, 11 % of a library.
FOLD = [["-fuse-ld=gold", "-Wl,--icf=safe"], ["-fuse-ld=lld", "-Wl,--icf=all,-z,keep-text-section-prefix"]]
# -O3 without what it copies around the vector loops of tile.pxd and butterfly.pxd, a quarter of a module and of its
# compiling. -fno-tree-ch would save 9 % more, and 3 x 3 filters would take twice as long. Loops over samples ask for
# their vectors themselves: `eager_void` in simd.h.
LEAN = [
    "-ffunction-sections",
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
    """One per plain module, and one per element and level: a library with the module of each family."""
    built = [Extension(f"fastcorr.{name.partition('.')[0]}", [f"fastcorr/{name}"]) for name in PLAIN]
    for level in TABLE["LEVELS"] if ON_X86 else ["baseline"]:
        families = {}
        for row in TABLE["KERNELS"]:
            families.setdefault((row.element, row.ctype), []).append(f"fastcorr/kernels/{row.family}.pyx")
        for (element, ctype), sources in families.items():
            built.append(Extension(f"fastcorr.kernels.{level}.{element}", sources, define_macros=[("REAL", ctype)]))
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
        link = [] if msvc else [*openmp, "-s"] if sys.platform == "linux" else openmp
        folds = FOLD if ON_X86 and sys.platform == "linux" else []  # elsewhere a wheel is small, with one level
        fold = next((flags for flags in folds if self.compiles([], "", flags)), [])
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
                ext.define_macros.append(("COLD", "" if msvc else "__attribute__((cold))"))
            ext.extra_compile_args = flags + lean + openmp + TABLE["LEVELS"].get(level, [])
            ext.extra_link_args = link + fold if level else link
            ext.export_symbols = [f"PyInit_{Path(source).stem}" for source in ext.sources]
            kept.append(ext)
            for source in ext.sources:
                variants.setdefault(source, []).append(ext)
        self.extensions = kept
        with ThreadPoolExecutor(self.parallel or os.cpu_count()) as pool:
            objects = {ext.name: [] for ext in kept}
            for source, exts in variants.items():
                made = self.make_c(source)
                for ext in exts:
                    objects[ext.name].append(pool.submit(self.compile_one, ext, made))
            for ext in kept:
                ext.extra_objects = [made.result() for made in objects[ext.name]]
                ext.sources, ext.depends = [], ext.extra_objects
                self.build_extension(ext)  # links

    def make_c(self, source):
        """An Extension of the C that Cython makes of `source`, and of what that depends on."""
        kernel = source.startswith("fastcorr/kernels/")
        Options.docstrings = not kernel
        module = Extension(source.rpartition(".")[0].replace("/", "."), [source])
        options = OPTIONS | BARE if kernel else OPTIONS
        (made,) = cythonize([module], compiler_directives=options, include_path=["."])
        path = Path(made.sources[0])
        text = path.read_text()
        if kernel and GLUE.search(text):  # not yet marked: Cython leaves the C of an unchanged source alone
            path.write_text(GLUE.sub("static COLD ", text))
        return made

    def compile_one(self, ext, made):
        """The object of one source for `ext`, made again if what it depends on is newer."""
        folder = str(Path(self.build_temp, ext.name))
        (target,) = self.compiler.object_filenames(made.sources, output_dir=folder)
        if self.force or newer_group([*made.sources, *made.depends], target):
            self.compiler.compile(
                made.sources,
                output_dir=folder,
                macros=ext.define_macros,
                include_dirs=ext.include_dirs,
                extra_postargs=ext.extra_compile_args,
            )
        return target

    def get_export_symbols(self, ext):
        return ext.export_symbols  # setuptools would add one by the name of the library

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

    def copy_extensions_to_source(self):
        for ext in self.extensions:  # an editable install: the levels' folders are not in the tree
            Path(*ext.name.split(".")[:-1]).mkdir(parents=True, exist_ok=True)
        super().copy_extensions_to_source()

    def compiles(self, flags, code, link=()):
        """Whether the compiler takes `flags` and `code`, and the linker `link`, if there are any."""
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text(code + "\nint probe(void) { return 0; }\n")
            try:
                objects = self.compiler.compile([str(probe)], output_dir=folder, extra_postargs=flags)
                if link:
                    self.compiler.link_shared_object(objects, str(Path(folder, "probe.so")), extra_postargs=link)
            except (CompileError, LinkError):
                return False
            return True


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})

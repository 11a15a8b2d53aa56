"""Use an installed wheel: its contents, its results, the examples in its docstrings and in the README.

    python -I smoke.py README.md

.ci/run calls it in an environment that has NumPy and nothing else, in a folder that has no source tree.
"""

import doctest
import re
import sys
from importlib import import_module
from importlib.metadata import distributions, files
from pathlib import Path
from pkgutil import iter_modules

import numpy as np

import fastcorr

EXTRAS = ("blocks", "dask", "torch")  # modules that need more than NumPy


def check_installation():
    """Only NumPy is needed; no source of a compiled module is in the wheel, all that describes its types is."""
    assert Path(fastcorr.__file__).is_relative_to(sys.prefix), fastcorr.__file__
    names = {distribution.name for distribution in distributions()}
    assert names <= {"fastcorr", "numpy", "pip", "setuptools"}, names
    suffixes = {Path(path).suffix for path in files("fastcorr")}
    assert not suffixes & {".c", ".h", ".pxd", ".pyx"}, suffixes
    assert {"py.typed", "_call.pyi"} <= {Path(path).name for path in files("fastcorr")}


def check_results():
    rng = np.random.default_rng(0)
    for dtype in (np.int32, np.float32, np.float64, np.complex64):
        x, k = (rng.integers(-9, 9, n).astype(dtype) for n in (1000, 7))
        assert np.array_equal(fastcorr.correlate(x, k, "full"), np.correlate(x, k, "full")), dtype
        assert np.array_equal(fastcorr.convolve(x, k, "full"), np.convolve(x, k, "full")), dtype
    picture, kernel = (rng.integers(-9, 9, shape).astype(np.float32) for shape in ((600, 700), (5, 6)))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(picture, ((2, 2), (3, 2)), "reflect"), kernel.shape)
    result = fastcorr.correlate(picture, kernel, "same", boundary="reflect")
    assert np.array_equal(result, np.einsum("ijab,ab", windows, kernel))


def check_examples(readme):
    """Docstrings of all modules beside the kernels and the extras, and the README with its fences taken out."""
    names = [module.name for module in iter_modules(fastcorr.__path__) if module.name not in EXTRAS]
    modules = [import_module(f"fastcorr.{name}") for name in names]
    tried = [doctest.testmod(module) for module in modules]
    text = re.sub("^```.*$", "", Path(readme).read_text(), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, {}, "README.md", readme, 0)
    tried.append(doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples))
    assert tried[-1].attempted, "the README has no example"
    failed, attempted = (sum(counts) for counts in zip(*tried, strict=True))
    print(f"{attempted} examples, {failed} failed")
    return failed


if __name__ == "__main__":
    check_installation()
    check_results()
    fastcorr.show_config()
    raise SystemExit(min(check_examples(sys.argv[1]), 1))

"""The pages and docstrings: their examples hold, every public name is in the reference and says all that it has to."""

import ast
import doctest
import inspect
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import fastcorr

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("guide/*.md"), *DOCS.glob("migrate/*.md")])
NEEDS = {"opencv.md": "cv2", "scipy.md": "scipy", "torch.md": "torch"}  # page: what its examples call
MODULES = ("fastcorr", "fastcorr.layers", "fastcorr.compat.numpy", "fastcorr.compat.signal", "fastcorr.compat.ndimage")
EXTRAS = {"fastcorr.dask": "dask", "fastcorr.torch": "torch"}


def public(name):
    """{name: object} of what a module offers that is its own."""
    module = import_module(name)
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    objects = {n: getattr(module, n) for n in names}
    own = {n: o for n, o in objects.items() if callable(o) and o.__module__.startswith("fastcorr")}
    return own if hasattr(module, "__all__") else {n: o for n, o in own.items() if o.__module__ == name}


def offered():
    for module in (*MODULES, *EXTRAS):
        if find_spec(EXTRAS.get(module, "numpy")):
            for name, thing in public(module).items():
                if not (module == "fastcorr.dask" and inspect.isclass(thing)):  # how it works, not what it offers
                    yield pytest.param(module, name, thing, id=f"{module}.{name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_examples_of_the_page(page):
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    blocks = re.findall(r"^```python\n(>>>.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, str(page), 0)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
    assert not result.failed
    assert result.attempted >= len(blocks)


@pytest.mark.parametrize(("module", "name", "thing"), list(offered()))
class TestPublicNames:
    def test_docstring(self, module, name, thing):
        """numpydoc's sections; its parameters are those of the signature; the build of the pages checks their form."""
        text = inspect.getdoc(thing)
        _, *parts = re.split(r"^(\w[\w ]+)\n-{3,}\n", text, flags=re.MULTILINE)
        sections = dict(zip(parts[::2], parts[1::2], strict=True))
        assert ">>> " in sections["Examples"]
        if name == "Plan":  # which `plan` makes
            return
        signature = inspect.signature(thing)
        named = re.findall(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : .*)?$", sections.get("Parameters", ""), re.MULTILINE)
        documented = {n.lstrip("*") for group in named for n in group.split(", ")}
        assert documented == set(signature.parameters)
        assert not signature.parameters or "Raises" in sections or inspect.isclass(thing)
        returns = signature.return_annotation not in (None, "None") and not inspect.isclass(thing)
        assert ("Returns" in sections) == (returns and name not in ("set_num_threads", "show_config"))

    def test_examples(self, module, name, thing):
        tests = doctest.DocTestFinder(recurse=inspect.isclass(thing)).find(thing, name, globs={})
        results = [doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test) for test in tests]
        assert sum(result.attempted for result in results)
        assert not any(result.failed for result in results)

    def test_is_in_the_reference(self, module, name, thing):
        page = {"fastcorr.dask": "dask", "fastcorr.torch": "torch"}.get(module, "index")
        page = "compat" if ".compat." in module else page
        text = (DOCS / "api" / f"{page}.rst").read_text()
        if page == "compat":
            text = text.partition(f"currentmodule:: {module}\n")[2].partition("currentmodule")[0]
        assert f"   {'layers.' if module == 'fastcorr.layers' else ''}{name}\n" in text + "\n"

    def test_is_annotated(self, module, name, thing):
        if thing.__module__ == "fastcorr.signal" and module != "fastcorr.compat.signal":
            return  # compiled: it has a stub
        signature = inspect.signature(thing)
        bare = [n for n, p in signature.parameters.items() if p.annotation is p.empty]
        assert not bare


def test_the_stub_says_what_the_compiled_module_has():
    tree = ast.parse((ROOT / "fastcorr" / "signal.pyi").read_text())
    stub = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert stub.keys() == {"correlate", "convolve", "correlation_lags"}
    for name, arguments in stub.items():
        signature = inspect.signature(getattr(fastcorr, name))
        assert [a.arg for a in arguments.args + arguments.kwonlyargs] == list(signature.parameters)
        defaults = [ast.literal_eval(d) for d in arguments.defaults + arguments.kw_defaults]
        assert defaults == [p.default for p in signature.parameters.values() if p.default is not p.empty]


def test_the_typed_users_file_runs(capsys):
    sys.path.insert(0, str(ROOT / "tests"))
    import typed_user

    exec(compile((ROOT / "tests" / "typed_user.py").read_text(), typed_user.__file__, "exec"), {"__name__": "__main__"})
    assert "direct: 1.000" in capsys.readouterr().out

"""fastcorr.torch: the core's results and gradients on tensors, PyTorch's own where it has the same layer.

Data are integer-valued and compared to the last bit. PyTorch's gradcheck, gradgradcheck and opcheck, which compare
with finite differences, have real ones.
"""

import doctest
import inspect
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from common import ROOT, random_case, same_bits, whole
from layer_cases import FACES as LAYERS
from layer_cases import random_layer

import fastcorr

torch = pytest.importorskip("torch")
fct = pytest.importorskip("fastcorr.torch")

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # by forward-mode autograd

F = torch.nn.functional
FLOATS, COMPLEX = ("float32", "float64"), ("complex64", "complex128")
RULES = ("constant", "edge", "reflect", "symmetric", "wrap")


def tensor(a, leaf=False):
    """Of a copy of `a`, whose last axis is not the one that is contiguous."""
    t = torch.from_numpy(np.array(a, order="F"))
    return t.requires_grad_() if leaf and (t.is_floating_point() or t.is_complex()) else t


def randn(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True)


def equal(got, want):
    """To the last bit and of the same dtype, both as arrays."""
    got = got.detach().resolve_conj().numpy() if isinstance(got, torch.Tensor) else got
    return got.dtype == want.dtype and np.array_equal(got, want)


def as_torch_has_it(gradient, of):
    """The core's gradient as PyTorch wants it, real for what is real and of the same type."""
    return (gradient if of.dtype.kind == "c" else gradient.real).astype(of.dtype)


# --- values -----------------------------------------------------------------------------------------------------------


def check(face, arrays, options, rng):
    """Result and gradients of a face are the core's; how many gradients there were."""
    want = getattr(fastcorr, face)(*arrays, **options)
    tensors = [None if a is None else tensor(a, leaf=True) for a in arrays]
    named = options | ({"dtype": getattr(torch, options["dtype"])} if "dtype" in options else {})
    got = getattr(fct, face)(*tensors, **named)
    assert equal(got, want)
    need = [t is not None and t.requires_grad for t in tensors]
    if not any(need) or not got.requires_grad:
        assert not any(need) or want.dtype.kind in "biu"
        return 0
    g = np.asarray(whole(rng, want.shape, want.dtype))
    described = {name: value for name, value in options.items() if name != "method"}
    ours = getattr(fastcorr, face + "_vjp")(g, *arrays, **described, need=need)
    theirs = iter(torch.autograd.grad(got, [t for t, needed in zip(tensors, need, strict=True) if needed], tensor(g)))
    for a, gradient in zip(arrays, ours, strict=True):
        if gradient is not None:
            real = gradient if a.dtype.kind == "c" else gradient.real
            assert equal(next(theirs), real.astype(a.dtype))
    return sum(need)


@pytest.mark.parametrize("seed", range(80))
def test_signals_are_the_cores(seed):
    case = random_case(random.Random(seed), ("int32", "uint8", *FLOATS, *COMPLEX), (None,))
    arrays = [np.array(a, a.dtype.newbyteorder("=")) for a in map(np.asarray, (case.x.make(), case.k.make()))]
    check(case.face, arrays, case.options, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(80))
def test_layers_are_the_cores(seed):
    case = random_layer(random.Random(seed), dtypes=("int64", *FLOATS, *COMPLEX))
    found = check(case.face, case.arrays(), case.options, np.random.default_rng(seed))
    assert found == (0 if case.dtype == "int64" else 2 + (case.bias is not None))


@pytest.mark.parametrize("face", ["correlate", "convolve"])
@pytest.mark.parametrize("dtypes", [("float64", "complex128"), ("complex64", "float64"), ("int16", "float32")])
def test_types_may_be_mixed(face, dtypes):
    rng = np.random.default_rng(0)
    arrays = [np.asarray(whole(rng, n, dtype, "small")) for n, dtype in zip((9, 3), dtypes, strict=True)]
    assert check(face, arrays, {"mode": "same", "fill": 2}, rng) == (1 if "int16" in dtypes else 2)


def test_every_dtype_of_both():
    for name in ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16"):
        x, k = (np.asarray(whole(np.random.default_rng(n), n, name, "small")) for n in (9, 3))
        assert equal(fct.correlate(torch.from_numpy(x), torch.from_numpy(k)), fastcorr.correlate(x, k)), name


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_layers_are_pytorchs(rank, transposed):
    """Results, gradients and gradients of gradients, for all options that PyTorch has."""
    peer = getattr(F, f"conv_transpose{rank}d" if transposed else f"conv{rank}d")
    face = fct.conv_transpose if transposed else fct.conv
    options = {"stride": (2, 1, 3)[:rank], "padding": (1, 2, 0)[:rank], "dilation": (1, 2, 1)[:rank], "groups": 2}
    options |= {"output_padding": (1, 0, 2)[:rank]} if transposed else {}
    shapes = (2, 4, *(7, 6, 5)[:rank]), ((4, 3) if transposed else (6, 2)) + (3, 2, 2)[:rank], (6,)
    found = []
    for f in (peer, face):
        arrays = [tensor(whole(np.random.default_rng(n), shape, "float64"), True) for n, shape in enumerate(shapes)]
        y = f(*arrays, **options)
        g = tensor(whole(np.random.default_rng(9), y.shape, "float64"), True)
        first = torch.autograd.grad(y, arrays, g, create_graph=True)
        products = sum((whole_like(a, n) * a).sum() for n, a in enumerate(first))
        found.append([y, *first, *torch.autograd.grad(products, [*arrays[:2], g])])
    for ours, theirs in zip(*found, strict=True):
        assert equal(ours, theirs.detach().numpy())


def whole_like(t, seed):
    return torch.from_numpy(np.asarray(whole(np.random.default_rng(seed), t.shape, "float64")))


# --- derivatives of any order -----------------------------------------------------------------------------------------

SIGNALS = [({"mode": "same", "boundary": rule, "fill": 2}, (2, 6), (4,)) for rule in RULES]
SIGNALS += [
    ({"mode": [(2, -1), (0, 3)], "stride": (2, 1), "dilation": 2, "boundary": ("wrap", "constant")}, (5, 4), (2, 2)),
    ({"axes": (0, 2), "mode": "full"}, (3, 2, 3), (2, 2)),
    ({"axes": 1, "boundary": "reflect", "mode": "same"}, (3, 5), (3, 3)),
    ({"axes": 1}, (1, 5), (3, 2)),
    ({"axes": -1, "method": "reference"}, (3, 5), (1, 2)),
    ({"mode": "same", "anchor": 0, "method": "fft"}, (9,), (5,)),
]
LAYER_CALLS = [("conv", {"padding": 2, "boundary": rule, "fill": 3}, (1, 1, 4), (2, 1, 2), (2,)) for rule in RULES]
LAYER_CALLS += [
    ("conv", {"groups": 2, "stride": 2, "padding": "same", "flip": True}, (2, 4, 3, 4), (2, 2, 3, 2), None),
    ("conv", {"dilation": (1, 2, 1), "padding": ((1, 0), (-1, 2), (0, 0))}, (1, 2, 2, 4, 2), (1, 2, 2, 2, 1), (1,)),
    (
        "conv",
        {"boundary": ("edge", "wrap", "constant", "reflect"), "padding": 1},
        (1, 2, 2, 1, 2),
        (1, 1, 2, 1, 2, 2),
        (1,),
    ),
    ("conv", {}, (3, 2), (4, 2), (4,)),
    ("conv_transpose", {"stride": 2, "padding": 1, "output_padding": 1}, (2, 2, 3), (2, 1, 3), (1,)),
    ("conv_transpose", {"groups": 2, "flip": True, "dilation": 2}, (2, 2, 3), (2, 1, 2, 2), (2,)),
    ("local_conv", {"padding": 1, "boundary": "edge"}, (2, 1, 3), (3, 2, 1, 3), (2, 3)),
    (
        "local_conv",
        {"stride": (2, 1), "groups": 2, "fill": 1, "padding": ((1, 0), (0, 0))},
        (2, 3, 3),
        (2, 2, 2, 1, 2, 2),
        (2,),
    ),
]
CALLS = [(("correlate", "convolve")[n % 2], *row, None) for n, row in enumerate(SIGNALS)] + LAYER_CALLS


@pytest.mark.parametrize(
    ("call", "dtype"),
    [(call, torch.complex128) for call in CALLS] + [(call, torch.float64) for call in CALLS[::3]],
    ids=lambda a: f"{a[0]}-{a[1]}" if type(a) is tuple else str(a),
)
def test_gradcheck(call, dtype):
    face, options, *shapes = call
    arrays = [randn(*shape, dtype=dtype) for shape in shapes if shape is not None]

    def f(*tensors):
        return getattr(fct, face)(*tensors, **options)

    assert torch.autograd.gradcheck(f, arrays, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, arrays, fast_mode=True, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("dtypes", [(torch.float64, torch.complex128), (torch.complex128, torch.float64)], ids=str)
def test_gradcheck_of_a_real_and_a_complex_tensor(dtypes):
    x, k = randn(5, dtype=dtypes[0]), randn(3, dtype=dtypes[1])
    for face in (fct.correlate, fct.convolve):
        assert torch.autograd.gradcheck(lambda x, k, face=face: face(x, k, "same", fill=1 + 2j), (x, k))
        assert torch.autograd.gradgradcheck(lambda x, k, face=face: face(x, k, "same", fill=1 + 2j), (x, k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_gradients_are_the_same_whether_or_not_they_are_differentiated(call, dtype, monkeypatch):
    """The core's at once, and those made of contractions; g is whole, as the sums for bias may be rounded otherwise."""
    face, options, *shapes = call
    arrays = [randn(*shape, dtype=dtype) for shape in shapes if shape is not None]
    y = getattr(fct, face)(*arrays, **options)
    g = tensor(whole(np.random.default_rng(0), y.shape, str(dtype).removeprefix("torch.")))
    graph = torch.autograd.grad(y, arrays, g, create_graph=True)
    monkeypatch.delattr(fct, "_vjp_recorded")
    plain = torch.autograd.grad(y, arrays, g, retain_graph=True)
    assert not any(a.requires_grad for a in plain)
    assert all(a.requires_grad for a in graph[:2])
    assert all(torch.equal(*pair) for pair in zip(plain, graph, strict=True))
    for n, a in enumerate(plain):  # each alone, where some tensors are not kept
        alone = [b if m == n else b.detach() for m, b in enumerate(arrays)]
        (found,) = torch.autograd.grad(getattr(fct, face)(*alone, **options), arrays[n], g)
        assert torch.equal(found, a)


def test_third_derivatives():
    """Of the sum of y**3, where fill reaches every order: those of the same sum over a padded x."""
    found = []
    for padded in (False, True):
        x, w = randn(1, 2, 4), randn(2, 2, 3)
        y = fct.conv(F.pad(x, (2, 2), value=3.0), w) if padded else fct.conv(x, w, padding=2, fill=3)
        value = (y**3).sum()
        for variable in (x, w, x):
            (gradient,) = torch.autograd.grad(value, variable, create_graph=True)
            value = (gradient**2).sum()
            found.append(value)
    for ours, theirs in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_only_what_is_needed_is_computed_and_kept():
    x, w = randn(1, 2, 5), randn(1, 2, 2).detach()
    y = fct.conv(x, w)
    assert [t is None for t in y.grad_fn.saved_tensors] == [True, False]
    y.sum().backward()
    assert w.grad is None
    assert not fct.conv(x.detach(), w).requires_grad
    with torch.no_grad():
        assert not fct.conv(x, w).requires_grad


def test_a_tensor_changed_before_backward_is_noticed():
    x, w = randn(1, 1, 5), randn(1, 1, 2)
    y = fct.conv(x * 1, w)
    with torch.no_grad():
        w += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    w = randn(1, 1, 5)
    y = w**2
    fct.correlate(torch.ones(1, 1, 5, dtype=torch.float64), torch.ones(1, dtype=torch.float64), out=w.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_options_are_remembered_as_they_were():
    x, stride = randn(9), [1]
    y = fct.correlate(x, torch.ones(2, dtype=torch.float64), stride=stride)
    stride[0] = 2
    y.sum().backward()
    assert x.grad.tolist() == [1, 2, 2, 2, 2, 2, 2, 2, 1]


# --- torch.library, torch.compile, torch.func -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", [CALLS[0], CALLS[7], LAYER_CALLS[5], LAYER_CALLS[9], LAYER_CALLS[12]], ids=lambda c: c[0]
)
def test_opcheck(call):
    """The operator of the faces, and by way of its gradients that of the contractions."""
    face, options, *shapes = call
    core = getattr(fastcorr, face)
    given = {p.name: p.default for p in inspect.signature(core).parameters.values() if p.default is not p.empty}
    given = {name: value for name, value in given.items() if name not in ("bias", "out", "fill")} | options
    fill = float(given.pop("fill", 0)) if face != "conv_transpose" else None
    dtype = torch.complex128 if face == "correlate" else torch.float64
    tensors = [None if shape is None else randn(*shape, dtype=dtype) for shape in shapes]
    torch.library.opcheck(torch.ops.fastcorr.face.default, (face, *tensors, repr(given), fill))


def test_opcheck_of_each_contraction():
    form, _ = fastcorr.contraction.layer((2, 4, 5), (2, 2, 3), None, np.dtype("float64"), groups=2, padding=1, fill=3)
    for sibling in form.siblings.values():
        operands = [randn(*form.shapes[name]) for name in sibling.operands]
        described = fct._description(sibling, "auto")
        torch.library.opcheck(torch.ops.fastcorr.contract.default, (*operands, described, 3.0))
        assert fct._form(described, 3.0) == (sibling, "auto")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_whole():
    def f(x, k, w):
        y = fct.correlate(x, k, [(np.int64(1), 0)], boundary=["edge"]) * 2
        z = fct.conv(y[None, None], w, padding="same", fill=float("nan"), stride=1)
        return torch.nan_to_num(z), fct.convolve(x, k, "full", dtype=torch.complex64)

    x, k, w = (randn(*shape).detach().requires_grad_() for shape in ((7,), (2,), (1, 1, 3)))
    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(compiled(x, k, w), f(x, k, w), strict=True):
        assert torch.equal(ours, theirs)
        gradients = [torch.autograd.grad(y.abs().sum(), (x, k), retain_graph=True) for y in (ours, theirs)]
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_torch_func():
    def f(x, w):
        return (fct.conv(x, w, padding=1, fill=2) ** 3).sum()

    x, w = randn(3, 2, 4).detach(), randn(2, 2, 3).detach()
    functional = torch.autograd.functional
    torch.testing.assert_close(torch.func.grad(f)(x, w), functional.jacobian(lambda x: f(x, w), x))
    torch.testing.assert_close(torch.func.hessian(f, 1)(x, w), functional.hessian(lambda w: f(x, w), w))
    each = torch.func.vmap(torch.func.grad(f, 1), (0, None))(x, w)
    assert torch.equal(each, torch.stack([torch.func.grad(f, 1)(one, w) for one in x]))


def test_a_tensor_that_left_torch_func_has_its_gradient():
    left, y = [], randn(4)
    torch.func.grad(lambda x: (left.append(x * y), x.sum())[1])(torch.ones(4, dtype=torch.float64))
    fct.correlate(left[0], torch.ones(2, dtype=torch.float64)).sum().backward()
    assert y.grad.tolist() == [1, 2, 2, 1]


# --- memory, threads, processes ---------------------------------------------------------------------------------------


def test_no_copy_in_or_out(monkeypatch):
    """The core gets the tensors' memory, and what it returns is the result's."""
    seen, forward = [], fct.nn.forward

    def spy(face, *arguments):
        y = forward(face, *arguments)
        seen.append([a.__array_interface__["data"][0] for a in (*arguments[:3], y)])
        return y

    monkeypatch.setattr(fct.nn, "forward", spy)
    x, w, bias = randn(2, 3, 8).transpose(1, 2), torch.nn.Parameter(randn(4, 8, 2)), randn(4)
    for tensors in ((x, w, bias), (x.detach(), w.detach(), bias.detach())):
        y = fct.conv(*tensors)
        assert seen.pop() == [t.data_ptr() for t in (*tensors, y)]


def test_out():
    x, k, out = randn(8).detach(), randn(3).detach(), torch.empty(6, dtype=torch.float64)
    assert fct.correlate(x, k, out=out) is out
    assert torch.equal(out, fct.correlate(x, k))
    overlapping = x.clone()
    fct.correlate(overlapping, k, "same", out=overlapping)
    assert torch.equal(overlapping, fct.correlate(x, k, "same"))


def test_conjugated_and_negated_lazily():
    x, k = randn(6, dtype=torch.complex128).detach(), randn(2, dtype=torch.complex128).detach()
    assert x.conj().is_conj()
    assert torch.equal(
        fct.correlate(x.conj(), k.conj()), fct.correlate(x.conj().resolve_conj(), k.conj().resolve_conj())
    )
    assert x.conj().imag.is_neg()
    assert torch.equal(fct.correlate(x.conj().imag, k.real), -fct.correlate(x.imag, k.real))


def test_threads_of_python_at_once():
    def work(seed):
        x, w = (
            whole_like(torch.empty(shape), seed).float().requires_grad_() for shape in ((4, 8, 30, 30), (8, 8, 3, 3))
        )
        y = fct.conv(x, w, padding=1)
        return y, *torch.autograd.grad(y.square().sum(), (x, w))

    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(work, [0, 1, 0, 1] * 4))
    for n, found in enumerate(at_once):
        assert all(torch.equal(*pair) for pair in zip(found, at_once[n % 2], strict=True))


class Filtered(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, n):
        return fct.correlate(torch.full((300, 300), float(n)), torch.ones(3, 3))


def test_workers_of_a_data_loader():
    here = torch.stack([Filtered()[n] for n in range(4)])  # starts the pool that the workers inherit
    loaded = torch.cat(list(torch.utils.data.DataLoader(Filtered(), num_workers=2, multiprocessing_context="fork")))
    assert torch.equal(loaded, here)


# --- examples ---------------------------------------------------------------------------------------------------------


def test_the_example(monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.syspath_prepend(Path(ROOT) / "examples")
    import torch_swap

    losses = [torch_swap.train("", conv, 4)[0] for conv in (F.conv3d, fct.conv)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    true, learned, losses = torch_swap.learn_in_rank_4(50)
    assert losses[-1] < 0.02 * losses[0]
    assert (true - learned).abs().max() < 0.2


def test_docstrings():
    failed, attempted = doctest.testmod(fct)
    assert (failed, attempted > 15) == (0, True)


# --- errors -----------------------------------------------------------------------------------------------------------

X, K = torch.ones(6), torch.ones(3)
ERRORS = [
    (lambda: fct.correlate(X.to("meta"), K), ValueError, r"x is on meta, fastcorr computes on the CPU: x\.cpu\(\)"),
    (lambda: fct.correlate(X, K.to("meta")), ValueError, "k is on meta"),
    (lambda: fct.conv(X[None], K[None, None], X.to("meta")), ValueError, "bias is on meta"),
    (lambda: fct.correlate(X, K, out=X.to("meta")), ValueError, "out is on meta"),
    (lambda: fct.correlate(X.numpy(), K), TypeError, "x must be a torch.Tensor, not ndarray"),
    (lambda: fct.conv(X[None], [[[1.0]]]), TypeError, "w must be a torch.Tensor, not list"),
    (lambda: fct.conv(X[None], None), TypeError, "w must be a torch.Tensor, not NoneType"),
    (
        lambda: fct.correlate(X.bfloat16(), K),
        TypeError,
        r"x has dtype torch.bfloat16, which NumPy does not have: x.float",
    ),
    (lambda: fct.correlate(X, K.bfloat16()), TypeError, "k has dtype torch.bfloat16"),
    (
        lambda: fct.correlate(X, K, dtype=torch.bfloat16),
        TypeError,
        "dtype=torch.bfloat16 is a type that NumPy does not",
    ),
    (lambda: fct.correlate(X, K, dtype="float32"), TypeError, "dtype must be a torch.dtype, not 'float32'"),
    (lambda: fct.correlate(X.to_sparse(), K), TypeError, r"x has layout torch.sparse_coo.*: x\.to_dense\(\)"),
    (lambda: fct.correlate(randn(6), K, out=torch.empty(4)), ValueError, "out has no gradient"),
    (lambda: fct.correlate(X, K, out=torch.empty(4).requires_grad_()), ValueError, "out has no gradient"),
    (lambda: fct.correlate(X, K, out=torch.empty(5)), ValueError, r"out has shape \(5,\), the result has \(4,\)"),
    (lambda: fct.correlate(X, K, out=np.empty(4)), TypeError, "out must be a torch.Tensor, not ndarray"),
    (lambda: torch.func.vmap(lambda x: fct.correlate(x, K, out=X))(X[None]), ValueError, "out is for plain tensors"),
    (lambda: fct.correlate(K, X), ValueError, "kernel is longer than x along axis 0: 6 > 3"),
    (lambda: fct.correlate(randn(3), X), ValueError, "kernel is longer than x along axis 0: 6 > 3"),
    (lambda: fct.correlate(X + 0j, K, dtype=torch.float32), TypeError, "would discard the imaginary part of x"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_without_pytorch():
    """The error of the import says what to install; an error inside of PyTorch stays as it is."""
    code = "import sys; sys.modules['torch{}'] = None; import fastcorr.torch"
    for missing, message in (
        ("", 'ImportError: fastcorr.torch needs PyTorch.*pip install "fastcorr[torch]"'),
        (".autograd", ""),
    ):
        run = subprocess.run([sys.executable, "-c", code.format(missing)], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode
        first, _, rest = message.partition(".*")
        assert first in run.stderr
        assert rest in run.stderr
        assert ("fastcorr[torch]" in run.stderr) == (not missing)


def test_signatures_are_the_cores():
    for face in fct.__all__:
        ours, theirs = (inspect.signature(getattr(module, face)) for module in (fct, fastcorr))
        assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
            (p.name, p.kind, p.default) for p in theirs.parameters.values()
        ]
        assert face in LAYERS or face in ("correlate", "convolve")


@pytest.mark.parametrize("method", ["auto", "direct", "fft"])
def test_gradients_by_the_method_that_is_asked_for(method):
    rng = np.random.default_rng(0)
    x, k, g = (rng.standard_normal(shape) for shape in ((90, 100), (30, 31), (61, 70)))
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, k)]
    fct.correlate(*tensors, method=method).backward(torch.from_numpy(g))
    for tensor, want in zip(tensors, fastcorr.correlate_vjp(g, x, k, method=method), strict=True):
        assert same_bits(tensor.grad.numpy(), want)

"""fastcorr.dask: the bits of the result in memory for any chunks, lazily, on threads and on a cluster of processes.

Random calls compare floats of eight decades bit for bit, integers of the full range exactly. Budget: 60 seconds.
"""

import doctest
import inspect
import os
import random
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from common import DTYPES, RULES, environment, python, random_case, same_bits, whole, wide
from layer_cases import random_layer

import fastcorr
from fastcorr import contraction, gradients, isa, layer_methods, signal

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
diagnostics = pytest.importorskip("dask.diagnostics")
pytest.importorskip("fastcorr.dask")

FACES = ("correlate", "convolve", "conv", "match_template", "correlate_vjp", "convolve_vjp", "conv_vjp")
LAYER_DTYPES = ("int32", "float16", "float32", "float64", "complex64")


@pytest.fixture(autouse=True)
def _no_pool():
    with dask.config.set(scheduler="synchronous"):  # unless a test asks for another: most blocks take 50 us
        yield


def cut(rng, a):
    """`a` as a dask array in random, uneven chunks, often of one or two samples; `rng` is a random.Random."""
    a = np.asarray(a)
    few = round(60 ** (1 / max(a.ndim, 1)))  # an axis, else graphs take longer than all the rest
    return da.from_array(a, chunks=tuple(lengths(rng, n, few) for n in a.shape), name=False)


def lengths(rng, n, few):
    most, chunks = max(rng.choice((1, 2, 4, 16, n + 1)), 2 * n // few), []
    while sum(chunks) < n:
        chunks.append(min(rng.randint(1, most), n - sum(chunks)))
    return tuple(chunks) or (0,)


def computed(y):
    """The result, which must be what the lazy array announced."""
    got = y.compute()
    assert (got.shape, got.dtype, got.dtype) == (y.shape, y.dtype, y._meta.dtype)
    return got


def some(rng, shape, dtype):
    """Floats of eight decades, integers of the full range; `rng` is a numpy Generator."""
    return (wide if np.dtype(dtype).kind in "fc" else whole)(rng, shape, dtype)


def drawn(case):
    """Arrays and options of a case of the signal face."""
    if "dtype" not in case.options:
        return case.data(some)
    x, k, options = case.data()  # its own data, which the cast leaves as they are
    return x, k, options | {"dtype": case.options["dtype"]}


def drawn_layer(rng):
    """x, w, bias and options of a random `conv`."""
    case = random_layer(rng, ("conv",), LAYER_DTYPES)
    generator = np.random.default_rng(case.seed)
    arrays = (None if a is None else some(generator, a.shape, a.dtype) for a in case.arrays())
    return (*arrays, case.options)


@pytest.mark.parametrize("block", range(10))
class TestAnyCall:
    """Many seeds each: ranks to 4, every boundary and reach, strides, dilation, axes, batched kernels, every dtype."""

    def test_has_the_bits_of_the_one_in_memory(self, block):
        for seed in range(20 * block, 20 * (block + 1)):
            rng = random.Random(seed)
            case = random_case(rng, DTYPES)
            x, k, options = drawn(case)
            want = getattr(fastcorr, case.face)(x, k, method="direct", **options)
            kernel = rng.choice((k, cut(rng, k)))
            y = getattr(fastcorr.dask, case.face)(cut(rng, x), kernel, method="direct", **options)
            assert same_bits(computed(y), want), (seed, case)

    def test_layer_has_the_bits_of_the_one_in_memory(self, block):
        for seed in range(20 * block, 20 * (block + 1)):
            rng = random.Random(seed)
            x, w, bias, options = drawn_layer(rng)
            want = fastcorr.conv(x, w, bias, method="direct", **options)
            y = fastcorr.dask.conv(cut(rng, x), rng.choice((w, cut(rng, w))), bias, method="direct", **options)
            assert same_bits(computed(y), want), (seed, x.shape, w.shape, options)

    def test_has_its_gradients(self, block):
        for seed in range(10 * block, 10 * (block + 1)):
            rng = random.Random(seed)
            case = random_case(rng, [name for name in DTYPES if name != "bool"])
            x, k, options = drawn(case)
            y = getattr(fastcorr, case.face)(x, k, **options)
            g = some(np.random.default_rng(seed), y.shape, y.dtype)
            vjp = case.face + "_vjp"
            arrays = cut(rng, g), cut(rng, x), rng.choice((k, cut(rng, k)))
            got = getattr(fastcorr.dask, vjp)(*arrays, **options)
            check_gradients(getattr(fastcorr, vjp), (g, x, k), options, got, (seed, case))

    def test_layer_has_its_gradients(self, block):
        for seed in range(10 * block, 10 * (block + 1)):
            rng = random.Random(seed)
            x, w, bias, options = drawn_layer(rng)
            y = fastcorr.conv(x, w, bias, **options)
            g = some(np.random.default_rng(seed), y.shape, y.dtype)
            got = fastcorr.dask.conv_vjp(cut(rng, g), cut(rng, x), w, bias, **options)
            check_gradients(fastcorr.conv_vjp, (g, x, w, bias), options, got, (seed, x.shape, w.shape, options))


def test_corners_are_folded_in_the_order_of_axes():
    """Where two axes repeat samples, the order in which shares come back to a corner shows in the last bits."""
    for seed, axes in enumerate([(0, 1), (1, 0)] * 3):
        rng = np.random.default_rng(seed)
        x, k, g = wide(rng, (5, 6)), wide(rng, (3, 3)), wide(rng, (19, 20))
        options = {"mode": ((8, 8), (8, 8)), "axes": axes, "boundary": "symmetric", "need": (True, False)}
        want, _ = fastcorr.correlate_vjp(g, x, k, **options)
        got, _ = fastcorr.dask.correlate_vjp(da.from_array(g, chunks=7), da.from_array(x, chunks=2), k, **options)
        assert same_bits(computed(got), want)


def check_gradients(vjp, arrays, options, got, note):
    """gx has the bits of the one in memory; sums over blocks are exact for integers, within rounding for floats."""
    want = vjp(*arrays, **options)
    assert [a is None for a in got] == [a is None for a in want], note
    assert np.array_equal(computed(got[0]), want[0]), note
    if want[0].dtype.kind in "iu":
        for a, b in zip(got[1:], want[1:], strict=True):
            assert b is None or same_bits(computed(a), b), note
        return
    sizes = vjp(*(None if a is None else np.abs(a) for a in arrays), **options | fill_of(options))
    for a, b, size in zip(got[1:], want[1:], sizes[1:], strict=True):
        if b is not None:
            bound = 8 * np.finfo(b.dtype).eps * size.real.astype(np.float64)
            assert (np.abs(computed(a).astype(complex) - b) <= bound + np.finfo(b.dtype).tiny).all(), note


def fill_of(options):
    return {"fill": abs(options["fill"])} if "fill" in options else {}


@contextmanager
def methods_of(face):
    """A list that grows by the method of every call of the core's `face`."""
    module, used = gradients if face.endswith("_vjp") else signal, []
    call = getattr(module, face)

    def note(*arrays, method, **options):
        used.append(method)
        return call(*arrays, method=method, **options)

    with mock.patch.object(module, face, note):
        yield used


def picture(shape=(60, 50), chunks=(17, 9), seed=0):
    x = wide(np.random.default_rng(seed), shape)
    return x, da.from_array(x, chunks=chunks)


class TestLazy:
    def test_nothing_is_read_before_it_is_computed(self):
        def refuse(block):
            raise RuntimeError("read")

        x, g = (da.ones((2, 3, 20, 20), chunks=(1, 3, 7, 7)).map_blocks(refuse, dtype=float) for _ in range(2))
        k = da.ones((2, 3, 3, 3)).map_blocks(refuse, dtype=float)
        options = {"padding": "same", "boundary": "wrap"}
        lazy = [fastcorr.dask.conv(x, k, **options), *fastcorr.dask.conv_vjp(g[:, :2], x, k, **options)[:2]]
        lazy += [fastcorr.dask.correlate(x, k[0, 0], "same"), *fastcorr.dask.convolve_vjp(g, x, k[0, 0], "same")]
        for y in lazy:
            with pytest.raises(RuntimeError, match="read"):
                y.compute()

    def test_a_part_of_the_result_reads_a_part_of_the_data(self):
        read = []

        def note(block, block_info):
            read.append(block_info[0]["chunk-location"])
            return block

        x = da.ones((100, 100), chunks=10).map_blocks(note, dtype=float, meta=np.empty((0, 0)))
        y = fastcorr.dask.correlate(x, np.ones((5, 15)), "same", boundary="reflect")
        y[:10, 30:40].compute()
        assert sorted(read) == [(i, j) for i in (0, 1) for j in (2, 3, 4)]

    @pytest.mark.parametrize("rank", [1, 2, 3])
    @pytest.mark.parametrize("rule", ["constant", "edge", "reflect", "symmetric", "wrap"])
    def test_a_block_takes_one_task_and_one_for_each_neighbour(self, rank, rule):
        y = fastcorr.dask.correlate(da.ones((60,) * rank, chunks=10), np.ones((5,) * rank), "same", boundary=rule)
        assert y.npartitions == 6**rank
        tasks = len(y.dask.layers[y.name])
        assert tasks <= 3**rank * y.npartitions + (6**rank - 4**rank if rule == "wrap" else 0) * 3**rank

    def test_a_small_piece_does_not_keep_its_chunk_in_memory(self):
        y = fastcorr.dask.correlate(da.ones(100, chunks=25), np.ones(5), "same")
        pieces = [key for key in y.dask.layers[y.name] if key[0] != y.name]
        assert len(pieces) == 6
        assert all(piece.base is None for piece in dask.get(dict(y.dask), pieces))

    def test_the_same_call_has_the_same_name(self):
        x, lazy = picture()
        f = fastcorr.dask.correlate
        assert f(lazy, x[:3, :3], "same").name == f(lazy, x[:3, :3], "same").name
        assert f(lazy, x[:3, :3], "same").name != f(lazy, x[:3, :3], "same", boundary="wrap").name
        assert f(lazy, x[:3, :3], "same").name != f(lazy, x[1:4, :3], "same").name

    def test_chunks_are_those_of_x(self):
        x = da.ones((40, 50), chunks=((7, 33), 20))
        f, k = fastcorr.dask.correlate, np.ones((4, 4))
        assert f(x, k, "same").chunks == x.chunks
        assert fastcorr.dask.convolve(x, k, "same").chunks == x.chunks
        assert f(x, k, "same", stride=5).chunks == ((2, 6), (4, 4, 2))
        assert f(x, k).chunks == ((5, 32), (18, 20, 9))
        assert f(x, k, "full").chunks == ((8, 35), (21, 20, 12))
        assert [g.chunks for g in fastcorr.dask.correlate_vjp(f(x, k), x, k)] == [x.chunks, ((4,), (4,))]

    def test_what_lies_far_outside_has_chunks_too(self):
        x = np.arange(20.0)
        y = fastcorr.dask.correlate(da.from_array(x, chunks=5), [1.0, 2, 3], [(100, -60)], boundary="wrap")
        assert max(y.chunks[0]) <= 10
        assert same_bits(computed(y), fastcorr.correlate(x, [1.0, 2, 3], [(100, -60)], boundary="wrap"))


class TestAuto:
    def test_direct_for_the_whole_is_direct_for_each_block(self):
        x, lazy = picture()
        k = wide(np.random.default_rng(1), (3, 5))
        assert fastcorr.plan(fastcorr.correlate, x, k, "same").method == "direct"
        assert same_bits(computed(fastcorr.dask.correlate(lazy, k, "same")), fastcorr.correlate(x, k, "same"))

    @pytest.mark.parametrize("taps", [5, 31])
    def test_separable_for_the_whole_is_separable_for_each_block(self, taps):
        """By the values of the kernel, which only one that is not lazy has before it is computed."""
        rng = np.random.default_rng(1)
        line = np.rint(100 * np.exp(-4 * np.linspace(-1, 1, taps) ** 2))
        x, k, options = rng.integers(-9, 9, (300, 290)).astype(float), np.outer(line, line), {"boundary": "wrap"}
        assert fastcorr.plan(fastcorr.correlate, x, k, "same", **options).method == "separable"
        lazy = da.from_array(x, chunks=(120, 70))
        with methods_of("correlate") as used:
            got = computed(fastcorr.dask.correlate(lazy, k, "same", **options))
            assert set(used) == {"separable"}
            used.clear()
            of_a_lazy_kernel = computed(fastcorr.dask.correlate(lazy, da.from_array(k), "same", **options))
            assert "separable" not in used
        want = fastcorr.correlate(x, k, "same", **options, method="direct")
        assert np.array_equal(got, want)
        assert np.allclose(of_a_lazy_kernel, want, rtol=1e-12)
        x, k = wide(rng, x.shape), k * 1.1  # rounded, but as in memory
        got = computed(fastcorr.dask.correlate(da.from_array(x, chunks=(120, 70)), k, "same", **options))
        assert same_bits(got, fastcorr.correlate(x, k, "same", **options))

    def test_a_gradient_is_decided_by_itself(self):
        rng = np.random.default_rng(4)
        x, w, g = (whole(rng, shape, "float32") for shape in ((1, 24, 20, 20), (24, 24, 3, 3), (1, 24, 20, 20)))
        options = {"padding": "same", "boundary": "wrap"}  # x's gradient is made of the extended x
        form, _ = contraction.layer(x.shape, w.shape, None, x.dtype, **options)
        forms = layer_methods.unfolded(form.siblings["x"]), form.siblings["w"]
        assert [layer_methods.choose(form, "auto", isa.LEVEL)[0] for form in forms] == ["direct", "winograd"]
        with methods_of("conv_vjp") as used:
            lazy = fastcorr.dask.conv_vjp(g, da.from_array(x, chunks=(1, 24, 9, 20)), w, **options)
            for gradient, method in zip(lazy, ("direct", "auto"), strict=False):
                used.clear()
                computed(gradient)
                assert set(used) == {method}

    def test_fourier_keeps_its_bound_and_a_nan_where_it_is(self):
        rng = np.random.default_rng(2)
        x, k = rng.standard_normal((300, 200)), rng.standard_normal((41, 41))
        x[150, 77] = np.nan
        plan = fastcorr.plan(fastcorr.correlate, x, k, "same")
        assert plan.method == "fft"
        want = fastcorr.correlate(x, k, "same", method="direct")
        got = computed(fastcorr.dask.correlate(da.from_array(x, chunks=(100, 70)), k, "same"))
        assert np.array_equal(np.isnan(got), np.isnan(want))
        bound = np.finfo(float).eps * np.log2(x.size) * np.nanmax(np.abs(x)) * np.abs(k).sum()
        assert np.nanmax(np.abs(got - want)) <= bound

    def test_a_wider_bias_counts(self):
        rng = np.random.default_rng(3)
        x, w, bias = rng.random((2, 2, 9), "f4"), rng.random((3, 2, 3), "f4"), rng.random(3)
        lazy = da.from_array(x, chunks=(1, 1, 4))  # channels in chunks as well
        assert same_bits(computed(fastcorr.dask.conv(lazy, w, da.from_array(bias))), fastcorr.conv(x, w, bias))
        g = rng.random((2, 3, 7), "f4")
        got, want = fastcorr.dask.conv_vjp(g, lazy, w, bias), fastcorr.conv_vjp(g, x, w, bias)
        assert same_bits(computed(got[0]), want[0])
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(computed(a), b, rtol=1e-12)


class TestTemplate:
    """Within what match_template promises: a block's sums may have another method than those of the whole."""

    def test_any_search_finds_what_it_finds_in_memory(self):
        for seed in range(60):
            rng, generator = random.Random(seed), np.random.default_rng(seed)
            rank = rng.choice((1, 2, 2, 3))
            m = [rng.randint(2, 5) for _ in range(rank)]
            n = [rng.randint(6, 30 if rank < 3 else 12) for _ in range(rank)]
            x, t = generator.random(n) * 10 + 1e4, generator.random(m).astype(rng.choice(("f4", "f8")))
            if rng.random() < 0.3:
                x = generator.integers(0, 256, n).astype(np.uint8)
            options = {"boundary": tuple(rng.choice(RULES) for _ in n), "mode": rng.choice(("valid", "same", "full"))}
            if rng.random() < 0.3:
                options["mask"] = generator.random(m)
            if rng.random() < 0.3:
                options["axes"] = tuple(rng.sample(range(rank), rank))
            want = fastcorr.match_template(x, t, **options)
            lazy = {name: cut(rng, value) if name == "mask" and seed % 2 else value for name, value in options.items()}
            got = computed(fastcorr.dask.match_template(cut(rng, x), rng.choice((t, cut(rng, t))), **lazy))
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-6, err_msg=f"{seed} {options}")

    def test_each_entry_may_have_its_own(self):
        rng = np.random.default_rng(0)
        x, t, mask = rng.random((6, 40)), rng.random((6, 7)), rng.random((6, 7))
        want = fastcorr.match_template(x, t, axes=-1, mask=mask)
        got = fastcorr.dask.match_template(da.from_array(x, chunks=(4, 11)), t, axes=-1, mask=mask)
        np.testing.assert_allclose(computed(got), want, rtol=0, atol=1e-9)

    def test_flat_windows_and_nan_stay_where_they_are(self):
        x = np.random.default_rng(1).random((40, 40))
        x[5:20, 8:30], x[30, 30] = 7, np.nan
        t = x[24:28, 3:9]
        want = fastcorr.match_template(x, t, flat=-2.0)
        got = computed(fastcorr.dask.match_template(da.from_array(x, chunks=13), t, flat=-2.0))
        assert (want == -2).sum() == 12 * 17
        assert np.array_equal(np.isnan(got), np.isnan(want))
        assert np.array_equal(got == -2, want == -2)
        assert np.unravel_index(np.nanargmax(got), got.shape) == (24, 3)


class TestSchedulers:
    """The bits are those of the graph, whatever runs it."""

    @staticmethod
    def lazy():
        x, lazy = picture((200, 90), (23, 20))
        k = wide(np.random.default_rng(4), (5, 6))
        options = {"mode": "same", "boundary": ("wrap", "reflect")}
        g = da.from_array(wide(np.random.default_rng(5), x.shape), chunks=31)
        return (fastcorr.dask.correlate(lazy, k, **options), *fastcorr.dask.correlate_vjp(g, lazy, k, **options))

    def test_threads(self):
        want = dask.compute(*self.lazy())
        for n in (1, 2, 2, 5, 5):
            got = dask.compute(*self.lazy(), scheduler="threads", num_workers=n)
            assert all(map(same_bits, got, want))

    @pytest.mark.filterwarnings("default")  # of what distributed itself warns
    def test_cluster_of_processes(self):
        distributed = pytest.importorskip("distributed")
        want = dask.compute(*self.lazy())
        setup = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        environ = mock.patch.dict(os.environ)  # in which its workers leave OMP_NUM_THREADS behind
        with environ, distributed.LocalCluster(**setup) as cluster, distributed.Client(cluster) as client:
            assert len(client.run(lambda: __import__("os").getpid()).values()) == 2
            y = client.persist(self.lazy())
            distributed.wait(y)
            holders = {worker for workers in client.who_has(y).values() for worker in workers}
            assert len(holders) == 2  # both had a part in it
            got = client.gather(client.compute(y))
        assert all(map(same_bits, got, want))

    def test_progress_bar(self, capsys):
        with diagnostics.ProgressBar():
            self.lazy()[0].compute()
        assert "100% Completed" in capsys.readouterr().out

    def test_a_block_runs_on_one_thread(self, monkeypatch):
        seen, conv = [], fastcorr.nn.conv

        def spy(*arrays, **options):
            seen.append(fastcorr.get_num_threads())
            return conv(*arrays, **options)

        monkeypatch.setattr(fastcorr.nn, "conv", spy)
        fastcorr.dask.conv(da.ones((1, 1, 20), chunks=10), np.ones((1, 1, 3)), padding=1).compute()
        assert seen == [1, 1]


class TestErrors:
    @pytest.mark.parametrize("name", FACES)
    def test_signature_is_that_of_the_core(self, name):
        def described(f):
            return [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]

        assert described(getattr(fastcorr.dask, name)) == described(getattr(fastcorr, name))

    def test_examples_of_docstrings(self):
        failed, attempted = doctest.testmod(fastcorr.dask)
        assert attempted > 20
        assert failed == 0

    def test_without_dask(self):
        done = python("import sys; sys.modules['dask'] = None; import fastcorr.dask")
        assert done.returncode == 1
        assert 'pip install "fastcorr[dask]"' in done.stderr
        assert python("import sys; import fastcorr; assert 'dask' not in sys.modules").returncode == 0

    def test_chunks_of_unknown_size(self):
        x, k = da.arange(20, chunks=5), np.ones(3, int)
        unknown = x[x > 3]
        with pytest.raises(ValueError, match=r"x has chunks of unknown size along axis 0; x\.compute_chunk_sizes\(\)"):
            fastcorr.dask.correlate(unknown, k)
        with pytest.raises(ValueError, match=r"k has chunks of unknown size along axis 0; k\.compute_chunk_sizes\(\)"):
            fastcorr.dask.correlate(x, unknown)
        with pytest.raises(ValueError, match=r"g has chunks of unknown size along axis 0; g\.compute_chunk_sizes\(\)"):
            fastcorr.dask.correlate_vjp(unknown, x, k)
        y = fastcorr.dask.correlate(unknown.compute_chunk_sizes(), k)
        assert same_bits(computed(y), fastcorr.correlate(np.arange(4, 20), k))

    def test_out(self):
        for face, k in (("correlate", np.ones(3)), ("match_template", np.ones(3)), ("conv", np.ones((1, 2, 3)))):
            with pytest.raises(TypeError, match=r"takes no out; dask\.array\.store\(y, out\)"):
                getattr(fastcorr.dask, face)(da.ones((2, 9), chunks=3), k, out=np.empty((2, 7)))

    @pytest.mark.parametrize(
        ("call", "kind", "match"),
        [
            (lambda f, x: f.correlate(x, np.ones(9)), ValueError, "kernel is longer than x along axis 0: 9 > 5"),
            (lambda f, x: f.correlate(x, np.ones(3), boundary="no"), ValueError, "boundary='no' is not one of"),
            (lambda f, x: f.correlate(x, np.ones(3), method="no"), ValueError, "method='no' is not one of"),
            (lambda f, x: f.correlate(x.astype(int), [1], method="fft"), ValueError, "method='fft' cannot serve"),
            (lambda f, x: f.convolve(x.astype(object), [1]), TypeError, "x has dtype object"),
            (lambda f, x: f.conv(x[None], np.ones((1, 2, 3))), ValueError, "x has 1 channels along axis 0"),
            (lambda f, x: f.conv(x[None], np.ones((1, 1, 3)), method="no"), ValueError, "method='no' is not one of"),
            (
                lambda f, x: f.correlate_vjp(x, x, [1, 2]),
                ValueError,
                "g and the result of correlate differ along axis 0",
            ),
            (lambda f, x: f.match_template(x, np.ones(9)), ValueError, "kernel is longer than x along axis 0: 9 > 5"),
            (lambda f, x: f.match_template(x, [1, 2], mask=[0, 0]), ValueError, "mask is zero everywhere"),
            (lambda f, x: f.match_template(x * 1j, [1, 2]), TypeError, "x has dtype complex128"),
            (lambda f, x: f.correlate_vjp(x, x, [1], method="no"), ValueError, "method='no' is not one of"),
            (lambda f, x: f.correlate_vjp(x, x, [1], need=(1,)), ValueError, "need has 1 entries"),
            (lambda f, x: f.convolve_vjp(x > 2, x > 2, [True]), TypeError, "dtype bool, which has no gradient"),
            (lambda f, x: f.conv_vjp(x, x[None], [[[1, 2]]]), ValueError, "g has shape"),
        ],
    )
    def test_are_those_of_the_core_and_come_at_once(self, call, kind, match):
        x = np.arange(5.0)
        messages = []
        for module, data in ((fastcorr, x), (fastcorr.dask, da.from_array(x, chunks=2))):
            with pytest.raises(kind, match=match) as error:
                call(module, data)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_example_stays_within_its_budget(tmp_path):
    """A volume of 125 MiB with 96 MiB to work in, of which the stacks of four threads are a third."""
    pytest.importorskip("matplotlib")
    if sys.platform != "linux":
        pytest.skip("it reads /proc")
    script = Path(__file__).parents[1] / "examples" / "out_of_core.py"
    options = ["--side", "320", "--budget", "96", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, script, *options], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "np.load of the whole: MemoryError" in done.stdout
    assert "100% Completed" in done.stdout
    assert "bit for bit the result in memory" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out_of_core.png"]

"""Reuse and introspection: `plan`, `Plan`, `correlation_lags`, `show_config`, `method`. Budget: 5 seconds."""

import copy
import inspect
import pickle
import threading

import numpy as np
import pytest
from common import FACES, environment, python, random_case, same_bits, succeeds, whole, wide
from hypothesis import given, settings
from hypothesis import strategies as st

import fastcorr
from fastcorr import isa

x = whole(np.random.default_rng(0), (20, 30), "float32")
k = whole(np.random.default_rng(1), (3, 4), "float32")


class TestPlan:
    """`plan(f, *args, **kwargs)` is the call, resolved once; `plan(x)` runs it on new data."""

    @settings(max_examples=200)
    @given(st.randoms(use_true_random=False))
    def test_is_the_call(self, rng):
        case = random_case(rng)
        f, data, kernel = getattr(fastcorr, case.face), case.x.make(), case.k.make()
        plan = fastcorr.plan(f, data, kernel, **case.options)
        want = f(data, kernel, **case.options)
        assert same_bits(plan(np.asarray(data)), want), repr(case)
        fresh = pickle.loads(pickle.dumps(plan))
        assert same_bits(fresh(np.asarray(data)), want), repr(case)
        out = np.empty_like(want)
        assert plan(np.asarray(data), out=out) is out
        assert same_bits(out, want)

    def test_on_new_data(self):
        plan = fastcorr.plan(fastcorr.convolve, x, k, "same", boundary="wrap", stride=2)
        for seed in range(5):
            new = whole(np.random.default_rng(seed), x.shape, x.dtype)
            assert same_bits(plan(new), fastcorr.convolve(new, k, "same", boundary="wrap", stride=2))

    def test_results_are_new_each_time(self):
        plan = fastcorr.plan(fastcorr.correlate, x, k)
        first = plan(x)
        before = first.copy()
        plan(x + 1)
        assert same_bits(first, before)

    def test_only_shape_and_dtype_of_the_first_array_count(self):
        assert same_bits(fastcorr.plan(fastcorr.correlate, np.empty_like(x), k)(x), fastcorr.correlate(x, k))

    def test_the_kernel_is_copied(self):
        kernel = k.copy()
        plan = fastcorr.plan(fastcorr.correlate, x, kernel)
        want = plan(x)
        kernel[...] = 0
        assert same_bits(plan(x), want)
        assert same_bits(pickle.loads(pickle.dumps(plan))(x), want)

    def test_the_kernel_of_a_reference_plan_is_copied(self):
        kernel = k.copy()
        plan = fastcorr.plan(fastcorr.correlate, x, kernel, method="reference")
        want = plan(x)
        kernel[...] = 0
        assert same_bits(plan(x), want)

    def test_any_layout(self):
        plan, want = fastcorr.plan(fastcorr.correlate, x, k), fastcorr.correlate(x, k)
        assert same_bits(plan(np.asfortranarray(x)), want)
        assert same_bits(plan(x[::-1].copy()[::-1]), want)

    def test_lists(self):
        plan = fastcorr.plan(fastcorr.correlate, [1, 2, 3], [1, 1])
        assert plan([4, 5, 6]).tolist() == [9, 11]

    def test_arguments_by_name(self):
        plan = fastcorr.plan(fastcorr.correlate, k=k, x=x, mode="full")
        assert same_bits(plan(x), fastcorr.correlate(x, k, "full"))

    def test_out_may_overlap(self):
        plan = fastcorr.plan(fastcorr.correlate, x, k, "same")
        want, data = plan(x), x.copy()
        assert plan(data, out=data) is data
        assert same_bits(data, want)

    def test_non_finite_kernels_and_batches(self):
        kernels = whole(np.random.default_rng(3), (20, 5), "complex64")
        plan = fastcorr.plan(fastcorr.correlate, x, kernels, axes=1, mode="same")
        assert same_bits(plan(x), fastcorr.correlate(x, kernels, axes=1, mode="same"))

    def test_is_a_plan(self):
        assert isinstance(fastcorr.plan(fastcorr.correlate, x, k), fastcorr.Plan)


class TestLayers:
    """A layer's plan is its call on new data, with weights and bias as they were."""

    cases = (
        (fastcorr.conv, (2, 4, 9, 8), (6, 2, 3, 3), {"groups": 2, "padding": "same", "stride": 2}),
        (fastcorr.conv_transpose, (2, 4, 5), (4, 3, 3), {"stride": 2, "output_padding": 1}),
        (fastcorr.local_conv, (3, 2, 6), (4, 5, 2, 3), {}),
        (fastcorr.conv, (2, 5), (3, 2, 2), {"boundary": "wrap", "padding": 1, "dtype": "complex64"}),
        (fastcorr.conv, (2, 5), (3, 2, 2), {"method": "reference"}),
    )

    @pytest.mark.parametrize(("face", "x", "w", "options"), cases)
    def test_is_the_call(self, face, x, w, options):
        rng = np.random.default_rng(0)
        w = rng.standard_normal(w)
        want = face(np.zeros(x), w, **options)
        bias = rng.standard_normal(want.shape[0 if len(x) == 2 else 1])
        plan = fastcorr.plan(face, np.zeros(x), w, bias, **options)
        data = rng.standard_normal(x)
        want = face(data, w, bias, **options)
        w[...] = bias[...] = 0
        assert isinstance(plan, fastcorr.Plan)
        for one in (plan, copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
            assert same_bits(one(data), want)
            out = np.empty_like(want)
            assert one(data, out=out) is out
            assert same_bits(out, want)
        assert face.__name__ in str(plan)
        assert f"method {options.get('method', 'direct')}" in str(plan)

    def test_bad_input(self):
        plan = fastcorr.plan(fastcorr.conv, np.zeros((1, 2, 5)), np.zeros((3, 2, 2)))
        with pytest.raises(ValueError, match=r"\(1, 2, 6\), the plan was made for \(1, 2, 5\)"):
            plan(np.zeros((1, 2, 6)))
        with pytest.raises(TypeError, match="float32, the plan was made for float64"):
            plan(np.zeros((1, 2, 5), np.float32))
        with pytest.raises(ValueError, match="channels"):
            fastcorr.plan(fastcorr.conv, np.zeros((1, 3, 5)), np.zeros((3, 2, 2)))
        with pytest.raises(AttributeError):
            plan.w = None
        with pytest.raises(ValueError, match="read-only"):
            plan.w[...] = 0


class TestImmutable:
    plan = fastcorr.plan(fastcorr.correlate, x, k)

    def test_attributes_cannot_be_set(self):
        for name in ("method", "k", "problem", "anything"):
            with pytest.raises((AttributeError, TypeError)):
                setattr(self.plan, name, None)
            with pytest.raises((AttributeError, TypeError)):
                delattr(self.plan, name)

    def test_arrays_it_shows_cannot_be_written(self):
        for name, value in inspect.getmembers(self.plan):
            if isinstance(value, np.ndarray):
                assert not value.flags.writeable, name

    def test_tables_it_shows_are_not_its_own(self):
        """Writing to what it shows is an error or changes nothing."""
        text, want = str(self.plan), self.plan(x)
        for _, value in inspect.getmembers(self.plan):
            if isinstance(value, dict):
                try:
                    value["direct"] = 1e9
                except TypeError:
                    continue
        assert str(self.plan) == text
        assert same_bits(self.plan(x), want)

    def test_copies_and_pickles(self):
        want = self.plan(x)
        for other in (copy.copy(self.plan), copy.deepcopy(self.plan), pickle.loads(pickle.dumps(self.plan, 2))):
            assert same_bits(other(x), want)
            assert other.method == self.plan.method

    def test_pickle_is_for_other_processes(self, tmp_path):
        """Even on another instruction set, and where the planner never saw the call."""
        plan = fastcorr.plan(fastcorr.convolve, x, k.astype(complex), "same", boundary="wrap", fill=2j)
        (tmp_path / "plan").write_bytes(pickle.dumps(plan))
        np.save(tmp_path / "x", x)
        np.save(tmp_path / "y", plan(x))
        code = f"""
import pickle
import numpy as np
plan = pickle.load(open({str(tmp_path / "plan")!r}, "rb"))
assert np.array_equal(plan(np.load({str(tmp_path / "x.npy")!r})), np.load({str(tmp_path / "y.npy")!r}))
print(plan)
"""
        for level in isa.usable():
            assert level in succeeds(code, FASTCORR_ISA=level)

    def test_pickle_is_small(self):
        assert len(pickle.dumps(self.plan)) < 4000

    def test_is_shared_between_threads(self):
        big, kernel = wide(np.random.default_rng(2), (800, 700)), wide(np.random.default_rng(3), (7, 7))
        plan = fastcorr.plan(fastcorr.correlate, big, kernel, "same")
        want, failures = plan(big), []

        def work():
            for _ in range(10):
                if not same_bits(plan(big), want):
                    failures.append(1)

        workers = [threading.Thread(target=work) for _ in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failures

    def test_follows_the_number_of_threads(self):
        big = np.ones((2000, 2000), "float32")
        plan = fastcorr.plan(fastcorr.correlate, big, np.ones((9, 9), "float32"))
        with fastcorr.num_threads(1):
            assert "threads 1" in str(plan)
        assert f"threads {fastcorr.get_num_threads()}" in str(plan)


class TestPrint:
    """print(plan) says which method, ISA and threads, and the cost of each method or why it lost."""

    def test_names_all(self):
        text = str(fastcorr.plan(fastcorr.correlate, x, k))
        for word in ("correlate", "direct", isa.LEVEL, "thread", "reference", "(20, 30)", "(3, 4)", "float32", "ms"):
            assert word in text, word

    def test_gives_the_reason_against(self):
        text = str(fastcorr.plan(fastcorr.convolve, x.astype("g"), k))
        direct = next(line for line in text.splitlines() if "direct" in line)
        assert "kernel" in direct
        assert "longdouble" in direct or "float128" in direct
        assert "convolve" in text
        assert "method reference" in text

    def test_large_and_small_differ_in_threads(self):
        small = str(fastcorr.plan(fastcorr.correlate, x, k))
        assert "threads 1" in small

    def test_repr_is_short(self):
        assert len(repr(fastcorr.plan(fastcorr.correlate, x, k))) < 1000


class TestMethod:
    @pytest.mark.parametrize("face", FACES)
    def test_all_agree(self, face):
        f = getattr(fastcorr, face)
        results = [f(x, k, "full", method=method) for method in ("auto", "direct", "reference")]
        assert all(np.array_equal(results[0], other) for other in results)

    def test_auto_is_direct_where_it_can(self):
        assert fastcorr.plan(fastcorr.correlate, x, k).method == "direct"
        assert fastcorr.plan(fastcorr.correlate, x.astype("g"), k).method == "reference"

    @pytest.mark.parametrize("dtype", ["int64", "int32", "float64", "bool", "float16"])
    @pytest.mark.parametrize("level", isa.usable())
    def test_auto_is_direct_for_the_smallest_kernel(self, dtype, level):
        from fastcorr import planner

        assert planner.resolve("correlate", x.astype(dtype), np.ones((1, 1), dtype), level=level).method == "direct"

    def test_a_plan_keeps_the_method_asked_for(self):
        plan = fastcorr.plan(fastcorr.correlate, x, k, method="reference")
        assert plan.method == "reference"
        assert pickle.loads(pickle.dumps(plan)).method == "reference"


class TestLags:
    """correlation_lags(n, m, mode): the lag of each output sample."""

    @pytest.mark.parametrize("mode", ["valid", "full"])
    def test_is_scipys(self, mode):
        signal = pytest.importorskip("scipy.signal")
        for n in range(1, 9):
            for m in range(1, n + 1):
                np.testing.assert_array_equal(
                    fastcorr.correlation_lags(n, m, mode), signal.correlation_lags(n, m, mode)
                )

    @pytest.mark.parametrize("mode", ["valid", "same", "full"])
    def test_belongs_to_correlate(self, mode):
        """The sample at lag l is sum over j of k[j] x[j + l]."""
        rng = np.random.default_rng(4)
        for n in range(1, 9):
            for m in range(1, 9 if mode != "valid" else n + 1):
                data, kernel = whole(rng, n, "int64", "small"), whole(rng, m, "int64", "small")
                lags = fastcorr.correlation_lags(n, m, mode)
                want = [sum(kernel[j] * data[j + lag] for j in range(m) if 0 <= j + lag < n) for lag in lags]
                np.testing.assert_array_equal(fastcorr.correlate(data, kernel, mode), want)

    def test_default_is_valid(self):
        assert fastcorr.correlation_lags(5, 3).tolist() == [0, 1, 2]

    def test_windows_of_lags(self):
        assert fastcorr.correlation_lags(5, 3, [(2, 0)]).tolist() == [-2, -1, 0, 1, 2]

    def test_are_plain_integers(self):
        lags = fastcorr.correlation_lags(np.int64(5), np.uint8(3), "full")
        assert lags.dtype == np.intp
        assert lags.tolist() == [-2, -1, 0, 1, 2, 3, 4]


class TestShowConfig:
    def test_says_it_all(self, capsys):
        assert fastcorr.show_config() is None
        text = capsys.readouterr().out
        for word in (fastcorr.__version__, isa.LEVEL, *isa.usable(), "OpenMP", "threads", np.__version__, "FFT"):
            assert word in text, word
        assert "gcc" in text or "clang" in text or "msvc" in text

    def test_threads_are_this_contexts(self, capsys):
        with fastcorr.num_threads(1):
            fastcorr.show_config()
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("threads"))
        assert line.split()[1] == "1"


class TestPublicNames:
    def test_all(self):
        names = {
            "correlate",
            "convolve",
            "correlation_lags",
            "plan",
            "show_config",
            "set_num_threads",
            "get_num_threads",
            "num_threads",
        }
        assert names <= set(fastcorr.__all__)
        assert all(hasattr(fastcorr, name) for name in fastcorr.__all__)

    def test_signatures_are_the_contracts(self):
        for face in FACES:
            parameters = inspect.signature(getattr(fastcorr, face)).parameters
            assert list(parameters) == [
                "x", "k", "mode", "axes", "boundary", "fill", "anchor", "stride", "dilation", "method", "dtype", "out"
            ]  # fmt: skip
            defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
            assert defaults == {
                "mode": "valid", "axes": None, "boundary": "constant", "fill": 0, "anchor": None, "stride": 1,
                "dilation": 1, "method": "auto", "dtype": None, "out": None,
            }  # fmt: skip
            assert [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY] == list(parameters)[3:]

    def test_docstring_examples(self):
        """Run in a fresh process: examples may change settings."""
        code = """
import doctest, fastcorr, sys
from fastcorr import config, contraction, gradients, layers, nn, planner, signal, threads
modules = (config, contraction, gradients, layers, nn, planner, signal, threads)
results = [doctest.testmod(m) for m in modules]
assert sum(r.attempted for r in results) > 10
sys.exit(sum(r.failed for r in results))
"""
        succeeds(code)

    def test_fuzz_script(self):
        """tests/fuzz.py, seeded and short: the script itself must work."""
        code = "import fuzz, sys; sys.exit(fuzz.main(['--n', '{}', '--seed', 'suite']))"
        assert "300 calls" in succeeds(code.format(300))

    def test_fuzz_script_can_fail(self):
        code = """
import fastcorr, fuzz, numpy
fastcorr.reference.correlate = lambda problem, x, k, dtype=None: numpy.zeros(problem.out_shape, problem.dtype)
raise SystemExit(fuzz.main(["--n", "20"]))
"""
        done = python(code)
        assert done.returncode == 1
        assert "Case(" in done.stdout
        assert environment()["PYTHONPATH"]

"""The three promises, and the controls: same bits, local NaN, plain arrays, fork, Ctrl-C, GIL, memory, threads.

1. Bitwise the same result for any number of threads, any batch, any memory layout and any position (the last is
   TestTranslation of test_properties.py).
2. Never `exit()`s, never hangs after `fork`, gives Ctrl-C back in under 50 ms, releases the GIL.
3. Scratch memory does not grow with the input.

What can hang, exit or exhaust memory runs in a process of its own, with a time limit. Budget: 60 seconds.
"""

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
from common import FACES, LEVELS, RULES, environment, laid_out, python, run, same_bits, succeeds, wide

import fastcorr
from fastcorr import isa, kernels, planner

LIMIT = fastcorr.get_num_threads()
FLOATS = ("float32", "float64", "complex64", "complex128", "float16")

# (x shape, k shape, options): together they reach the in-place, gathered, strided, dilated and batched paths, and each
# is large enough to run in parallel.
LARGE = {
    "image": ((300, 500), (5, 7), {"mode": "same", "boundary": "reflect"}),
    "image-tall-kernel": ((200, 300), (60, 3), {}),
    "image-wide-kernel": ((40, 1000), (3, 90), {"mode": "full"}),
    "strided-dilated": ((800, 900), (5, 5), {"stride": (2, 3), "dilation": (3, 2), "mode": "same", "boundary": "wrap"}),
    "signal": ((100000,), (77,), {"mode": "same"}),
    "signal-long-kernel": ((6000,), (2000,), {"mode": "same", "boundary": "edge"}),
    "volume": ((30, 40, 80), (3, 5, 4), {"mode": "same", "boundary": "symmetric"}),
    "colour": ((200, 300, 3), (5, 5), {"axes": (0, 1), "mode": "same"}),
    "columns": ((3000, 70), (29,), {"axes": 0}),
    "many-small": ((3000, 9, 11), (5, 5), {"mode": "same"}),
    "kernel-per-entry": ((60, 50, 70), (60, 5, 5), {"axes": (1, 2)}),
}


@cache
def data(name, dtype, seed=0):
    """(x, k, options, result); not to be written to."""
    x_shape, k_shape, options = LARGE[name]
    rng = np.random.default_rng(seed)
    x, k = wide(rng, x_shape, dtype), wide(rng, k_shape, dtype)
    return x, k, options, fastcorr.correlate(x, k, **options)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", LARGE)
class TestSameBits:
    """Promise 1, on real-valued data over eight decades: any reordering of a sum would show."""

    @pytest.mark.parametrize("level", LEVELS)
    def test_any_number_of_threads(self, name, dtype, level):
        x, k, options, _ = data(name, dtype)
        plan = planner.resolve("correlate", x, k, level=level, **options)
        one, *others = (plan.run(x, k, threads=n) for n in (1, 2, 3))
        assert all(same_bits(one, other) for other in others)

    def test_any_batch(self, name, dtype):
        """The result for a part of the batch is that part of the result for the whole."""
        x, k, options, y = data(name, dtype)
        problem = planner.resolve("correlate", x, k, **options).problem
        if problem.batch_axes:
            axis = problem.batch_axes[0]
        else:  # a batch of two, made up
            x, axis = np.stack([x[::-1], x]), 0
            y = np.stack([fastcorr.correlate(x[0], k, **options), y])
        assert same_bits(fastcorr.correlate(x, k, **options), y)
        for part in (slice(0, 1), slice(1, 2), slice(1, 50)):
            where = (slice(None),) * axis + (part,)
            few = fastcorr.correlate(x[where], k[where] if problem.k_batched else k, **options)
            assert same_bits(few, np.ascontiguousarray(y[where])), part

    def test_any_layout(self, name, dtype):
        x, k, options, y = data(name, dtype)
        for layout in ("F", "reversed", "strided", "misaligned", "swapped", "readonly"):
            other = fastcorr.correlate(laid_out(x.copy(), layout), laid_out(k.copy(), layout), **options)
            assert same_bits(y, other), layout
        for layout in ("F", "reversed", "strided", "misaligned", "swapped"):
            out = laid_out(np.empty_like(y), layout)
            fastcorr.correlate(x, k, **options, out=out)
            assert same_bits(y, np.array(out, y.dtype, order="C")), layout


class TestBatchAxis:
    """The batch may lie anywhere: bit for bit the results for its entries alone, whatever their number."""

    @pytest.mark.parametrize("kernel", [(9,), (40,), (5, 3), (3, 33), (7, 1), (1, 7), (3, 3, 3)])
    @pytest.mark.parametrize("dtype", ["float32", "complex64"])
    @pytest.mark.parametrize("channels", [1, 3, 4, 8, 15, 16, 17, 40])
    def test_last(self, channels, dtype, kernel):
        rng = np.random.default_rng(1)
        size = {1: (200,), 2: (40, 50), 3: (9, 10, 30)}[len(kernel)]
        x, k = wide(rng, (*size, channels), dtype), wide(rng, kernel, dtype)
        y = fastcorr.correlate(x, k, axes=tuple(range(len(kernel))), mode="same", boundary="reflect")
        for c in range(channels):
            want = fastcorr.correlate(x[..., c].copy(), k, mode="same", boundary="reflect")
            assert same_bits(np.ascontiguousarray(y[..., c]), want), c

    def test_shared_or_repeated_kernels(self):
        rng = np.random.default_rng(2)
        x, k = wide(rng, (20, 30, 40)), wide(rng, (1, 5, 7))
        y = fastcorr.correlate(x, k[0])
        assert same_bits(y, fastcorr.correlate(x, k, axes=(1, 2)))
        assert same_bits(y, fastcorr.correlate(x, np.broadcast_to(k, (20, 5, 7)), axes=(1, 2)))


class TestNonFinite:
    """A NaN or an Inf reaches exactly the outputs whose window covers it; all others keep their bits.

    For `auto`, which may round otherwise near them, see tests/test_spectrum.py.
    """

    CASES: ClassVar = [
        ((60, 70), (3, 3), {}),
        ((60, 70), (7, 5), {"mode": "same"}),
        ((60, 70), (7, 5), {"mode": "full", "boundary": "wrap"}),
        ((60, 70), (12, 2), {"mode": "same", "boundary": "reflect", "stride": 2}),
        ((60, 70), (5, 4), {"mode": "same", "boundary": "edge", "dilation": 3}),
        ((60, 70), (5, 4), {"mode": "same", "boundary": "symmetric", "dilation": 2, "stride": 3}),
        ((3000,), (65,), {"mode": "same"}),
        ((500,), (300,), {"mode": "full"}),
        ((8, 9, 40), (3, 3, 3), {"mode": "same", "boundary": "wrap"}),
        ((50, 20), (5,), {"axes": 0}),
        ((30, 40, 3), (4, 4), {"axes": (0, 1), "mode": "same"}),
        ((4, 30, 40), (4, 3, 3), {"axes": (1, 2)}),
    ]  # fmt: skip

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize(("x_shape", "k_shape", "options"), CASES)
    def test_stays_local(self, x_shape, k_shape, options, dtype, value, level):
        rng = np.random.default_rng(3)
        x, k = wide(rng, x_shape, dtype, 3), wide(rng, k_shape, dtype, 3)
        bad = np.zeros(x_shape, bool)
        bad[tuple(rng.integers(0, n, 6) for n in x_shape)] = True
        bad[(0,) * x.ndim] = bad[(-1,) * x.ndim] = True
        clean, dirty = np.where(bad, 0, x).astype(dtype), np.where(bad, value, x).astype(dtype)
        for face in FACES:
            covered = fastcorr.correlate if face == "correlate" else fastcorr.convolve
            covered = covered(bad.astype("int64"), np.ones(k_shape, "int64"), **options) > 0
            with np.errstate(all="ignore"):
                want, got = (run(face, x, k, level, **options, method="direct") for x in (clean, dirty))
            np.testing.assert_array_equal(~np.isfinite(got), covered)
            assert same_bits(got[~covered], want[~covered])

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("dtype", FLOATS)
    def test_in_fill(self, dtype, value):
        rng = np.random.default_rng(4)
        x, k = wide(rng, (20, 30), dtype, 3), wide(rng, (5, 4), dtype, 3)
        got = fastcorr.correlate(x, k, "full", fill=value)
        inside = np.zeros(got.shape, bool)
        inside[4:-4, 3:-3] = True
        np.testing.assert_array_equal(np.isfinite(got), inside)
        assert same_bits(got[inside], fastcorr.correlate(x, k).ravel())

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_in_a_fill_that_is_not_read(self, dtype):
        x, k = np.ones((20, 30), dtype), np.ones((3, 3), dtype)
        for options in ({}, {"mode": "same", "boundary": "wrap"}):
            assert np.isfinite(fastcorr.correlate(x, k, fill=np.nan, **options)).all()

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_in_the_kernel_reaches_all(self, dtype):
        k = np.ones((3, 3), dtype)
        k[1, 2] = np.nan
        assert np.isnan(fastcorr.correlate(np.ones((9, 20), dtype), k, "same", boundary="edge")).all()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_zero_taps_count_as_covering(self, dtype):
        x = np.zeros(40, dtype)
        x[20] = np.inf
        got = fastcorr.correlate(x, np.array([1, 0, 1], dtype))
        assert got[18] == got[20] == np.inf
        assert np.isnan(got[19])
        assert np.isfinite(np.delete(got, (18, 19, 20))).all()

    @pytest.mark.parametrize("dtype", ["complex64", "complex128"])
    @pytest.mark.parametrize("fill", [0, 1, 2 - 1j])
    @pytest.mark.parametrize("mode", ["valid", "same"])
    def test_a_real_kernel_keeps_the_parts_apart(self, dtype, fill, mode):
        x = np.ones(40, dtype)
        x[20] = complex(np.inf, 2)
        got = fastcorr.correlate(x, np.ones(3, x.real.dtype), mode, fill=fill)
        assert np.isinf(got.real).sum() == 3
        assert np.isfinite(got.imag).all()

    def test_infinities_of_one_sign_add_up(self):
        x = np.full((9, 40), np.inf, "float32")
        assert (fastcorr.correlate(x, np.ones((3, 3), "float32"), "same", boundary="edge") == np.inf).all()


class TestPlainArrays:
    """Subclasses and masked arrays are treated as the plain arrays they hold; results are plain."""

    @pytest.mark.parametrize("kind", ["matrix", "memmap", "masked", "subclass", "recarray-field"])
    def test_any_array(self, kind, tmp_path):
        x = np.arange(42.0).reshape(6, 7)
        want = fastcorr.correlate(x, np.ones((2, 3)))

        class Loud(np.ndarray):
            def __array_ufunc__(self, *args, **kwargs):
                raise AssertionError("no ufunc may see a subclass")

            def __array_function__(self, *args, **kwargs):
                raise AssertionError("no function may see a subclass")

        if kind == "matrix":
            wrapped = np.asarray(x).view(np.matrix)
        elif kind == "memmap":
            wrapped = np.memmap(tmp_path / "x", float, "w+", shape=x.shape)
            wrapped[...] = x
        elif kind == "masked":
            wrapped = np.ma.masked_array(x, x % 2 == 0)
        elif kind == "subclass":
            wrapped = x.view(Loud)
        else:
            wrapped = np.zeros(x.shape, [("pad", "i1"), ("value", float)])
            wrapped["value"] = x
            wrapped = wrapped["value"]
        for options in ({}, {"mode": "same", "boundary": "wrap"}, {"dtype": "float32"}, {"method": "reference"}):
            got = fastcorr.correlate(wrapped, np.ones((2, 3)), **options)
            assert type(got) is np.ndarray
            np.testing.assert_array_equal(got, fastcorr.correlate(x, np.ones((2, 3)), **options))
        np.testing.assert_array_equal(
            fastcorr.correlate(np.ones((9, 9)), wrapped), fastcorr.correlate(np.ones((9, 9)), x)
        )
        assert same_bits(fastcorr.correlate(wrapped, np.ones((2, 3))), want)

    def test_the_array_protocol(self):
        class Wrapped:
            def __array__(self, dtype=None, copy=None):
                return np.arange(9.0)

        assert same_bits(fastcorr.correlate(Wrapped(), [1.0, 2.0]), fastcorr.correlate(np.arange(9.0), [1.0, 2.0]))


BIG = """
import os, sys, threading, time
import numpy as np, fastcorr
x = np.random.default_rng(0).random((1500, 1500), np.float32)
k = np.random.default_rng(1).random((9, 9), np.float32)
def big():
    return fastcorr.correlate(x, k, "same").tobytes()
def tasks():
    return len(os.listdir("/proc/self/task"))
"""


class TestFork:
    """After a parallel call a forked child works, in parallel; nothing hangs (20 seconds are given)."""

    def test_fork(self):
        out = succeeds(
            BIG
            + """
want, before = big(), tasks()
for turn in range(5):
    pid = os.fork()
    if pid == 0:
        for _ in range(100):  # calls go without a thread for a while after waiting for it
            if big() != want or tasks() == before:
                break
            time.sleep(0.06)
        os._exit(0 if big() == want and tasks() == before else 1)
    assert os.waitpid(pid, 0)[1] == 0, turn
    assert big() == want
""",
            timeout=20,
        )
        assert out == ""

    def test_grandchild(self):
        succeeds(
            BIG
            + """
want = big()
for generation in range(4):
    pid = os.fork()
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert big() == want
""",
            timeout=20,
        )

    @pytest.mark.parametrize("first", ["big()", ""])
    def test_multiprocessing(self, first):
        succeeds(
            f"{BIG}\nimport multiprocessing\n{first}\n"
            """
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert len({hash(y) for y in [*pool.starmap(big, [()] * 6)]} | {hash(big())}) == 1 or os.environ["PYTHONHASHSEED"]
    assert set(pool.starmap(big, [()] * 4)) == {big()}
""",
            timeout=40,
        )

    def test_from_a_thread_and_in_a_threads_child(self):
        succeeds(
            BIG
            + """
want, codes = big(), []
def forks():
    assert big() == want
    pid = os.fork()
    if pid == 0:
        good = big() == want
        worker = threading.Thread(target=big)
        worker.start()
        worker.join()
        os._exit(0 if good else 1)
    codes.append(os.waitpid(pid, 0)[1])
for _ in range(3):
    worker = threading.Thread(target=forks)
    worker.start()
    worker.join()
assert codes == [0, 0, 0] and big() == want
""",
            timeout=20,
        )

    def test_beside_a_thread_that_has_called(self):
        """It calls again after each fork: LLVM's runtime crashed where gcc's did not (torch's DataLoader forks so)."""
        succeeds(
            BIG
            + """
want, ask, answer = big(), threading.Semaphore(0), threading.Semaphore(0)
def calls():
    for _ in range(4):
        ask.acquire()
        assert big() == want
        answer.release()
threading.Thread(target=calls).start()
for turn in range(4):
    ask.release()
    assert answer.acquire(timeout=10), turn
    pid = os.fork()
    if pid == 0:
        os._exit(0 if big() == want else 1)
    assert os.waitpid(pid, 0)[1] == 0
""",
            timeout=20,
        )

    def test_while_other_threads_are_calling(self):
        succeeds(
            BIG
            + """
want, stop = big(), False
def busy():
    while not stop:
        assert big() == want
threads = [threading.Thread(target=busy) for _ in range(2)]
[t.start() for t in threads]
for _ in range(8):
    time.sleep(0.01)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if big() == want else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop = True
[t.join() for t in threads]
assert big() == want
""",
            timeout=40,
        )


def comes_back(arrays, call, threads):
    """`call`, which takes seconds, is interrupted; the process lives on and computes as before."""
    code = f"""
import signal, time
import numpy as np, fastcorr
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores Ctrl-C
small = fastcorr.correlate(np.arange(9.0), [1.0, 2.0]).tolist()
{arrays}
try:
    print("ready", flush=True)
    {call}
    print("finished", flush=True)
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
assert fastcorr.correlate(np.arange(9.0), [1.0, 2.0]).tolist() == small
"""
    delays = []
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(FASTCORR_NUM_THREADS=str(threads)),
        )
        try:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.5)
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            answer = child.communicate(timeout=30)[0].strip()
        finally:
            child.kill()
        assert answer != "finished", "the call was too short to interrupt"
        assert child.returncode == 0
        delays.append(float(answer) - sent)
        if delays[-1] < 0.05:
            break
    assert min(delays) < 0.1


class TestInterrupt:
    """Ctrl-C in a call of many seconds is a KeyboardInterrupt within 50 ms (100 here: machines under test are busy)."""

    CALLS: ClassVar = {
        "image": ("np.ones((4000, 4000), 'f4'), np.ones((120, 120), 'f4')", ""),
        "gathered": ("np.ones((8000, 8000), 'u1'), np.ones((90, 90), 'u1')", "mode='same', dtype='i4', stride=2"),
        "signal": ("np.ones(10**7, 'f8'), np.ones(90000, 'f8')", ""),
        "huge-kernel": ("np.ones((1004, 40000), 'f4'), np.ones((1000, 3000), 'f4')", ""),
        "many-entries": ("np.ones((3000, 200, 200), 'f4'), np.ones((61, 61), 'f4')", "mode='same'"),
        "kernel-per-entry": ("np.ones((200, 300, 300), 'f4'), np.ones((200, 99, 99), 'f4')", "axes=(1, 2)"),
        "columns": ("np.ones((200000, 64), 'c16'), np.ones(9000, 'c16')", "axes=0"),
        "volume": ("np.ones((300, 300, 300), 'i8'), np.ones((30, 30, 30), 'i8')", "mode='same', boundary='wrap'"),
    }

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("call", CALLS)
    def test_comes_back(self, call, threads):
        arrays, options = self.CALLS[call]
        comes_back(f"arrays = {arrays}", f"fastcorr.correlate(*arrays, method='direct', {options})", threads)


class TestGIL:
    """Python threads run on while a call computes."""

    @pytest.mark.parametrize(
        ("x", "k", "options"),
        [
            (np.ones((3000, 3000), "f4"), np.ones((51, 51), "f4"), {}),
            (np.ones((3000, 3000), "u1"), np.ones((51, 51), "u1"), {"dtype": "i4", "stride": 2, "mode": "full"}),
            (np.ones(200000), np.ones(20000), {}),
        ],
        ids=["image", "gathered", "signal"],
    )
    def test_is_released(self, x, k, options):
        ticks, stop = [], threading.Event()

        def tick():
            while not stop.wait(0.001):
                ticks.append(time.perf_counter())

        clock = threading.Thread(target=tick)
        clock.start()
        with fastcorr.num_threads(1):
            start = time.perf_counter()
            fastcorr.correlate(x, k, **options, method="direct")
            end = time.perf_counter()
        stop.set()
        clock.join()
        assert end - start > 0.05, "too short to tell"
        during = sum(start < t < end for t in ticks)
        assert during > (end - start) / 0.001 / 10


class TestScratch:
    """Promise 3: beyond its input and output a call takes at most 1 MiB per thread and what one boundary line needs."""

    CALLS: ClassVar = {
        "image": ("np.full((10000, 10000), 1, 'f4')", "'f4'", "'same'", {}),
        "image-reflect": ("np.full((10000, 10000), 1, 'f4')", "'f4'", "'full'", {"boundary": "reflect"}),
        "float64": ("np.full((7000, 7000), 1, 'f8')", "'f8'", "'same'", {"boundary": "wrap"}),
        "complex": ("np.full((7000, 7000), 1j, 'c8')", "'c8'", "'same'", {"boundary": "edge"}),
        "turned-and-reversed": ("np.full((10000, 10000), 1, 'f4').T[::-1, ::-1]", "'f4'", "'same'", {}),
        "big-endian": ("np.full((10000, 10000), 1, '>f4')", "'f4'", "'same'", {}),
        "bytes-to-int32": ("np.full((10000, 10000), 1, 'u1')", "'u1'", "'same'", {"dtype": "int32"}),
        "half": ("np.full((10000, 10000), 1, 'f2')", "'f2'", "'same'", {}),
        "strided": ("np.full((10000, 10000), 1, 'f4')", "'f4'", "'same'", {"stride": 2, "dilation": 3}),
        "colour": ("np.full((6000, 5000, 3), 1, 'f4')", "'f4'", "'same'", {"axes": (0, 1)}),
        "small-in-large": ("np.full((10**6, 9, 9), 1, 'f4')", "'f4'", "'same'", {}),
        "crop": ("np.full((10000, 10000), 1, 'f4')", "'f4'", "((-5, 3), (3, -5))", {}),
        "every-1000th": ("np.full((10000, 10000), 1, 'f4')", "'f4'", "'same'", {"stride": (1, 1000)}),
    }

    @pytest.mark.parametrize("call", CALLS)
    def test_is_bounded(self, call):
        x, k_dtype, mode, options = self.CALLS[call]
        grown = succeeds(
            f"""
import resource
import numpy as np, fastcorr
x, k, mode, options = {x}, np.ones((3, 3), {k_dtype}), {mode}, {options!r}
small = x[:600, :600] if x.ndim == 2 else x[:6000]
y = np.empty(fastcorr.planner.resolve("correlate", x, k, mode=mode, **options).problem.out_shape,
             options.get("dtype") or np.result_type(x, k))
y.fill(1)
fastcorr.correlate(small, k, mode, **options)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fastcorr.correlate(x, k, mode, **options, out=y)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
        )
        assert int(grown) < 8 * 1024


class TestLayers:
    """The same promises for layers and their gradients, whose loops are others."""

    CALLS: ClassVar = {
        "output": "fastcorr.conv(x, w, padding=1)",
        "output-dilated": "fastcorr.conv(x, w, dilation=(1, 30))",
        "input-gradient": "fastcorr.conv_vjp(y, x, w, padding=1, need=(True, False, False))",
        "weight-gradient": "fastcorr.conv_vjp(y, x, w, padding=1, need=(False, True, False))",
    }

    @pytest.mark.parametrize("call", CALLS)
    def test_scratch_is_bounded(self, call):
        """By 4 MiB and one packed copy of the weights, beside what is returned."""
        grown = succeeds(
            f"""
import resource
import numpy as np, fastcorr
x, w = (np.ones(shape, "f4") for shape in ((1, 8, 2000, 1500), (8, 8, 3, 3)))
y = np.ones_like(x)
whole = [x, y]
x, y = (a[:, :, :400, :1400] for a in whole)
{self.CALLS[call]}
x, y = whole
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = {self.CALLS[call]}
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = sum(a.nbytes for a in (result if isinstance(result, tuple) else (result,)) if a is not None)
print(after - before - made // 1024)
"""
        )
        assert int(grown) < 8 * 1024

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("call", CALLS)
    def test_interrupt(self, call, threads):
        arrays = "x, w, y = (np.ones(s, 'f4') for s in ((4, 256, 450, 350), (256, 256, 3, 3), (4, 256, 450, 350)))"
        comes_back(arrays, self.CALLS[call], threads)


class TestThreadsThatCannotBeHad:
    """Where the system gives no thread, a call is serial: right result, no exit.

    The address space is limited to `room` MiB more than is in use: less than the stack of one thread.
    """

    def test_no_thread_at_all(self):
        self.check(room=7)

    @pytest.mark.parametrize(("room", "stack"), [(30, "64M"), (100, "512M")])
    def test_large_stacks(self, room, stack):
        """OpenMP's threads may have larger stacks than the system's default: OMP_STACKSIZE."""
        self.check(room=room, OMP_STACKSIZE=stack)

    @pytest.mark.parametrize("history", [(2,), (4, 2), (4, 1, 3)])
    def test_a_pool_that_grew_and_shrank(self, history):
        runs = "\n".join(f"fastcorr.planner.resolve('correlate', x, k).run(x, k, threads={n})" for n in history)
        self.check(runs, room=7, OMP_STACKSIZE="64M", OMP_NUM_THREADS="4")

    def test_in_a_thread_of_its_own(self):
        """A Python thread has a pool of its own: that the main thread's exists does not help it."""
        self.check("fastcorr.correlate(x, k)", room=7, python_thread=True)

    @staticmethod
    def check(before="", *, room, python_thread=False, **env):
        out = succeeds(
            f"""
import re, resource, threading, time, _thread
import numpy as np, fastcorr
x, k = np.ones((1500, 1500), np.float32), np.ones((5, 5), np.float32)
y = np.zeros((1496, 1496), np.float32)
{before}
def limited():
    time.sleep(0.1)  # threads that a smaller region left have gone, with their stacks
    used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (used + ({room} << 20), -1))
    threading.stack_size({room} << 20)
    try:
        _thread.start_new_thread(int, ())
        print("the limit does not bite")
    except RuntimeError:
        pass
    for _ in range(3):
        fastcorr.correlate(x, k, out=y)
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
if {python_thread}:
    worker = threading.Thread(target=limited)
    worker.start()
    worker.join()
else:
    limited()
assert (y == 25).all()
print("done")
""",
            timeout=30,
            **{"OMP_NUM_THREADS": "2", **env},
        )
        assert out == "done\n"


@pytest.mark.skipif(LIMIT < 2, reason="one thread")
class TestBusyNeighbours:
    """After a call that waited for a thread without a processor, calls go without it for a while."""

    def test_a_helper_that_hardly_runs(self):
        """Its processor is kept busy by others: calls that wait for it, a quarter of a second, are 50 ms apart."""
        apart = succeeds(
            """
import os, subprocess, sys, time
import numpy as np, fastcorr
mine, theirs, *_ = os.sched_getaffinity(0)
x, k = np.ones((500, 500), np.float32), np.ones((9, 9), np.float32)
plan = fastcorr.planner.resolve("correlate", x, k)
threads = set(os.listdir("/proc/self/task"))
plan.run(x, k, threads=2)
(helper,) = set(os.listdir("/proc/self/task")) - threads
os.setpriority(os.PRIO_PROCESS, int(helper), 19)
os.sched_setaffinity(int(helper), {theirs})
os.sched_setaffinity(0, {mine})
busy = f"import os; os.sched_setaffinity(0, {{{theirs}}}); print(flush=True)\\nwhile True: pass"
neighbour = subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE)
neighbour.stdout.readline()
apart, last = [], 0
try:
    for _ in range(100):
        start = time.perf_counter()
        plan.run(x, k, threads=2)
        if time.perf_counter() - start > 0.03:
            apart.append(start - last)
            last = time.perf_counter()
finally:
    neighbour.kill()
print(*apart)
""",
            timeout=30,
        )
        assert all(float(seconds) > 0.04 for seconds in apart.split()), apart


class TestManyThreads:
    """Any number of Python threads may call at once."""

    def test_each_gets_its_own_result(self):
        problems = [data(name, dtype) for name, dtype in zip(LARGE, FLOATS * 3, strict=False)]
        failures = []

        def work(start):
            for i in range(start, start + len(problems)):
                x, k, options, want = problems[i % len(problems)]
                if not same_bits(fastcorr.correlate(x, k, **options), want):
                    failures.append(i)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failures

    def test_the_same_new_problem_at_once(self):
        """The first call of a problem is remembered; many first calls at once must not disturb each other."""
        gate, results = threading.Barrier(8), []

        def work(turn):
            gate.wait()
            results.append(fastcorr.correlate(np.ones(1000 + turn), np.ones(7)).sum())

        for turn in range(30):
            workers = [threading.Thread(target=work, args=(turn,)) for _ in range(8)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            assert results == [7.0 * (994 + turn)] * 8
            results.clear()

    def test_the_first_call_of_a_process_at_once(self):
        """A library is loaded once: who comes while another makes its module waits for all of it."""
        results, classes, rows = succeeds(
            """
import sys, threading, numpy, fastcorr
from fastcorr import isa, kernels
sys.setswitchinterval(1e-6)
gate, found = threading.Barrier(8), []
def work(row):
    gate.wait()
    found.append(getattr(kernels.load(row, isa.LEVEL), row.family.title()))
for row in kernels.KERNELS:
    workers = [threading.Thread(target=work, args=(row,)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
print(len(found), len(set(found)), len(kernels.KERNELS))
"""
        ).split()
        assert int(results) == 8 * int(rows)
        assert classes == rows

    def test_threads_come_and_go(self):
        """Short-lived threads, each with a parallel call: neither memory nor OS threads pile up."""
        before = succeeds(
            BIG
            + """
want = big()
for _ in range(60):
    worker = threading.Thread(target=big)
    worker.start()
    worker.join()
print(tasks())
"""
        )
        assert int(before) < 40


class TestSettings:
    """get_num_threads, set_num_threads, num_threads."""

    def test_limit_is_the_machines(self):
        assert 1 <= LIMIT <= len(os.sched_getaffinity(0))

    def test_set_is_for_the_process(self, restore_threads):
        seen = []
        fastcorr.set_num_threads(1)
        worker = threading.Thread(target=lambda: seen.append(fastcorr.get_num_threads()))
        worker.start()
        worker.join()
        assert fastcorr.get_num_threads() == 1
        assert seen == [1]

    def test_set_does_not_raise_the_limit(self, restore_threads):
        fastcorr.set_num_threads(10**6)
        assert fastcorr.get_num_threads() == LIMIT
        with fastcorr.num_threads(10**6):
            assert fastcorr.get_num_threads() == LIMIT

    def test_context_nests_and_ends(self):
        with fastcorr.num_threads(1):
            assert fastcorr.get_num_threads() == 1
            with fastcorr.num_threads(LIMIT):
                assert fastcorr.get_num_threads() == LIMIT
            assert fastcorr.get_num_threads() == 1
        assert fastcorr.get_num_threads() == LIMIT

    def test_context_ends_with_an_exception(self):
        with pytest.raises(KeyError), fastcorr.num_threads(1):
            raise KeyError
        assert fastcorr.get_num_threads() == LIMIT

    def test_context_is_not_other_threads(self):
        if LIMIT == 1:
            pytest.skip("one thread is all there is")
        seen = []
        with fastcorr.num_threads(1):
            worker = threading.Thread(target=lambda: seen.append(fastcorr.get_num_threads()))
            worker.start()
            worker.join()
        assert seen == [LIMIT]

    def test_copied_contexts_inherit(self):
        with fastcorr.num_threads(1):
            context = contextvars.copy_context()
        assert fastcorr.get_num_threads() == LIMIT
        assert context.run(fastcorr.get_num_threads) == 1

    def test_tasks_inherit_and_keep_to_themselves(self):
        async def task(n):
            with fastcorr.num_threads(n):
                await asyncio.sleep(0.01)
                return fastcorr.get_num_threads()

        async def inherits():
            await asyncio.sleep(0.005)
            return fastcorr.get_num_threads()

        async def main():
            with fastcorr.num_threads(1):
                child = asyncio.create_task(inherits())
            return await asyncio.gather(task(1), task(LIMIT), child, inherits())

        assert asyncio.run(main()) == [1, LIMIT, 1, LIMIT]

    @pytest.mark.parametrize("f", ["set_num_threads", "num_threads"])
    def test_less_than_one_is_an_error_at_once(self, f):
        for n in (0, -1):
            with pytest.raises(ValueError, match=str(n)):
                getattr(fastcorr, f)(n)
        with pytest.raises(TypeError, match=r"1\.5"):
            getattr(fastcorr, f)(1.5)
        assert fastcorr.get_num_threads() == LIMIT

    @pytest.mark.parametrize("n", [1, 2])
    def test_a_limit_is_kept(self, n):
        """As many OS threads as asked for, not one more."""
        out = succeeds(BIG + f"\nbefore = tasks()\nwith fastcorr.num_threads({n}):\n    big()\nprint(tasks() - before)")
        assert int(out) == min(n, LIMIT) - 1

    def test_small_calls_start_no_thread(self):
        out = succeeds(
            BIG + "\nbefore = tasks()\nfastcorr.correlate(np.ones((30, 30)), np.ones((3, 3)))\nprint(tasks() - before)"
        )
        assert int(out) == 0

    def test_threadpoolctl_is_heard(self):
        threadpoolctl = pytest.importorskip("threadpoolctl")
        fastcorr.correlate(*data("image", "float32")[:2])
        with threadpoolctl.threadpool_limits(1, user_api="openmp"):
            assert fastcorr.get_num_threads() == 1
        assert fastcorr.get_num_threads() == LIMIT


class TestEnvironment:
    """FASTCORR_NUM_THREADS, FASTCORR_ISA, OMP_NUM_THREADS, affinity: read at import; nonsense is an error there."""

    N = "import fastcorr; print(fastcorr.get_num_threads())"

    @pytest.mark.parametrize("name", ["FASTCORR_NUM_THREADS", "OMP_NUM_THREADS"])
    @pytest.mark.parametrize("n", [1, 2, 1000])
    def test_number_of_threads(self, name, n):
        assert int(succeeds(self.N, **{name: str(n)})) == min(n, LIMIT)

    def test_affinity(self):
        assert int(succeeds("import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n" + self.N)) == 1

    @pytest.mark.parametrize("value", ["0", "-2", "many", "1.5"])
    def test_nonsense_number_of_threads(self, value):
        done = python(self.N, FASTCORR_NUM_THREADS=value)
        assert done.returncode != 0
        assert f"FASTCORR_NUM_THREADS={value}" in done.stderr

    def test_set_num_threads_may_not_exceed_it(self):
        code = "import fastcorr; fastcorr.set_num_threads(64); print(fastcorr.get_num_threads())"
        assert int(succeeds(code, OMP_NUM_THREADS="1")) == 1

    @pytest.mark.parametrize("level", LEVELS)
    def test_level(self, level):
        code = """
import numpy as np, fastcorr
from fastcorr import isa, planner
print(isa.LEVEL)
fastcorr.show_config()
x = np.arange(200.0)
plan = fastcorr.plan(fastcorr.correlate, x, np.ones(5))
assert isa.LEVEL in str(plan) and plan(x)[0] == 10
"""
        out = succeeds(code, FASTCORR_ISA=level)
        assert out.startswith(level + "\n")

    def test_default_level_is_the_highest(self):
        assert (os.environ.get("FASTCORR_ISA") or LEVELS[-1]) == isa.LEVEL

    @pytest.mark.parametrize(
        "value", ["sse9", "X86_64_V3", "native", *(level for level in kernels.LEVELS if level not in LEVELS)]
    )
    def test_an_unusable_level_is_an_error(self, value):
        done = python("import fastcorr", FASTCORR_ISA=value)
        assert done.returncode != 0
        assert value in done.stderr
        assert "ImportError" in done.stderr
        assert "FASTCORR_ISA" in done.stderr

    def test_import_is_light(self):
        """numpy is all it needs."""
        code = """
import sys, numpy
before = set(sys.modules)
import fastcorr
heavy = {m.partition(".")[0] for m in set(sys.modules) - before} & {"scipy", "torch", "dask", "matplotlib", "cv2"}
assert not heavy, heavy
"""
        succeeds(code)

    def test_every_boundary_rule_is_known_to_the_kernels(self):
        """The kernels know rules by number: the order of boundary.RULES."""
        assert fastcorr.boundary.RULES == RULES

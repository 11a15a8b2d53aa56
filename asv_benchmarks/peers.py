"""The libraries that are compared, one function each, and the worker process that runs one of them.

A peer is called with a Workload or a Layer and a number of threads and returns the finished call without arguments,
everything prepared that is not correlation: arrays converted, borders made where the library has none of the kind. It
raises UnsupportedError where the library has no such call. Peers import only what they are.
"""

import ctypes
import os
import pickle
import sys
from contextlib import ExitStack
from functools import partial, reduce
from importlib import import_module
from pathlib import Path
from time import perf_counter
from timeit import Timer

import numpy as np
from benchmarks.common import array_of


class UnsupportedError(Exception):
    pass


def need(condition, reason):
    if not condition:
        raise UnsupportedError(reason)


def fastcorr(work, threads):
    import fastcorr

    fastcorr.set_num_threads(threads)
    options = work.options | ({"out": np.empty(work.shape, work.dtype)} if work.out else {})
    return partial(getattr(fastcorr, work.function), *work.arrays(), **options)


def numpy(work, threads):
    need(len(work.x) == 1, "one axis only")
    need(work.flops < 2e11, "minutes")  # it has no other method than the direct one
    return partial(np.correlate, *work.arrays(), work.mode)


def opencv(work, threads):
    import cv2

    need(len(work.x) == 2 and work.dtype.startswith("float"), "pictures of float32 and float64 only")
    need(work.mode == "same", "results as large as the picture only")
    cv2.setNumThreads(threads)
    x, k = work.arrays()
    border = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}[work.boundary]
    options = {"dst": np.empty(work.shape, work.dtype)} if work.out else {}
    if work.group == "separable":
        return partial(cv2.sepFilter2D, x, -1, *reversed(work.factors()), borderType=border)
    return partial(cv2.filter2D, x, -1, k, borderType=border, **options)


def scipy_ndimage(work, threads):
    from scipy import ndimage

    x, k = work.arrays()
    options = {"mode": {"constant": "constant", "reflect": "mirror"}[work.boundary]}
    if work.out:
        options["output"] = np.empty(work.shape, work.dtype)
    correlate = ndimage.correlate1d if x.ndim == 1 else ndimage.correlate
    if work.group == "separable":
        steps = list(enumerate(work.factors()))
        return lambda: reduce(lambda y, step: ndimage.correlate1d(y, step[1], step[0], **options), steps, x)
    if work.mode == "same":
        return partial(correlate, x, k, **options)
    inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(k.shape, work.shape, strict=True))
    return lambda: correlate(x, k, **options)[inner]  # it has no "valid"


def matchtemplate(work, threads):
    import cv2

    need(len(work.x) == 2 and work.dtype == "float32", "pictures of float32 only")
    cv2.setNumThreads(threads)
    return partial(cv2.matchTemplate, work.padded(), work.arrays()[1], cv2.TM_CCORR)


def torch_fft(work, threads):
    """All of x in one transform, as one would write it."""
    import torch
    from scipy.fft import next_fast_len

    need(work.dtype.startswith("float"), "floats only")
    torch.set_num_threads(threads)
    x, k = (torch.from_numpy(a) for a in (work.padded(), work.arrays()[1]))
    size, inner = [next_fast_len(n, True) for n in x.shape], tuple(map(slice, work.shape))
    return lambda: torch.fft.irfftn(torch.fft.rfftn(x, size) * torch.fft.rfftn(k, size).conj(), size)[inner]


def scipy_signal(work, threads, name="correlate"):
    from scipy import fft, signal

    x, k = work.padded(), work.arrays()[1]
    if name != "correlate":
        need(len(work.x) == 1 or work.group == "large", "as good as scipy.signal's correlate")
        k = np.flip(k).conj()

    def call():
        with fft.set_workers(threads):
            return getattr(signal, name)(x, k, "valid")

    return call


def torch(work, threads):
    import torch

    need(len(work.x) <= 3 and work.dtype.startswith("float"), "up to three axes of floats only")
    torch.set_num_threads(threads)
    x, k = (torch.from_numpy(a)[None, None] for a in (work.padded(), work.arrays()[1]))
    return partial(getattr(torch, f"conv{len(work.x)}d"), x, k)


FOREVER = ExitStack()  # a mode of torch ends as soon as nobody holds it


def torch_layer(work, threads, layout=None):
    """With `layout`, arrays that have their channels last in memory from the start."""
    import torch

    rank, dtype, backward = len(work.padding), work.dtype, torch.ops.aten.convolution_backward.default
    need(rank <= 3 and dtype.startswith("float"), "up to three axes of floats only")
    need(rank > 1 or not layout, "no such layout of one axis")
    torch.set_num_threads(threads)
    FOREVER.enter_context(torch.inference_mode())
    arrays = [torch.from_numpy(a) for a in work.arrays()]
    if layout:
        arrays = [a.to(memory_format=getattr(torch, f"{layout}_3d" if rank == 3 else layout)) for a in arrays]
    steps = [work.stride] * rank, work.padding, [work.dilation] * rank
    if work.function == "conv_vjp":
        return partial(backward, *arrays, None, *steps, False, [0] * rank, work.groups, work.options["need"])
    if work.function == "conv":
        return partial(getattr(torch, f"conv{rank}d"), *arrays, None, *steps, work.groups)
    options = {"stride": steps[0], "padding": steps[1], "dilation": steps[2], "output_padding": work.output_padding}
    return partial(getattr(torch, f"conv_transpose{rank}d"), *arrays, **options, groups=work.groups)


def onnxruntime(work, threads):
    """A model of one node with constant weights, which it packs beforehand, between arrays that exist."""
    need(work.function != "conv_vjp" and work.dtype == "float32", "no gradients, and float32 only")
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    data, weights = work.arrays()
    rank, y = len(work.padding), np.empty(work.shape, work.dtype)
    attributes = {"strides": [work.stride] * rank, "dilations": [work.dilation] * rank, "pads": work.padding * 2}
    if work.function == "conv_transpose":
        attributes["output_padding"] = work.output_padding
    kind = {"conv": "Conv", "conv_transpose": "ConvTranspose"}[work.function]
    node = helper.make_node(kind, ["x", "w"], ["y"], group=work.groups, **attributes)
    ends = (helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in (("x", data), ("y", y)))
    graph = helper.make_graph([node], kind, *([end] for end in ends), [numpy_helper.from_array(weights, "w")])
    opset = helper.make_opsetid("", 17)  # of 2022: every runtime since then reads it
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    binding = session.io_binding()  # a little faster than run()
    binding.bind_cpu_input("x", data)
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(y))

    def call():
        session.run_with_iobinding(binding)
        return y

    return call


def opencv_search(work, threads):
    import cv2

    cv2.setNumThreads(threads)
    return partial(cv2.matchTemplate, *work.arrays(), cv2.TM_CCOEFF_NORMED)


def skimage_search(work, threads):
    from skimage.feature import match_template

    x, t = work.arrays()
    return lambda: match_template(x, t).astype(work.dtype, copy=False)


LARGE = {
    "scipy.fftconvolve": partial(scipy_signal, name="fftconvolve"),
    "opencv.matchTemplate": matchtemplate,
    "torch.fft": torch_fft,
}
SIGNALS = {
    "fastcorr": fastcorr,
    "numpy": numpy,
    "opencv": opencv,
    "scipy.ndimage": scipy_ndimage,
    "scipy.signal": scipy_signal,
    "scipy.oaconvolve": partial(scipy_signal, name="oaconvolve"),
    "torch": torch,
}
LAYERS = {
    "fastcorr": fastcorr,
    "torch": torch_layer,
    "torch.channels_last": partial(torch_layer, layout="channels_last"),
    "onnxruntime": onnxruntime,
}
SEARCHES = {"fastcorr": fastcorr, "opencv": opencv_search, "skimage": skimage_search}
PEERS = tuple(SIGNALS | LARGE | LAYERS | SEARCHES)
MODULES = {  # where the name of the module differs
    "opencv": "cv2",
    "opencv.matchTemplate": "cv2",
    "scipy.fftconvolve": "scipy.signal",
    "scipy.oaconvolve": "scipy.signal",
    "torch.fft": "torch",
    "torch.channels_last": "torch",
}
SERIAL = {"numpy", "scipy.ndimage", "skimage"}


def able(work):
    """{name: function} of the peers for this kind of work."""
    if work.function != "correlate":
        return SEARCHES if work.function == "match_template" else LAYERS
    return SIGNALS | LARGE if work.group == "large" else SIGNALS


def look(work, result):
    """What is compared: samples against the definition, and the sum of all results against the other peers'."""
    y = array_of(result)
    y = y.reshape(y.shape[-len(work.shape) :])  # without the batch and channel that torch gives signals
    fault, eps = work.fault(y)
    return {"fault": fault, "eps": eps, "sum": y.sum(dtype=np.result_type(y, np.float64))}


def seconds(call, budget):
    """(least time of one call in this turn, the result): the least of some 30 ms of calls, or of one that is slow."""
    start = perf_counter()
    result = call()  # also wakes what slept while others had their turn
    once = perf_counter() - start
    if once > budget:
        return once, result
    timer = Timer(call)
    number = max(1, int(1e-3 / max(timer.timeit(1), 1e-7)))  # a sample is a millisecond at least
    repeats = max(3, int(0.03 / max(once, 1e-3)))
    return min(once, min(timer.repeat(repeats, number)) / number), result


def scratch(call):
    """Bytes that the memory of this process grew by during a call, at most, beyond the result; None where unknown."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or the call could use again what the making of its arrays has freed
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now
    except (AttributeError, OSError, TypeError):  # not Linux, or another C library
        return None
    before = resident("VmRSS")
    result = call()
    return resident("VmHWM") - before - array_of(result).nbytes


def resident(name):
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) << 10


def main():
    """Answer each (workload, threads, budget) from stdin with a dict, on the stdout this process was started with."""
    name = sys.argv[1].partition("@")[0]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not an answer

    def answer(**message):
        pickle.dump(message, answers)
        answers.flush()

    limit_memory()
    try:
        module = import_module(MODULES.get(name, name))
    except ImportError as error:
        return answer(error=str(error))
    version = getattr(module, "__version__", None) or import_module("scipy").__version__
    answer(version=version, level=getattr(sys.modules.get("fastcorr.isa"), "LEVEL", None))
    ready = call = None
    while True:
        try:
            work, threads, budget = request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return None
        try:
            if ready != (work, threads):
                call, ready = able(work)[name](work, threads), request[:2]
            memory = {"scratch": scratch(call), "weights": work.array("w").nbytes} if work.group == "memory" else {}
            least, result = seconds(call, budget)
            answer(seconds=least, **look(work, result), **memory)
        except Exception as error:  # any failure of a peer is an answer: it is named, and its time does not count
            answer(unsupported=isinstance(error, UnsupportedError), error=str(error).partition("\n")[0])


def limit_memory():
    """Let a peer that wants more memory than there is fail alone (torch's float64 unfolds the whole picture)."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    most = int(0.75 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()

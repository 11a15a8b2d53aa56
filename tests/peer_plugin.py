"""A pytest plugin: another library's own tests, with the functions of fastcorr.compat in the place of its own.

    cd tests && PEER=ndimage python -m pytest -p peer_plugin --pyargs scipy.ndimage.tests.test_filters

test_peers.py runs it so, once for each of PEERS. What differs on purpose is listed there with its reason and has to
fail: a difference that is gone, or a name that no test has, is an error too.
"""

import functools
import importlib
import json
import os
from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True)
class Peer:
    """A module whose functions are replaced, and the tests of them."""

    module: str
    tests: str
    least: int  # tests that reach a replaced function: about half of SciPy 1.17's, versions differ
    classes: tuple = ()  # of `tests`, and functions; all if empty
    differences: dict = field(default_factory=dict)  # test without parameters -> why it cannot pass

    @property
    def ours(self):
        return importlib.import_module("fastcorr.compat." + self.module.rpartition(".")[2])


PEERS = {
    "numpy": Peer(
        "numpy",
        "numpy._core.tests.test_numeric",
        8,
        ("TestCorrelate", "TestConvolve"),
        {"TestCorrelate::test_object": "object arrays: a TypeError, fastcorr has no arithmetic for them"},
    ),
    "signal": Peer(
        "scipy.signal",
        "scipy.signal.tests.test_signaltools",
        700,
        (
            "TestConvolve",
            "TestConvolve2d",
            "TestFFTConvolve",
            "TestOAConvolve",
            "TestAllFreqConvolves",
            "TestCorrelate",
            "TestCorrelate2d",
            "TestCorrelateComplex",
            "TestCorrelateReal",
            "test_convolve_longdtype_input",
            "test_correlation_lags",
            "test_correlation_lags_invalid_mode",
        ),
    ),
    "ndimage": Peer(
        "scipy.ndimage",
        "scipy.ndimage.tests.test_filters",
        800,
        differences={"test_gaussian_filter_float16": "float16: SciPy refuses it, fastcorr filters it like any other"},
    ),
}


class Plugin:
    """Replaces, counts, expects the differences to fail, and writes all of it down."""

    def __init__(self, peer):
        self.peer = peer
        self.calls = {}  # of each replaced function
        self.report = {"passed": 0, "failed": 0, "skipped": 0, "differ": 0, "reached": 0, "stale": []}

    def replace(self):
        theirs = importlib.import_module(self.peer.module)
        for name in self.peer.ours.__all__:
            stand_in = self.counted(name, getattr(self.peer.ours, name))
            self.keep_capabilities(getattr(theirs, name), stand_in)
            setattr(theirs, name, stand_in)

    def counted(self, name, function):
        self.calls[name] = 0

        @functools.wraps(function)
        def counting(*args, **kwargs):
            self.calls[name] += 1
            return function(*args, **kwargs)

        return counting

    @staticmethod
    def keep_capabilities(theirs, ours):
        """SciPy's tests ask a table, by function, which array libraries it takes."""
        if not theirs.__module__.startswith("scipy"):
            return
        table = getattr(importlib.import_module("scipy._lib._array_api"), "xp_capabilities_table", {})
        if theirs in table:
            table[ours] = table[theirs]

    def pytest_collection_modifyitems(self, config, items):
        wanted, others, found = [], [], set()
        for item in items:
            names = item.nodeid.partition("::")[2].partition("[")[0]
            (wanted if not self.peer.classes or names.split("::")[0] in self.peer.classes else others).append(item)
            if names in self.peer.differences:
                found.add(names)
                item.add_marker(pytest.mark.xfail(reason=self.peer.differences[names], strict=True))
        items[:] = wanted
        config.hook.pytest_deselected(items=others)
        self.report["stale"] = sorted(self.peer.differences.keys() - found)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        before = sum(self.calls.values())
        try:
            return (yield)
        finally:
            self.report["reached"] += sum(self.calls.values()) > before

    def pytest_runtest_logreport(self, report):
        if hasattr(report, "wasxfail"):
            self.report["differ"] += report.skipped
        elif report.when == "call" or not report.passed:
            self.report[report.outcome] += 1

    def pytest_sessionfinish(self):
        if "PEER_REPORT" in os.environ:
            with open(os.environ["PEER_REPORT"], "w") as file:
                json.dump({**self.report, "calls": self.calls}, file)


def pytest_configure(config):
    plugin = Plugin(PEERS[os.environ["PEER"]])
    plugin.replace()
    config.pluginmanager.register(plugin)

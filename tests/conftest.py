"""Settings of the suite: any warning is a failure, hypothesis is repeatable, no test leaks its thread limit."""

import faulthandler
import os

import pytest
from hypothesis import HealthCheck, settings

import fastcorr

settings.register_profile(
    "suite", max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# Seconds after which a test that hangs is shot, with a traceback of every thread. An emulator needs more.
HANG = float(os.environ.get("TEST_HANG", 120))


stderr = pytest.StashKey()


def pytest_configure(config):
    config.stash[stderr] = os.fdopen(os.dup(2), "w")  # the real one: later it is captured


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error"), append=False)


@pytest.fixture(autouse=True)
def _no_hang(request):
    faulthandler.dump_traceback_later(HANG, exit=True, file=request.config.stash[stderr])
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def restore_threads():
    """For tests of `set_num_threads`, which is for the whole process."""
    before = fastcorr.get_num_threads()
    yield
    fastcorr.set_num_threads(before)

"""NumPy's and SciPy's own tests pass with the functions of fastcorr.compat in the place of their own.

peer_plugin.py replaces the functions, counts their calls, and lists what differs on purpose.
"""

import faulthandler
import importlib.util
import json
import subprocess
import sys

import pytest
from common import environment
from peer_plugin import PEERS


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All at once, a process each: half of their time is spent waiting for imports and for one core."""
    started = {}
    for name, peer in PEERS.items():
        if installed(peer):
            folder = tmp_path_factory.mktemp(name)
            (folder / "pytest.ini").touch()  # this project's settings are not theirs
            command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-c", "pytest.ini", "--rootdir", "."]
            command += ["-p", "no:cacheprovider", "-p", "peer_plugin", "-m", "not slow", "--pyargs", peer.tests]
            env = environment(PEER=name, PEER_REPORT=str(folder / "report.json"))
            with open(folder / "log", "w") as log:
                run = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
            started[name] = run, folder
    yield started
    for run, _ in started.values():
        run.kill()
        run.wait()


def installed(peer):
    try:
        return importlib.util.find_spec(peer.tests) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", PEERS)
def test_own_tests_of_the_peer_pass(name, runs):
    peer = PEERS[name]
    if not installed(peer):
        pytest.skip(f"this build of {peer.module} was installed without its tests")
    run, folder = runs[name]
    faulthandler.cancel_dump_traceback_later()  # a busy machine may need longer than one test is given
    code = run.wait(timeout=900)
    log = (folder / "log").read_text()
    assert code == 0, log[-8000:]
    report = json.loads((folder / "report.json").read_text())
    assert report["stale"] == [], "listed differences that no test has"
    assert report["differ"] >= len(peer.differences), report
    assert report["failed"] == 0, report
    assert report["reached"] >= peer.least, report
    assert report["calls"].keys() == set(peer.ours.__all__), report
    assert all(report["calls"].values()), f"a replaced function was never called: {report['calls']}"

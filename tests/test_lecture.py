"""The lecture (examples/lecture.py) holds: every step's own assertions, and what the steps learned and counted."""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastcorr

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import lecture

NEEDS = {"time_series": ("matplotlib",), "volume": ("skimage", "PIL")}  # what carries their data


@pytest.mark.parametrize("step", lecture.STEPS, ids=lambda step: step.__name__)
def test_step(step, capsys):
    for package in NEEDS.get(step.__name__, ()):
        pytest.importorskip(package)
    try:
        step()
    except FileNotFoundError as error:
        if step.__name__ not in NEEDS:
            raise
        pytest.skip(f"installed without its data: {error}")
    assert capsys.readouterr().out


def test_ten_steps_learn_the_edge_kernel():
    assert np.abs(lecture.learning() - [[1, -1]]).max() < 0.1


@pytest.mark.parametrize("seed", range(20))
def test_any_start_will_do(seed):
    x = lecture.stripes()
    y = fastcorr.correlate(x, lecture.EDGE)
    start = np.random.default_rng(seed).uniform(-2, 2, (1, 2))
    k, losses = lecture.learn(lecture.CORRELATE, x, y, start)
    assert len(losses) == 11
    assert np.abs(k - lecture.EDGE).max() < 0.1


def test_flipped_kernels_are_mirrors():
    k, flipped = lecture.flipping()
    np.testing.assert_allclose(k, [[1, -1]], atol=1e-6)
    np.testing.assert_allclose(flipped, [[-1, 1]], atol=1e-6)


def test_parameters_of_12_megapixels():
    assert lecture.dense_to_shared() == {"dense": 144 * 10**12, "local": 108 * 10**6, "shared": 9}


@pytest.mark.parametrize("missing", [(), ("matplotlib", "matplotlib.cbook", "skimage")], ids=["all", "without data"])
def test_main_tells_every_step(missing, monkeypatch, capsys):
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    assert lecture.main() is None
    out = capsys.readouterr().out
    assert all(step.__doc__.splitlines()[0] in out for step in lecture.STEPS)
    if missing:
        assert out.count("left out: ") == 2


def test_same_bits_sees_the_last_bit():
    a = np.float32([0.0, 1.0])
    assert lecture.same_bits(a, a.copy())
    assert not lecture.same_bits(a, np.float32([-0.0, 1.0]))
    assert not lecture.same_bits(a, np.nextafter(a, np.float32(2)))

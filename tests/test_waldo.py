"""examples/find_waldo.py: a detail of one photograph is found in another, where parallax puts it. Budget: 20 s."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    import find_waldo

    yield find_waldo
    del sys.modules["find_waldo"]


def test_finds_waldo(example, tmp_path, capsys):
    from PIL import Image

    assert not example.main(["--output", str(tmp_path / "waldo.png"), "--threads", "1"])
    assert "match_template finds him" in capsys.readouterr().out
    with Image.open(tmp_path / "waldo.png") as picture:
        assert min(picture.size) > 1000


def test_plain_correlation_does_not(example):
    _, grey, _, waldo, truth = example.garage()
    assert np.abs(np.subtract(example.peak(example.plain(grey, waldo)), truth)).max() > 50
    scores = example.fastcorr.match_template(grey, waldo)
    row, column = example.peak(scores)
    assert scores[row, column] > 0.8
    scores[row - 5 : row + 6, column - 5 : column + 6] = -1
    assert scores.max() < 0.65

"""examples/digits.py: the network learns to read, and its gradient is that of its loss. Budget: 10 seconds."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("tqdm")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    import digits

    yield digits
    del sys.modules["digits"]


def test_learns_to_read(example):
    rng = np.random.default_rng(0)
    learn, test = example.digits(rng)
    assert {*map(len, learn), *map(len, test)} == {1348, 449}
    losses, correct, _ = example.train("fastcorr", example.Network(rng), learn, test, epochs=6)
    assert correct[-1] >= 0.93
    assert np.mean(losses[-40:]) < 0.1 * losses[0]


def test_gradient_is_that_of_the_loss(example):
    """Against central differences, for weights and biases of every layer and for pixels."""
    rng = np.random.default_rng(1)
    (x, labels), _ = example.digits(rng)
    x, labels = x[:7].astype(np.float64), labels[:7]
    network = example.Network(rng, np.float64)
    for conv in network.convs:  # with bias 0, the black parts of a picture would be on the kink of ReLU
        conv.bias += rng.normal(0, 0.1, conv.bias.shape)

    def loss():
        return example.cross_entropy(network.forward(x), labels)[0]

    pixels = network.backward(example.cross_entropy(network.forward(x), labels)[1])
    pairs = [(x, pixels)]
    for conv in network.convs:
        pairs += [(conv.weight, conv.weight_grad), (conv.bias, conv.bias_grad)]
    for values, gradient in pairs:
        assert gradient.shape == values.shape
        assert gradient.dtype == np.float64
        for i in rng.choice(values.size, min(values.size, 8), replace=False):
            place, step = np.unravel_index(i, values.shape), 1e-6
            before = values[place]
            values[place] = before + step
            above = loss()
            values[place] = before - step
            below = loss()
            values[place] = before
            assert gradient[place] == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-8)


def test_agrees_with_torch(example):
    """The same weights see the same batches: while rounding has not grown, the losses are the same."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    (x, labels), _ = example.digits(rng)
    ours = example.Network(rng)
    theirs = example.TorchNetwork(ours, torch.get_num_threads())
    for i in range(0, 320, example.BATCH):
        batch = slice(i, i + example.BATCH)
        assert ours.learn(x[batch], labels[batch]) == pytest.approx(theirs.learn(x[batch], labels[batch]), rel=1e-4)

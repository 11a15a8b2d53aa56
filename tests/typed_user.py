"""What a user's file may say: checked by ``mypy --strict tests/typed_user.py``, run by tests/test_docs.py."""

import numpy as np
from numpy.typing import NDArray

import fastcorr
from fastcorr import conv, conv_vjp, convolve, correlate, correlate_vjp, correlation_lags, local_conv, match_template
from fastcorr.layers import Conv, LocalConv


def edges(photo: NDArray[np.float32]) -> NDArray[np.float32]:
    """Nothing is Any that has to be cast: a result is an array of the caller's type."""
    across: NDArray[np.float32] = correlate(photo, [[-1, 0, 1]], "same", boundary=("edge", "reflect"), dtype="float32")
    down: NDArray[np.float32] = correlate(photo, [[-1], [0], [1]], [(1, 1), (0, 0)], dtype="f4", out=0 * across)
    return np.hypot(across, down)


def gradients(x: NDArray[np.float64], k: NDArray[np.float64]) -> NDArray[np.float64]:
    gx, gk = correlate_vjp(np.ones_like(correlate(x, k)), x, k, need=(True, False))
    assert gx is not None
    assert gk is None
    return gx


def layers(x: NDArray[np.float32]) -> int:
    layer = Conv(3, 8, (3, 3), padding="same", rng=np.random.default_rng(0))
    local = LocalConv(8, 1, 3, (6, 6), rank=2, bias=False)
    y = local(layer(x))
    layer.backward(local.backward(np.ones_like(y)))
    assert layer.weight_grad is not None
    layer.weight -= 0.1 * layer.weight_grad
    _, gw, _ = conv_vjp(np.ones((2, 8, 4, 4)), x, layer.weight)
    assert gw is not None
    weights = np.broadcast_to(layer.weight, (4, 4, *layer.weight.shape))
    return int(np.ndim(local_conv(x, weights, stride=(1, 1)))) + int(gw.ndim) + conv(x, layer.weight, padding=1).ndim


def plans(x: NDArray[np.float64]) -> str:
    plan: fastcorr.Plan = fastcorr.plan(convolve, x, np.ones(3), "full")
    with fastcorr.num_threads(1):
        y = plan(x)
    assert y.shape == correlation_lags(len(x), 3, "full").shape
    return f"{plan.method}: {match_template(x, x[2:5]).max():.3f}, {fastcorr.get_num_threads()} threads\n{plan}"


if __name__ == "__main__":
    print(edges(np.zeros((6, 6), np.float32)).shape)
    print(gradients(np.arange(9.0), np.ones(3)))
    print(layers(np.ones((2, 3, 6, 6), np.float32)))
    print(plans(np.arange(9.0)))

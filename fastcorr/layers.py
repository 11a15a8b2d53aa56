"""Layers with parameters: `Conv` and `LocalConv` of any rank hold weight and bias and their gradients. Nothing more.

    layer = Conv(3, 16, (5, 5), padding="same")    He's weights, bias 0
    y = layer(x)                                   keeps x
    gx = layer.backward(g)                         leaves layer.weight_grad and layer.bias_grad
    layer.weight -= 0.1 * layer.weight_grad        training is the caller's

The arithmetic is that of `conv` and `local_conv` (nn.py) and their gradients (gradients.py).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from math import prod
from operator import index
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import contraction, gradients, nn
from ._types import Array, PerAxis, Shape


class _Layer:
    """What the two layers share: parameters, the last input, the two faces they call."""

    def __init__(
        self,
        forward: Callable[..., Array],
        vjp: Callable[..., Any],
        weight_shape: Shape,
        bias_shape: Shape,
        fan_in: int,
        bias: bool,
        dtype: DTypeLike,
        rng: np.random.Generator | int | None,
        options: Any,
    ) -> None:
        self._forward, self._vjp, self.options = forward, vjp, options
        self.weight = _he(weight_shape, fan_in, dtype, rng)
        self.bias = np.zeros(bias_shape, dtype) if bias else None
        self.weight_grad: Array | None = None
        self.bias_grad: Array | None = None
        self._x: ArrayLike | None = None

    def __call__(self, x: ArrayLike) -> Array:
        """Apply the layer to `x`, which is kept (not copied) for `backward`.

        Parameters
        ----------
        x : array_like, shape (N, C, *S) or (C, *S)
            The batch, or one element of it.

        Returns
        -------
        ndarray, shape (N, O, *T) or (O, *T)
            As the function that the layer is named after.

        Examples
        --------
        >>> import numpy as np
        >>> from fastcorr.layers import Conv
        >>> Conv(2, 3, (5,), rng=0)(np.ones((2, 9), np.float32)).shape
        (3, 5)
        """
        y = self._forward(x, self.weight, self.bias, **self.options)
        self._x = x
        return y

    def backward(self, g: ArrayLike) -> Array:
        """Return the gradient of the last input, given that of its result; leave `weight_grad` and `bias_grad`.

        Parameters
        ----------
        g : array_like
            Of the shape of the last result.

        Returns
        -------
        ndarray
            Of the shape of the last input.

        Raises
        ------
        ValueError
            If there was no call before, or `g` has another shape.

        Examples
        --------
        >>> import numpy as np
        >>> from fastcorr.layers import Conv
        >>> layer = Conv(1, 1, (2,), rng=0)
        >>> y = layer(np.float32([[1, 2, 4]]))
        >>> gx = layer.backward(np.ones_like(y))
        >>> gx.shape, layer.weight_grad, layer.bias_grad
        ((1, 3), array([[[3., 6.]]], dtype=float32), array([2.], dtype=float32))
        """
        if self._x is None:
            raise ValueError("backward needs the input of a call before it: layer(x)")
        gx: Array
        gx, self.weight_grad, self.bias_grad = self._vjp(g, self._x, self.weight, self.bias, **self.options)
        return gx

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}(weight {self.weight.shape} {self.weight.dtype}{options})"


class Conv(_Layer):
    """A convolutional layer: `fastcorr.conv` with its parameters.

    Parameters
    ----------
    in_channels, out_channels : int
        C and O of `conv`.
    kernel_size : int or sequence of int
        The kernel's shape; its length is the rank. An int, for all axes alike, needs `rank`.
    bias : bool, optional
        Whether there is a bias, which starts at zero.
    dtype : dtype, optional
        Of the parameters, a float or complex type.
    rng : numpy.random.Generator or int, optional
        Draws the weights (He et al. 2015): normal, of variance 2 / (C/groups * taps). An int is a seed.
    rank : int, optional
        Number of spatial axes.
    **options
        Those of `conv`: stride, padding, dilation, groups, boundary, fill, flip, method.

    Attributes
    ----------
    weight, bias : ndarray or None
        Plain arrays, to update in place or to replace.
    weight_grad, bias_grad : ndarray or None
        Their gradients, after `backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr.layers import Conv
    >>> layer = Conv(3, 8, (5, 5), padding="same", rng=0)
    >>> x = np.ones((2, 3, 12, 12), np.float32)
    >>> y = layer(x)
    >>> y.shape
    (2, 8, 12, 12)
    >>> layer.backward(y).shape, layer.weight_grad.shape, layer.bias_grad.shape
    ((2, 3, 12, 12), (8, 3, 5, 5), (8,))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
        rank: int | None = None,
        **options: Any,
    ) -> None:
        _known("Conv", nn.conv, options)
        kernel = _sizes("kernel_size", kernel_size, rank)
        shape, fan_in = _weight(in_channels, out_channels, kernel, options)
        super().__init__(nn.conv, gradients.conv_vjp, shape, (out_channels,), fan_in, bias, dtype, rng, options)


class LocalConv(_Layer):
    """A locally connected layer: `fastcorr.local_conv` with its parameters, a kernel and a bias for each output.

    Parameters
    ----------
    in_channels, out_channels : int
        C and O of `local_conv`.
    kernel_size : int or sequence of int
        The kernel's shape; its length is the rank. An int, for all axes alike, needs `rank`.
    in_size : int or sequence of int
        Length of the input along each spatial axis.
    bias, dtype, rng, rank : optional
        As in `Conv`; the bias has one entry for each output channel and position.
    **options
        Those of `local_conv`: stride, padding, dilation, groups, boundary, fill, flip.

    Attributes
    ----------
    weight, bias, weight_grad, bias_grad : ndarray or None
        As in `Conv`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr.layers import LocalConv
    >>> layer = LocalConv(1, 2, (3, 3), (6, 8), rng=0)
    >>> layer.weight.shape, layer.bias.shape
    ((4, 6, 2, 1, 3, 3), (2, 4, 6))
    >>> layer(np.ones((5, 1, 6, 8), np.float32)).shape
    (5, 2, 4, 6)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        in_size: PerAxis,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
        rank: int | None = None,
        **options: Any,
    ) -> None:
        _known("LocalConv", nn.local_conv, options)
        kernel = _sizes("kernel_size", kernel_size, rank)
        shape, fan_in = _weight(in_channels, out_channels, kernel, options)
        size = _sizes("in_size", in_size, len(kernel))
        form, _ = contraction.layer((in_channels, *size), shape, None, np.dtype(dtype), **options)
        shape, bias_shape = (*form.out_size, *shape), (out_channels, *form.out_size)
        super().__init__(nn.local_conv, gradients.local_conv_vjp, shape, bias_shape, fan_in, bias, dtype, rng, options)


def _known(name: str, face: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """TypeError for what is no option of `face` that a layer can have."""
    known = inspect.signature(face).parameters.keys() - {"x", "w", "bias", "dtype", "out"}
    unknown = options.keys() - known
    if unknown:
        raise TypeError(f"{name} has no option {', '.join(sorted(unknown))}")


def _sizes(name: str, value: PerAxis, rank: int | None) -> Shape:
    """`value` as one int per spatial axis."""
    if np.ndim(value) == 0:
        if rank is None:
            raise ValueError(f"{name}={value!r} is one number: give rank=, or one number per spatial axis")
        value = [cast(int, value)] * index(rank)
    try:
        sizes = tuple(index(n) for n in cast(Sequence[int], value))
    except TypeError:
        raise TypeError(f"{name} must be an int or one int per spatial axis, not {value!r}") from None
    if rank is not None and len(sizes) != rank:
        raise ValueError(f"{name} has {len(sizes)} entries, the layer has {rank} spatial axes")
    for axis, n in enumerate(sizes):
        if n < 1:
            raise ValueError(f"{name} along axis {axis} is {n}, it must be at least 1")
    return sizes


def _weight(in_channels: int, out_channels: int, kernel: Shape, options: Mapping[str, Any]) -> tuple[Shape, int]:
    """(shape of the weight of a conv, how many inputs each output sums)."""
    for name, n in (("in_channels", in_channels), ("out_channels", out_channels)):
        if index(n) < 1:
            raise ValueError(f"{name} is {n}, it must be at least 1")
    groups = index(options.get("groups", 1))
    for name, n in (("in_channels", in_channels), ("out_channels", out_channels)):
        if groups < 1 or n % groups:
            raise ValueError(f"groups={groups} does not divide {name}={n}")
    return (out_channels, in_channels // groups, *kernel), in_channels // groups * prod(kernel)


def _he(shape: Shape, fan_in: int, dtype: DTypeLike, rng: np.random.Generator | int | None) -> Array:
    """Normal numbers of variance 2 / fan_in."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "fc":
        raise TypeError(f"dtype={dtype}: parameters that are learned are float or complex")
    rng = np.random.default_rng(rng)
    weight = rng.normal(0, np.sqrt(2 / fan_in), shape)
    if dtype.kind == "c":
        weight = (weight + 1j * rng.normal(0, np.sqrt(2 / fan_in), shape)) / np.sqrt(2)
    return weight.astype(dtype)

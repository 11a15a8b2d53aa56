"""fastcorr inside of PyTorch: one call swapped in a 3-D network, then a layer in 4-D, which PyTorch does not have.

    python examples/torch_swap.py [--steps 100] [--output torch_swap.png] [--threads N]

1. A small network learns to tell hollow balls from solid ones in noisy volumes, once with torch.nn.functional.conv3d
   and once with fastcorr.torch.conv in its place: the same weights, the same batches, the same losses.
2. A kernel of 3 x 3 x 3 x 3 taps is found by gradient descent from what it makes of a 4-D field, as diffusion in three
   dimensions of space and one of time would: x, y, z and t in one convolution.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F  # noqa: N812, its usual name
from tqdm import trange

import fastcorr
import fastcorr.torch

SIZE, BATCH = 14, 16


def volumes(generator, count=BATCH):
    """((count, 1, SIZE, SIZE, SIZE) noisy balls, whether each is hollow)."""
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    radius = 3 + 3 * torch.rand(count, 1, 1, 1, generator=generator)
    hollow = torch.rand(count, generator=generator) < 0.5
    inner = torch.where(hollow, radius.ravel() - 1.5, torch.tensor(0.0)).reshape(radius.shape)
    ball = ((distance < radius) & (distance >= inner)).float()
    return (ball + 0.5 * torch.randn(ball.shape, generator=generator))[:, None], hollow.float()


class Network(torch.nn.Module):
    """Three layers of 3 x 3 x 3 kernels, and the middle says: hollow or not. `conv` is what convolves."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        generator = torch.Generator().manual_seed(0)
        channels = (1, 8, 16, 1)
        self.weights = torch.nn.ParameterList(
            torch.randn(o, c, 3, 3, 3, generator=generator) * (2 / (27 * c)) ** 0.5 for c, o in pairwise(channels)
        )
        self.biases = torch.nn.ParameterList(torch.zeros(o) for o in channels[1:])

    def forward(self, x):
        first, second, last = zip(self.weights, self.biases, strict=True)
        x = F.relu(self.conv(x, *first, stride=1, padding=1))
        x = F.relu(self.conv(x, *second, stride=2, padding=1))
        x = self.conv(x, *last, stride=1, padding=1)
        return x[:, 0, SIZE // 4, SIZE // 4, SIZE // 4]


def train(name, conv, steps):
    """(loss of each step, seconds of the fastest one)."""
    network, generator, losses, fastest = Network(conv), torch.Generator().manual_seed(1), [], float("inf")
    descent = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in trange(steps, desc=name, unit="step"):
        x, hollow = volumes(generator)
        start = perf_counter()
        loss = F.binary_cross_entropy_with_logits(network(x), hollow)
        descent.zero_grad()
        loss.backward()
        descent.step()
        fastest = min(fastest, perf_counter() - start)
        losses.append(loss.item())
    return losses, fastest


def diffusion():
    """A 4-D kernel (t, z, y, x): the past spreads in space and decays, the present is what it is."""
    blur = torch.tensor([1.0, 2, 1]) / 4
    space = blur[:, None, None] * blur[:, None] * blur
    sharp = torch.zeros(3, 3, 3)
    sharp[1, 1, 1] = 1
    return torch.stack([0.3 * space, 0.6 * space, sharp])[None, None]


def learn_in_rank_4(steps):
    """(true kernel, learned kernel, loss of each step): least squares by gradient descent, on a periodic field."""
    generator = torch.Generator().manual_seed(2)
    field, true = torch.randn(2, 1, 8, 8, 8, 8, generator=generator), diffusion()
    options = {"padding": 1, "boundary": ("edge", "wrap", "wrap", "wrap")}  # time has ends, space has none
    seen = fastcorr.torch.conv(field, true, **options)
    kernel = torch.zeros_like(true, requires_grad=True)
    descent, losses = torch.optim.Adam([kernel], lr=0.05), []
    for _ in trange(steps, desc="rank 4", unit="step"):
        loss = F.mse_loss(fastcorr.torch.conv(field, kernel, **options), seen)
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(loss.item())
    return true, kernel.detach(), losses


def draw(runs, true, learned, losses):
    """A figure: the losses of both networks, and the planes z = 0 of the kernel in 4-D at its three times."""
    from picture import AMBER, NIGHT, SLATE, plt

    plt.style.use("dark_background")
    figure = plt.figure(figsize=(13, 4.6), facecolor=NIGHT, layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.2, 1, 1))
    axes = left.subplots(subplot_kw={"facecolor": NIGHT})
    axes.set_title("3-D network: loss of each step")
    for (name, (found, _)), style in zip(
        runs.items(), ({"color": SLATE, "lw": 4}, {"color": AMBER, "lw": 1}), strict=True
    ):
        axes.plot(found, label=name, **style)
    axes.legend(frameon=False)
    axes = middle.subplots(subplot_kw={"facecolor": NIGHT})
    axes.set_title("4-D kernel: loss of each step")
    axes.semilogy(losses, color=AMBER)
    right.suptitle("the 4-D kernel at its middle z")
    grid = right.subplots(2, 3)
    for row, (name, kernel) in zip(grid, (("true", true), ("learned", learned)), strict=True):
        for time, panel in enumerate(row):
            panel.imshow(kernel[0, 0, time, 1], cmap="inferno", vmin=0, vmax=0.1)
            panel.set(xticks=[], yticks=[], title=f"{name}, t = {time - 1}")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100, help="of either training (default: 100)")
    parser.add_argument(
        "--output", type=Path, default=Path("torch_swap.png"), help="the figure (default: torch_swap.png)"
    )
    parser.add_argument("--threads", type=int, default=fastcorr.get_num_threads(), help="for either library")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps is {options.steps}, it must be at least 1")
    fastcorr.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)

    swaps = {"F.conv3d": F.conv3d, "fastcorr.torch.conv": fastcorr.torch.conv}
    runs = {name: train(name, conv, options.steps) for name, conv in swaps.items()}
    true, learned, losses = learn_in_rank_4(options.steps)
    for name, (found, fastest) in runs.items():
        print(f"{name:<20} loss {found[0]:.4f} -> {found[-1]:.4f}, fastest step {1e3 * fastest:.2f} ms")
    apart = max(abs(a - b) for a, b in zip(*(found for found, _ in runs.values()), strict=True))
    error = (learned - true).abs().max().item()
    print(f"the losses are at most {apart:.1e} apart")
    print(f"rank 4: loss {losses[0]:.4f} -> {losses[-1]:.1e}, the kernel is found to {error:.1e}")
    draw(runs, true, learned, losses).savefig(options.output, dpi=110)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()

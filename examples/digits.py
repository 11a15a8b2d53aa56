"""A small convolutional network learns to read handwritten digits, with fastcorr's layers and NumPy for the rest.

    python examples/digits.py [--epochs 20] [--output digits.png] [--threads N]

The 1797 pictures of 8 x 8 pixels are real and come with scikit-learn. Three quarters are learned, the others are read
as a test. If PyTorch is installed, the same network with the same initial weights sees the same batches there.
"""

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
from tqdm import tqdm

import fastcorr
from fastcorr.layers import Conv

BATCH, RATE, MOMENTUM, SEED = 32, 0.05, 0.9, 0
GOAL = 0.97  # of the test, to be read correctly


def digits(rng):
    """(pictures to learn, their labels), (pictures to test, their labels); pictures are (N, 1, 8, 8), from 0 to 1."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    pictures = np.float32(pictures / 16).reshape(-1, 1, 8, 8)
    test, learn = np.split(rng.permutation(len(labels)), [len(labels) // 4])
    return (pictures[learn], labels[learn]), (pictures[test], labels[test])


# What a layer is: a function of x, and the gradient with respect to that x from the gradient g of its result.
# fastcorr's Conv is one. The others need no more than two lines each way.


class ReLU:
    def __call__(self, x):
        self.positive = x > 0
        return x * self.positive

    def backward(self, g):
        return g * self.positive


class MeanPool:
    """The mean of each 2 x 2 pixels. Each of the four has a quarter of the effect, hence of the gradient."""

    def __call__(self, x):
        return (x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]) / 4

    def backward(self, g):
        return g.repeat(2, axis=-2).repeat(2, axis=-1) / 4


def cross_entropy(scores, labels):
    """(mean of -log p[label], its gradient with respect to the scores), where p = softmax(scores)."""
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    picture = np.arange(len(labels))
    loss = -np.log(p[picture, labels]).mean()
    p[picture, labels] -= 1
    return loss, p / len(labels)


class Network:
    """8 x 8 pixels -> 16 maps of 8 x 8 -> halved to 4 x 4 -> 32 maps of 4 x 4 -> 10 scores."""

    def __init__(self, rng, dtype=np.float32):
        self.convs = [
            Conv(1, 16, (5, 5), padding="same", rng=rng, dtype=dtype),
            Conv(16, 32, (3, 3), padding="same", rng=rng, dtype=dtype),
            Conv(32, 10, (4, 4), rng=rng, dtype=dtype),  # kernels as large as the maps: a dense layer
        ]
        first, second, dense = self.convs
        self.layers = [first, ReLU(), MeanPool(), second, ReLU(), dense]
        self.velocity = [(np.zeros_like(conv.weight), np.zeros_like(conv.bias)) for conv in self.convs]

    def forward(self, x):
        """The scores, (N, 10); the largest one is what is read."""
        for layer in self.layers:
            x = layer(x)
        return x[:, :, 0, 0]

    def backward(self, g):
        """The chain rule, from the last layer to the first; leaves the gradients of weights and biases in `convs`."""
        g = g[:, :, None, None]
        for layer in reversed(self.layers):
            g = layer.backward(g)
        return g

    def learn(self, x, labels):
        """One step of stochastic gradient descent with momentum. Returns the loss before it."""
        loss, g = cross_entropy(self.forward(x), labels)
        self.backward(g)
        for conv, velocity in zip(self.convs, self.velocity, strict=True):
            parameters = (conv.weight, conv.weight_grad), (conv.bias, conv.bias_grad)
            for v, (parameter, gradient) in zip(velocity, parameters, strict=True):
                v *= MOMENTUM
                v += gradient
                parameter -= RATE * v
        return loss


class TorchNetwork:
    """The same network and the same step in PyTorch, with a copy of the weights."""

    def __init__(self, network, threads):
        import torch
        from torch import nn

        torch.set_num_threads(threads)
        first, second, dense = [nn.Conv2d(1, 16, 5, padding=2), nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 10, 4)]
        for theirs, ours in zip((first, second, dense), network.convs, strict=True):
            theirs.weight.data = torch.tensor(ours.weight)
            theirs.bias.data = torch.tensor(ours.bias)
        self.torch, self.loss = torch, nn.CrossEntropyLoss()
        self.layers = nn.Sequential(first, nn.ReLU(), nn.AvgPool2d(2), second, nn.ReLU(), dense, nn.Flatten())
        self.descent = torch.optim.SGD(self.layers.parameters(), RATE, MOMENTUM)

    def forward(self, x):
        with self.torch.no_grad():
            return self.layers(self.torch.from_numpy(x)).numpy()

    def learn(self, x, labels):
        self.descent.zero_grad()
        loss = self.loss(self.layers(self.torch.from_numpy(x)), self.torch.from_numpy(labels))
        loss.backward()
        self.descent.step()
        return loss.item()


def train(name, network, learn, test, epochs):
    """(loss of each step, share of the test read correctly after each epoch, seconds spent in the steps)."""
    rng = np.random.default_rng(SEED)  # of its own, so that every network sees the same batches
    (x, labels), (test_x, test_labels) = learn, test
    losses, correct, seconds = [], [], 0
    with tqdm(range(epochs), name, unit="epoch") as bar:
        for _ in bar:
            order = rng.permutation(len(x))
            start = perf_counter()
            for i in range(0, len(x), BATCH):
                batch = order[i : i + BATCH]
                losses.append(network.learn(x[batch], labels[batch]))
            seconds += perf_counter() - start
            correct.append((network.forward(test_x).argmax(axis=1) == test_labels).mean())
            bar.set_postfix(loss=f"{np.mean(losses[-len(x) // BATCH :]):.4f}", accuracy=f"{correct[-1]:.2%}")
    return losses, correct, seconds


def draw(runs, network, pictures, labels):
    """A figure: loss and accuracy of every run, the kernels `network` has learned, and what it misreads."""
    from matplotlib.colors import LinearSegmentedColormap
    from picture import AMBER, NIGHT, SLATE, plt

    kernels, read = network.convs[0].weight[:, 0], network.forward(pictures).argmax(axis=1)
    wrong, limit = np.flatnonzero(read != labels), np.percentile(abs(kernels), 98)
    signed = LinearSegmentedColormap.from_list("signed", ["#4aa8ff", NIGHT, AMBER])
    plt.style.use("dark_background")
    figure = plt.figure(figsize=(14, 7), facecolor=NIGHT, layout="constrained")
    panels = figure.subfigures(2, 2, height_ratios=[2.1, 1], hspace=0.04, wspace=0.02).ravel()
    panels[0].suptitle("loss of each step")
    panels[1].suptitle(f"% of {len(labels)} unseen digits read correctly, after each epoch")
    panels[2].suptitle("kernels of the first layer: amber adds, blue subtracts")
    panels[3].suptitle(f"misread: {len(wrong)} of {len(labels)}")

    loss, accuracy = [panel.subplots(subplot_kw={"facecolor": NIGHT}) for panel in panels[:2]]
    loss.semilogy(runs["fastcorr"][0], color=SLATE, linewidth=0.5, label="each batch")
    styles = {"fastcorr": {"color": AMBER, "linewidth": 2.5}, "PyTorch": {"color": "white", "linestyle": ":"}}
    for name, (losses, correct, _) in runs.items():
        smooth = fastcorr.convolve(losses, np.full(25, 1 / 25), "same", boundary="reflect")
        loss.semilogy(smooth, **styles[name], label=f"{name}, mean of 25")
        accuracy.plot(range(1, len(correct) + 1), np.multiply(100, correct), marker=".", label=name, **styles[name])
    accuracy.axhline(100 * GOAL, color=SLATE, linewidth=1, linestyle="--", label=f"goal: {GOAL:.0%}")
    accuracy.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss, accuracy):
        axes.legend(frameon=False, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)

    for axes, kernel in zip(panels[2].subplots(2, 8).flat, kernels, strict=True):
        axes.imshow(kernel, cmap=signed, vmin=-limit, vmax=limit)
        axes.set(xticks=[], yticks=[])
    shown = wrong[:6]
    for axes in panels[3].subplots(1, max(5, len(shown))):
        axes.axis("off")
    for axes, i in zip(panels[3].axes, shown, strict=False):
        axes.imshow(pictures[i, 0], cmap="gray")
        axes.set_title(f"{labels[i]}, read as {read[i]}", fontsize=11)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20, help="how often each picture is seen (default: 20)")
    parser.add_argument("--output", type=Path, default=Path("digits.png"), help="the figure (default: digits.png)")
    parser.add_argument("--threads", type=int, default=fastcorr.get_num_threads(), help="for either library")
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    try:
        fastcorr.set_num_threads(options.threads)
        learn, test = digits(rng)
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    if options.epochs < 1:
        parser.error(f"--epochs is {options.epochs}, it must be at least 1")

    networks = {"fastcorr": Network(rng)}
    try:
        networks["PyTorch"] = TorchNetwork(networks["fastcorr"], options.threads)
    except ImportError as error:
        print(f"PyTorch is left out: {error}")
    runs = {name: train(name, network, learn, test, options.epochs) for name, network in networks.items()}
    print(f"\n{f'threads: {options.threads}':<12} {'training':>10} {'a step':>10} {'loss':>8} {'accuracy':>9}")
    for name, (losses, correct, seconds) in runs.items():
        step, last = f"{1e3 * seconds / len(losses):.2f} ms", np.mean(losses[-len(losses) // options.epochs :])
        print(f"{name:<12} {f'{seconds:.2f} s':>10} {step:>10} {last:>8.4f} {correct[-1]:>9.2%}")
    draw(runs, networks["fastcorr"], *test).savefig(options.output, dpi=110)
    print(f"\nwrote {options.output}")
    return f"accuracy is below {GOAL:.0%}" if runs["fastcorr"][1][-1] < GOAL else 0


if __name__ == "__main__":
    raise SystemExit(main())

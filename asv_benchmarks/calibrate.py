"""Measure the constants of the planner's cost models on this machine, and write them into fastcorr/tuning.py.

    python asv_benchmarks/calibrate.py [--problems 300] [--write]

The sweep of benchmarks/planner.py is timed twice on one thread with each method, at every level and float type. The
constants of the direct method are the non-negative least squares of relative errors; the Fourier transform's estimate
is scaled as a whole. Printed beside each constant: how much the typical error of the estimates grows when it is a
quarter smaller or greater, its optimum's flatness. Where two measurements differ by more than the new constants change
the estimates, they are not written: that would be noise.
"""

import argparse
import re
from pathlib import Path

import numpy as np
from benchmarks import planner as sweep

import fastcorr
from fastcorr import isa, kernels, planner, tuning

TUNING = Path(planner.__file__).with_name("tuning.py")
CONSTANTS = ("output", "product", "alone", "tap of line", "line", "gathered", "outside", "tap")
KEPT = 5.0  # problems in which one method takes so many times as long as the other say nothing about the choice


def fit(work, seconds):
    """Non-negative constants for which ``work @ constants`` is `seconds`, in the sense of relative errors."""
    a = work / seconds[:, None]
    scale = np.maximum(a.max(0), 1e-30)
    a = a / scale
    constants, weight = np.full(a.shape[1], 1 / a.shape[1]), np.ones(len(a))
    for turn in range(6000):  # multiplicative updates keep them positive; outliers count less and less
        if turn % 1000 == 999:
            weight = 1 / np.maximum(0.1, np.abs(np.log(a @ constants)))
        constants *= (a.T @ weight) / np.maximum(a.T @ (weight * (a @ constants)), 1e-30)
    return np.where(constants > 1e-6, constants, 0) / scale


def typical(seconds, estimates):
    return float(np.median(np.abs(np.log(seconds / estimates))))


def measure(problems, level):
    """Per problem its Task and two measurements of both methods."""
    rows = []
    for x, k, options in problems:
        plan = planner.resolve("correlate", x, k, level=level, **options)
        runs = {name: planner.resolve("correlate", x, k, level=level, **options, method=name) for name in sweep.METHODS}
        calls = {name: lambda run=run, x=x, k=k: run.run(x, k, threads=1) for name, run in runs.items()}
        halves = [sweep.least_times(calls, rounds=3, patience=0.03) for _ in range(2)]
        rows.append((plan.task, halves))
    return rows


def calibrate(rows):
    """(constants of direct, factor on the transform's rate, whether that is more than noise), with a report."""
    tasks = [task for task, _ in rows]
    times = np.array([[half[name] for half in halves] for _, halves in rows for name in sweep.METHODS])
    times = times.reshape(len(rows), 2, 2)
    direct, fft = np.maximum(times.min(2) - tuning.CALL, 1e-7).T
    kept = np.maximum(direct / fft, fft / direct) < KEPT
    noise = float(np.median(np.abs(np.log(times[kept, :, 0] / times[kept, :, 1]))))
    work = np.array([planner.Direct.work(task) for task in tasks], float)[kept]
    constants = fit(work, direct[kept])
    old = [np.array([method.cost(task) for task in tasks])[kept] for method in (planner.Direct, planner.Spectrum)]
    # A median: what is off by far are problems that the model does not know, not a pace of the machine.
    slower = float(np.exp(np.median(np.log(fft[kept] / old[1]))))
    error = typical(direct[kept], work @ constants)
    before = typical(direct[kept], old[0])
    print(f"  {kept.sum()} problems, noise {noise:.1%}; error of direct {error:.1%}, was {before:.1%}")
    for i, name in enumerate(CONSTANTS):
        steps = (constants * np.where(np.arange(len(constants)) == i, factor, 1) for factor in (0.75, 1.25))
        flat = [typical(direct[kept], work @ step) - error for step in steps]
        print(f"    {name:<12} {constants[i]:9.3g} s   a quarter less {flat[0]:+.1%}, more {flat[1]:+.1%}")
    print(f"    the transform takes {slower:.2f} times its estimate, +-{typical(fft[kept], slower * old[1]):.1%}")
    change = max(typical(work @ constants, old[0]), abs(np.log(slower)))
    return constants, slower, change > noise


def number(value):
    return f"{value:.2e}".replace("e+", "e")  # as ruff has it


def written(name, table):
    """`name` = `table` as tuning.py has it."""
    lines = [f"{name} = {{"]
    for element, levels in table.items():
        lines.append(f'    "{element}": {{')
        for level, value in levels.items():
            if isinstance(value, dict):
                shown = "{\n" + "".join(f'            "{key}": {number(seconds)},\n' for key, seconds in value.items())
                shown += "        }"
            else:
                shown = number(value)
            lines.append(f'        "{level}": {shown},')
        lines.append("    },")
    return "\n".join([*lines, "}\n"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--write", action="store_true", help="rewrite fastcorr/tuning.py")
    args = parser.parse_args()
    direct = {element: dict(levels) for element, levels in tuning.DIRECT.items() if element.startswith("float")}
    rates = {element: dict(levels) for element, levels in tuning.SPECTRUM_LEVELS.items()}
    problems = list(sweep.sweep(args.problems, seed=7))
    for level in isa.usable():
        measured = measure(problems, level)
        for element in rates:
            print(f"{element} {level}")
            rows = [row for row in measured if kernels.find("plane", row[0].problem.dtype).element == element]
            constants, slower, telling = calibrate(rows)
            if not telling:
                print("  less than the noise: kept")
                continue
            direct.setdefault(element, {})[level] = dict(zip(CONSTANTS, map(float, constants), strict=True))
            rates[element][level] /= slower
    if args.write:
        text = TUNING.read_text()
        for name, table in (("DIRECT", direct), ("SPECTRUM_LEVELS", rates)):
            block = re.compile(rf"(# calibrate.py: begin\n){name} = .*?(# calibrate.py: end)", re.DOTALL)
            text = block.sub(lambda m, name=name, table=table: m[1] + written(name, table) + m[2], text)
        TUNING.write_text(text)


if __name__ == "__main__":
    with fastcorr.num_threads(1):
        main()

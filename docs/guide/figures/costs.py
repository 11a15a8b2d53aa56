"""What the planner expects of each method on a 1024 x 1024 float32 picture, by kernel size. Estimates, not timings."""

import matplotlib.pyplot as plt
import numpy as np

import fastcorr

picture = np.zeros((1024, 1024), np.float32)
rng = np.random.default_rng(0)  # no kernel of low rank
sizes = [3, 5, 7, 9, 11, 15, 21, 31, 41, 63]
costs, chosen = {}, []
for size in sizes:
    plan = fastcorr.plan(fastcorr.correlate, picture, rng.random((size, size), np.float32), "same")
    chosen.append(plan.costs[plan.method])
    for method, cost in plan.costs.items():
        if not isinstance(cost, str):
            costs.setdefault(method, {})[size] = cost
figure, axes = plt.subplots(figsize=(7, 3.6))
for method, known in costs.items():
    axes.plot(known.keys(), np.fromiter(known.values(), float) * 1e3, "o-", label=method)
axes.plot(sizes, np.array(chosen) * 1e3, "k", lw=7, alpha=0.15, label="auto takes")
axes.set(xscale="log", yscale="log", xlabel="rows and columns of the kernel", ylabel="ms on one thread, estimated")
axes.set_xticks(sizes, sizes)
axes.minorticks_off()
axes.legend()
axes.grid(alpha=0.3)

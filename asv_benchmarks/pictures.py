"""One picture per group of compare.py: each peer's time in terms of fastcorr's, and where the FMA peak would be."""

import report

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")
FOLDER = report.ROOT / "docs" / "performance"


def write(results):
    """docs/performance/GROUP.svg of every group with peers, one thread and the most threads side by side."""
    found = report.cells(results)
    counts = sorted({count for _, _, count in found})
    FOLDER.mkdir(exist_ok=True)
    for group in dict.fromkeys(group for group, _, _ in found):
        names = list(dict.fromkeys(name for g, name, _ in found if g == group))
        panels = [{name: found.get((group, name, count), {}) for name in names} for count in counts]
        panels = [{n: rows for n, rows in panel.items() if report.rate(rows.get("fastcorr"))} for panel in panels]
        peers = [
            p for p in results["versions"] if not p.startswith("fastcorr") and any(p in r for r in panels[0].values())
        ]
        if peers and panels[0]:
            picture(group, panels, counts, peers).savefig(
                FOLDER / f"{group}.svg", bbox_inches="tight", metadata={"Date": None}
            )


def picture(group, panels, counts, peers):
    from matplotlib.figure import Figure

    rows = max(map(len, panels))
    figure = Figure(figsize=(5 * len(panels) + 2, 0.9 + 0.16 * rows * (len(peers) + 1)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel, count in zip(axes, panels, counts, strict=True):
        for y, cell in enumerate(panel.values()):
            ours = cell["fastcorr"]
            for i, peer in enumerate(peers):
                times = report.over(cell.get(peer), ours)
                if times:
                    at = y + (i + 1) / (len(peers) + 1) - 0.5
                    ax.barh(at, times - 1, 0.9 / (len(peers) + 1), 1, color=COLOURS[i % len(COLOURS)])
            if group != "large":  # a Fourier transform has no need of these multiplications
                roof = ours["flops"] / ours["peak"] / ours["seconds"]
                ax.plot([roof, roof], [y - 0.45, y + 0.45], color="black", linewidth=1)
        ax.axvline(1, color="#333333", linewidth=0.8)
        ax.set_xscale("log")
        ax.set_yticks(range(len(panel)), panel)
        ax.set_ylim(len(panel) - 0.4, -0.6)
        ax.set_title(f"{group}, {count} thread{'s' * (count > 1)}")
        ax.set_xlabel("time / fastcorr's time: right of 1, fastcorr is faster")
        ax.grid(axis="x", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [Patch(color=COLOURS[i % len(COLOURS)], label=peer) for i, peer in enumerate(peers)]
    handles += [Line2D([], [], color="black", label="FMA peak")] if group != "large" else []
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure

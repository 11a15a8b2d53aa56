"""What compare.py prints: a table per group, the project's figures with target and result; the tables of the docs."""

import re
from pathlib import Path
from statistics import geometric_mean

ROOT = Path(__file__).parents[1]

README = (
    ("image", "512x512 * 3x3 float32"),
    ("image", "1024x1024 * 9x9 float32"),
    ("image", "4096x4096 * 3x3 float32"),
    ("image", "4096x4096 * 15x15 float32"),
    ("image", "1024x1024 * 9x9 float64"),
    ("volume", "200x200x200 * 3x3x3 float32"),
    ("volume", "200x200x200 * 7x7x7 float32"),
    ("signal", "1000000 * 16 float32"),
    ("signal", "1000000 * 256 float64"),
    ("large", "2048x2048 * 31x31 float32"),
    ("large", "1000000 * 20000 float32"),
    ("large", "200x200x200 * 31x31x31 float32"),
    ("template", "search 2048x2048 for 31x31 uint8->float32"),
    ("small", "1000 * 5 float32"),
    ("small", "28x28 * 3x3 float32"),
)
README_LAYERS = (
    ("layer", "8x64x56x56 * 64x64x3x3 float32"),
    ("layer", "8x512x7x7 * 512x512x3x3 float32"),
    ("layer", "8x3x224x224 * 64x3x7x7 stride 2 float32"),
    ("depthwise", "1x240x28x28 * 240x1x5x5 groups 240 float32"),
    ("gradient", "gw of 8x64x56x56 * 64x64x3x3 float32"),
    ("layer64", "1x64x56x56 * 64x64x3x3 float64"),
)
# Kinds of cells, as they are named and as they are known.
EVERY = ("", lambda row: True)
WIDE = (", channels >= 32", lambda row: row["channels"] >= 32)
WEAK = (", 512 x 7x7, first, depthwise", lambda row: row["channels"] < 32 or "512x7x7" in row["name"])
THE_PICTURE = (", 2048^2 * 31^2", lambda row: row["name"] == "2048x2048 * 31x31 float32")
# Time of the fastest of the peers whose names begin so, over fastcorr's: its target, and what of which cells meets it.
TIMES = (
    ("image", "opencv", 1, min, EVERY),
    ("image", "scipy.ndimage", 20, geometric_mean, EVERY),
    ("image", "scipy.signal", 20, geometric_mean, EVERY),
    ("volume", "scipy.ndimage", 20, min, EVERY),
    ("separable", "opencv", 1, min, EVERY),
    ("separable", "scipy.ndimage", 1, min, EVERY),
    ("signal", "numpy", 1, min, EVERY),
    ("small", "numpy", 1, min, EVERY),
    ("large", "", 1, min, EVERY),
    ("large", "", 1.5, geometric_mean, EVERY),
    ("large", "opencv.matchTemplate", 2, min, THE_PICTURE),
    ("template", "opencv", 1.5, min, EVERY),
    ("template", "skimage", 5, min, EVERY),
    ("layer", "", 1, min, EVERY),
    ("gradient", "torch", 1, min, EVERY),
    ("gradient", "torch", 3, min, WEAK),
    ("depthwise", "", 1.3, min, EVERY),
    ("transpose", "torch", 1, min, EVERY),
    ("layer64", "torch", 3, min, EVERY),
    ("largelayer", "", 1, min, EVERY),
    ("smalllayer", "torch", 1, min, EVERY),
)


def steady(results):
    """Give every row the highest roof of the run for its kind: the hardware does not change, what disturbs it does."""
    kinds = {"peak": ("wide", "level", "threads"), "copy": ("threads",)}
    for name, keys in kinds.items():
        best = {}
        for row in (row for row in results["rows"] if name in row):
            kind = tuple(row[key] for key in keys)
            best[kind] = max(row[name], best.get(kind, 0))
        for row in (row for row in results["rows"] if name in row):
            row[name] = best[tuple(row[key] for key in keys)]


def cells(results):
    """{(group, workload, threads): {peer: row}}; others than fastcorr have their best time with at most that many."""
    found = {}
    for row in results["rows"]:
        for count in sorted({row["threads"] for row in results["rows"]}):
            if row["threads"] == count or (row["threads"] < count and not row["peer"].startswith("fastcorr")):
                here = found.setdefault((row["group"], row["name"], count), {})
                if (rate(row) or 0) >= (rate(here.get(row["peer"])) or 0):
                    here[row["peer"]] = row
    return found


def rate(row):
    """Flops per second, None without a valid time."""
    return row["flops"] / row["seconds"] if row and "seconds" in row else None


def over(row, base):
    """How many times as fast as `row` the `base` is."""
    return rate(base) / rate(row) if rate(row) and rate(base) else None


def span(seconds):
    unit, size = next((u for u in (("s", 1), ("ms", 1e-3)) if seconds >= u[1]), ("us", 1e-6))
    return f"{seconds / size:.3g} {unit}"


def tables(results):
    """fastcorr's time, rate and part of the FMA peak, then each peer's time, and as a multiple of fastcorr's."""
    found = cells(results)
    for group in dict.fromkeys(group for group, _, _ in found):
        mine = {(name, count): rows for (g, name, count), rows in found.items() if g == group}
        peers = list(dict.fromkeys(peer for rows in mine.values() for peer in rows))
        ours = [peer for peer in peers if peer.startswith("fastcorr")]
        wide = max(len(name) for name, _ in mine)
        print(f"\n{group:{wide}}  T", *(f"{peer:>20} Gflop/s peak" for peer in ours), end="")
        print("", *(f"{peer:>20}" for peer in peers if peer not in ours))
        for (name, count), rows in mine.items():
            line = [f"{name:{wide}} {count:2}"]
            for peer in peers:
                row = rows.get(peer, {})
                text = span(row["seconds"]) if "seconds" in row else row.get("error", "")[:20]
                times = over(row, rows.get("fastcorr"))
                if row.get("scratch") is not None:
                    text += f" +{row['scratch'] / 2**20:.1f} MiB"
                elif times and peer not in ours:
                    text += f" {f'({times:.3g}x)':>8}"
                if peer in ours:
                    speed = rate(row) or 0
                    text = f"{text:>20} {speed / 1e9:7.1f} {speed / row.get('peak', 1e99):4.2f}"
                line.append(f"{text:>20}")
            print(*line)


def figures(results):
    """The project's figures: target, what was reached, and the cells that fall short."""
    found = cells(results)
    print(f"\n{results['machine']}, {results['versions']}, {results['minutes']:.1f} minutes")
    roofs = {(row["wide"], row["level"], row["threads"]): row["peak"] / 1e9 for row in results["rows"] if "peak" in row}
    for (element, level, count), peak in sorted(roofs.items()):
        print(f"FMA peak, {element}, {level}, {count} threads: {peak:.1f} Gflop/s")
    for count, copy in sorted({(row["threads"], row["copy"]) for row in results["rows"] if "copy" in row}):
        print(f"copy bandwidth, {count} threads: {copy / 1e9:.1f} GB/s read and written")
    others = {(row["group"], row["name"]): row["others"] for row in results["rows"]}
    busy = sum(share > 0.1 for share in others.values())
    print(f"others used more than 0.1 CPU in every round of {busy} of {len(others)} workloads")
    print(f"\n{'figure':80} target reached")
    for level in ("x86_64_v3", "x86_64_v4"):
        for group, target in (("incache", 0.80), ("tile", 0.95)):
            for dtype in ("float32", "float64"):
                values = collect(found, group, 1, lambda rows: share(rows, level, dtype))  # noqa: B023
                judge(f"{group}: part of the FMA peak, {dtype}, {level}, 1 thread", target, values)
    for count in sorted({count for _, _, count in found}):
        on = f"{count} threads"
        if count > 1:
            judge(f"{on} / 1 thread, compute-bound calls over 2 ms", 0.95 * count, scaling(found, count))
        values = collect(found, "copy", count, lambda rows: bandwidth(rows.get("fastcorr")))
        judge(f"copy: 3x3 on 4096x4096, part of the copy bandwidth, {on}", 0.7, values)
        for group, start, target, pick, (kind, keep) in TIMES:
            value = lambda rows: over(fastest(rows, start), rows.get("fastcorr"))  # noqa: B023, E731
            values = collect(found, group, count, value, keep)
            where = f"{kind}, {on}, {pick.__name__}"
            judge(f"{group}: time of {start or 'the best'} / fastcorr{where}", target, values, pick)
        for group, target in (("layer", 0.90), ("gradient", 0.85)):
            values = collect(found, group, count, lambda rows: part(rows.get("fastcorr")), WIDE[1])
            judge(f"{group}: part of the FMA peak{WIDE[0]}, {on}", target, values)
        judge(f"grouped: rate of 4 groups / 1, {on}", 0.9, grouped(found, count))
        values = collect(found, "memory", count, lambda rows: thrift(rows.get("fastcorr")))
        judge(f"memory: 4 MiB and one copy of w / what is used beside the result, {on}", 1, values)
        for dtypes, base, target in (
            (("int32", "uint8->int32"), "float32", 0.5),
            (("complex64",), "float32", 0.8),
            (("complex128",), "float64", 0.8),
        ):
            values = relative(found, dtypes, base, count)
            judge(f"dtypes: rate of {' and '.join(dtypes)} / {base}, {on}", target, values)
    direct = (row for row in results["rows"] if row["peer"] == "fastcorr" and row["group"] not in ("large", "template"))
    errors = {row["name"]: 2.5 / row["eps"] for row in direct if row.get("eps")}
    judge("2.5 eps sum |x||k| / error", 1, {name: value for name, value in errors.items() if "complex" not in name})
    if results["import_ms"]:
        print(f"{'import beyond numpy, ms':80} {30:6} {results['import_ms']:7.1f}")
    for peer, error in sorted({(row["peer"], row["error"]) for row in results["rows"] if row.get("error")}):
        names = [f"{r['group']} {r['name']}" for r in results["rows"] if (r["peer"], r.get("error")) == (peer, error)]
        print(f"{peer}: {error}: {', '.join(dict.fromkeys(names))}")


def collect(found, group, count, value, keep=EVERY[1]):
    """{workload: value(rows)} of a group's cells that are to be kept, where there is a value."""
    here = {name: rows for (g, name, threads), rows in found.items() if (g, threads) == (group, count)}
    values = {name: value(rows) for name, rows in here.items() if all(map(keep, rows.values()))}
    return {name: v for name, v in values.items() if v}


def fastest(rows, start):
    """The row with the highest rate of the peers whose names begin so."""
    others = [row for peer, row in rows.items() if peer.startswith(start) and not peer.startswith("fastcorr")]
    return max(filter(rate, others), key=rate, default=None)


def part(row):
    """Of the FMA peak."""
    return rate(row) / row["peak"] if rate(row) and "peak" in row else None


def thrift(row):
    """Memory a layer may take over memory it took."""
    used = row.get("scratch") if row else None
    return None if used is None else (row["weights"] + (4 << 20)) / max(used, 1)


def share(rows, level, dtype):
    """The part of the FMA peak that fastcorr reaches at this level."""
    return part(next((row for row in rows.values() if row["level"] == level and row["dtype"] == dtype), None))


def bandwidth(row):
    return row["bytes"] / row["seconds"] / row["copy"] if rate(row) else None


def scaling(found, count):
    """Rate with `count` threads over rate with one, where the roofs say that arithmetic takes longer than memory."""
    values = {}
    copy = max((row["copy"] for rows in found.values() for row in rows.values() if "copy" in row), default=2e10)
    for (group, name, threads), rows in found.items():
        one, many = found.get((group, name, 1), {}).get("fastcorr"), rows.get("fastcorr")
        if group not in ("image", "signal", "volume") or threads != count or not (rate(one) and rate(many)):
            continue
        if one["seconds"] > 2e-3 and many["flops"] / many["peak"] > many["bytes"] / copy:
            values[name] = one["seconds"] / many["seconds"]
    return values


def relative(found, dtypes, base, count):
    """Rate of each workload of `dtypes` over that of the same shapes in `base`."""
    values = {}
    for (group, name, threads), rows in found.items():
        shapes, _, dtype = name.rpartition(" ")
        if group == "dtypes" and threads == count and dtype in dtypes:
            values[name] = over(found.get((group, f"{shapes} {base}", count), {}).get("fastcorr"), rows.get("fastcorr"))
    return {name: v for name, v in values.items() if v}


def grouped(found, count):
    """Rate of each layer with groups over that of the layer without on the same data."""
    rates = collect(found, "grouped", count, lambda rows: rate(rows.get("fastcorr")))
    dense = {name.partition(" ")[0]: value for name, value in rates.items() if "groups" not in name}
    data = {name: name.partition(" ")[0] for name in rates if "groups" in name}
    return {name: rates[name] / dense[x] for name, x in data.items() if x in dense}


def judge(figure, target, values, pick=min):
    """One line: met or missed; then the cells that are below, unless the figure is a mean."""
    if not values:
        return
    reached = pick(values.values())
    print(f"{figure:80} {target:6.2f} {reached:7.3f}  {'ok' if reached >= target else 'MISSED'} ({len(values)} cells)")
    if pick is min:
        for name, value in values.items():
            if value < target:
                print(f"    {name:76} {value:14.3f}")


def write(results):
    """The tables of README.md and docs/performance.md, between their markers; those that were not measured stay."""
    found = cells(results)
    counts = sorted({count for _, _, count in found})
    places = {"speed": README, "layers": README_LAYERS, "all": list(dict.fromkeys(key[:2] for key in found))}
    texts = {}
    for marker, chosen in places.items():
        rows = [(name, [found.get((group, name, count), {}) for count in counts]) for group, name in chosen]
        rows = [(name, row) for name, row in rows if all(rate(cell.get("fastcorr")) for cell in row)]
        if rows:
            texts[marker] = "\n".join([about(results), "", *markdown(rows, counts, results["versions"])])
    for file in ("README.md", "docs/performance.md"):
        path = ROOT / file
        text = path.read_text()
        for marker, table in texts.items():
            block = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
            text = block.sub(lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text)
        path.write_text(text)


def about(results):
    """One line: on which machine, when, with what, by which command."""
    levels = {row["level"] for row in results["rows"] if row["peer"] == "fastcorr" and row["level"]}
    versions = ", ".join(f"{peer} {version}" for peer, version in results["versions"].items() if "@" not in peer)
    machine = results["machine"]
    where = f"{machine['processor']}, {machine['cpus']} cores, {'/'.join(sorted(levels))}, {results['date']}"
    return f"{where}; {versions}; `{results['command']}`."


def markdown(rows, counts, versions):
    """A table: fastcorr's time with each number of threads, then how many times longer each peer takes, with the most.

    A peer that is faster stands in bold; a dash, where it has no valid time.
    """
    named = [peer for peer in versions if any(peer in row[-1] for _, row in rows)]
    peers = [peer for peer in named if not peer.startswith("fastcorr")]
    yield "| " + " | ".join(["call", *(f"fastcorr, {n} thread{'s' * (n > 1)}" for n in counts), *peers]) + " |"
    yield "|---|" + "---:|" * (len(counts) + len(peers))
    for name, row in rows:
        ratios = [over(row[-1].get(peer), row[-1]["fastcorr"]) for peer in peers]
        texts = [f"{float(f'{ratio:.2g}'):g}x" if ratio else "\N{EN DASH}" for ratio in ratios]
        texts = [f"**{text}**" if ratio and ratio < 1 else text for text, ratio in zip(texts, ratios, strict=True)]
        yield "| " + " | ".join([name, *(span(cell["fastcorr"]["seconds"]) for cell in row), *texts]) + " |"

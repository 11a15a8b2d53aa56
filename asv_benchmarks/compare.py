"""fastcorr beside NumPy, SciPy, OpenCV, PyTorch and ONNX Runtime, and beside what the hardware can do at most.

    python asv_benchmarks/compare.py [--quick] [--group image,layer] [--threads 1,2] [--json FILE] [--write]

Each library lives in a process of its own that imports nothing else and is stopped (SIGSTOP) while it is not its turn,
so no idle thread takes part. Within one workload all take turns, for several rounds, and the least time counts: what
the machine does meanwhile meets all alike; what others took of it meanwhile is reported. Every result is checked, at
hundreds of places against the definition and as a whole against the others'; a wrong one voids its time. The roofs are
measured in the same rounds. Trust the ratios.
"""

import argparse
import json
import os
import pickle
import platform
import signal
import subprocess
import sys
from datetime import date
from math import prod
from pathlib import Path
from time import perf_counter

import numpy as np
import pictures
import quiet
import report
import roof
from benchmarks.correlate_workloads import workloads
from benchmarks.layer_workloads import layers
from peers import LARGE, PEERS, SERIAL, able
from tqdm import tqdm

LEVELS = ("fastcorr@x86_64_v3", "fastcorr@x86_64_v4")  # fastcorr with FASTCORR_ISA set
ONLY = {
    "copy": ("fastcorr", "opencv"),
    "separable": ("fastcorr", "opencv", "scipy.ndimage"),
    "large": ("fastcorr", "numpy", "opencv", "scipy.oaconvolve", *LARGE),
    "dtypes": ("fastcorr",),
    "incache": LEVELS,
    "tile": LEVELS,
    "memory": ("fastcorr", "torch"),
}
WORK = [*workloads(), *layers()]
GROUPS = tuple(dict.fromkeys(work.group for work in WORK))


class Worker:
    """A process that runs one peer, stopped except while it answers."""

    def __init__(self, name, level):
        level = name.partition("@")[2] or (level if name == "fastcorr" else None)
        environment = os.environ | ({"FASTCORR_ISA": level} if level else {})
        command = [sys.executable, Path(__file__).with_name("peers.py"), name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.about = self._answer()

    def _answer(self):
        try:
            answer = pickle.load(self.process.stdout)
        except EOFError:
            return {"error": f"the process ended with code {self.process.wait()}", "dead": True}
        self._signal("SIGSTOP")
        return answer

    def _signal(self, name):
        if hasattr(signal, name):  # elsewhere a worker that waits for its turn is merely blocked
            self.process.send_signal(getattr(signal, name))

    def ask(self, *request):
        self._signal("SIGCONT")
        pickle.dump(request, self.process.stdin)
        self.process.stdin.flush()
        return self._answer()

    def end(self):
        self.process.kill()
        self.process.wait()


class Crew:
    """The workers, started when first needed; what cannot start is said once and left out."""

    def __init__(self, peers, level):
        self.peers, self.level, self.workers, self.versions = peers, level, {}, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers.values():
            worker.end()

    @property
    def pids(self):
        return [worker.process.pid for worker in self.workers.values()]

    def of(self, work):
        """{name: Worker} of the peers that take part in this work; new ones to measure the memory of a first call."""
        names = ONLY.get(work.group, able(work))
        if self.level and names is LEVELS:
            names = ("fastcorr",)
        fresh = work.group == "memory"
        workers = {name: self._worker(name, fresh) for name in names if name.partition("@")[0] in self.peers}
        return {name: worker for name, worker in workers.items() if "error" not in worker.about}

    def _worker(self, name, fresh):
        if fresh and "version" in getattr(self.workers.get(name), "about", {}):
            self.workers.pop(name).end()
        if name not in self.workers:
            worker = self.workers[name] = Worker(name, self.level)
            if "error" in worker.about:
                tqdm.write(f"{name} is left out: {worker.about['error']}", file=sys.stderr)
            else:
                self.versions[name] = worker.about["version"]
        return self.workers[name]


def measure(work, crew, threads, rounds, budget, patience, pace):
    """Rows, one per peer and number of threads, of one workload.

    A peer has no more turns when it has used its budget of seconds. `pace` remembers seconds per effort of each
    peer's last workload of the kind: one that is sure to take several budgets is passed over.
    """
    rows, total = {}, None
    facts = {key: getattr(work, key) for key in ("group", "name", "dtype", "flops", "bytes", "channels")}
    facts["wide"] = "float64" if work.dtype in ("float64", "complex128", "int64") else "float32"  # whose roof it is
    kind = (work.group, work.dtype)
    disturbed = []  # CPUs that others used, per round
    for turn in range(rounds):
        quiet.wait(patience, crew.pids)
        begin, others = perf_counter(), quiet.seconds_of_others(crew.pids)
        for count in threads:
            for name, worker in crew.of(work).items():
                if count > 1 and name in SERIAL:
                    continue
                row = rows.setdefault((name, count), {"peer": name, "threads": count, "level": worker.about["level"]})
                if "error" in row or row.get("spent", 0) > budget:
                    continue
                if not turn and pace.get((name, count, *kind), 0) * work.effort > 4 * budget:
                    row["error"] = "passed over"
                    continue
                asked = perf_counter()
                answer = worker.ask(work, count, budget / 4)
                row["spent"] = row.get("spent", 0) + perf_counter() - asked
                if "error" in answer:
                    row |= {"error": answer["error"], "unsupported": answer.get("unsupported", False)}
                    if answer.get("dead"):
                        del crew.workers[name]
                    continue
                total = answer["sum"] if total is None else total
                fault = answer["fault"] or ("" if agree(work, answer["sum"], total) else "sums to something else")
                if fault:
                    row["error"] = f"WRONG: the result {fault}"
                    row.pop("seconds", None)
                    continue
                row["seconds"] = min(row.get("seconds", 1e9), answer["seconds"])
                row |= {key: answer[key] for key in ("eps", "scratch", "weights") if key in answer}
                pace[(name, count, *kind)] = row["seconds"] / work.effort
                if row["level"]:
                    row["peak"] = max(row.get("peak", 0), roof.fma(facts["wide"], row["level"], count))
                    if work.group in ("copy", "image"):
                        row["copy"] = max(row.get("copy", 0), roof.copy(count))
        disturbed.append((quiet.seconds_of_others(crew.pids) - others) / (perf_counter() - begin))
    facts["others"] = min(disturbed)
    return [facts | row for row in rows.values() if not row.get("unsupported")]


def agree(work, a, b):
    """Whether two sums over all results are the same but for rounding, which is random from sample to sample."""
    if work.dtype.startswith(("int", "uint")):
        return a == b
    _, scale = work.expected()
    return abs(a - b) <= 32 * np.finfo(work.dtype).eps * float(scale.max()) * prod(work.shape) ** 0.5


def import_time():
    """Milliseconds of `import fastcorr` beyond numpy's, the least of seven."""
    code = "import numpy, time; t = time.perf_counter(); import fastcorr; print(1e3 * (time.perf_counter() - t))"
    runs = [subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stdout for _ in range(7)]
    return min(float(text or "nan") for text in runs)


def run(options):
    """All that was asked for, as a dict of plain values."""
    rows, pace, begin = [], {}, perf_counter()
    chosen = [work for work in WORK if work.group in options.group and (work.quick or not options.quick)]
    effort = (3, 1) if options.quick else (5, 3)  # rounds, seconds for each peer
    with Crew(options.peers, options.level) as crew, tqdm(chosen, unit="workload", leave=False) as bar:
        for work in bar:
            bar.set_description(f"{work.group} {work.name}")
            rounds = 1 if work.group == "memory" else effort[0]
            rows += measure(work, crew, options.threads, rounds, effort[1], options.patience, pace)
    machine = {"processor": processor(), "cpus": os.cpu_count(), "python": platform.python_version()}
    return {
        "machine": machine,
        "date": date.today().isoformat(),
        "command": " ".join(["python asv_benchmarks/compare.py", *sys.argv[1:]]),
        "versions": crew.versions,
        "minutes": (perf_counter() - begin) / 60,
        "import_ms": import_time() if "fastcorr" in options.peers else None,
        "rows": rows,
    }


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    names = lambda known: lambda text: [checked(name, known) for name in text.split(",")]  # noqa: E731
    default_threads = sorted({1, os.cpu_count() or 1})
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--group", type=names(GROUPS), default=GROUPS, help=f"of {','.join(GROUPS)} (default: all)")
    parser.add_argument("--peers", type=names(PEERS), default=PEERS, help=f"of {','.join(PEERS)}")
    counts = lambda text: [int(n) for n in text.split(",")]  # noqa: E731
    parser.add_argument("--threads", type=counts, default=default_threads, help="numbers of threads, as 1,2")
    parser.add_argument("--level", help="FASTCORR_ISA for fastcorr (default: its own choice)")
    parser.add_argument("--quick", action="store_true", help="fewer workloads and rounds, slow peers passed over")
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait, per round, for others to be idle")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--load", type=Path, help="report from such a file, measure nothing")
    parser.add_argument(
        "--write", action="store_true", help="the tables of README.md and docs/performance.md, pictures"
    )
    options = parser.parse_args()
    results = json.loads(options.load.read_text()) if options.load else run(options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    report.steady(results)
    report.tables(results)
    report.figures(results)
    if options.write:
        report.write(results)
        pictures.write(results)
    return any("WRONG" in row.get("error", "") for row in results["rows"])


def checked(name, known):
    if name not in known:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
    return name


if __name__ == "__main__":
    sys.exit(main())

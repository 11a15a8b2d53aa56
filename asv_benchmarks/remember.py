"""Puts what asv measured of commits into results/reference, the history that the repository keeps.

    python remember.py COMMIT...

Four digits of each result, no samples and no machine's name: 9 kB per commit.
"""

import json
import sys
from math import isfinite
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
REFERENCE = RESULTS / "reference"


def four_digits(value):
    return float(f"{value:.4g}") if isinstance(value, float) and isfinite(value) else value


def compact(found, machine):
    """One commit's results as asv reads them: of each benchmark its values, parameters, version."""
    results = {
        name: [values and [four_digits(value) for value in values], *rest]
        for name, (values, *rest) in ((name, row[:3]) for name, row in found["results"].items())
    }
    described = {key: value for key, value in machine.items() if key != "version"}
    return found | {"params": found["params"] | described, "results": results, "durations": {}}


def main():
    machine = json.loads((REFERENCE / "machine.json").read_text())
    for commit in sys.argv[1:]:
        paths = [path for path in RESULTS.glob(f"*/{commit[:8]}-*.json") if path.parent != REFERENCE]
        if not paths:
            sys.exit(f"asv has no results of {commit} in {RESULTS}")
        for path in paths:
            kept = compact(json.loads(path.read_text()), machine)
            (REFERENCE / path.name).write_text(json.dumps(kept, separators=(",", ":")) + "\n")
            print(REFERENCE / path.name)


if __name__ == "__main__":
    main()

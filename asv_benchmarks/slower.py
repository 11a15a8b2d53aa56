"""Which benchmarks does a commit make slower? From the samples that asv keeps of both; ../.ci/regression asks.

    python slower.py FACTOR BASE COMMIT REGEX

One is slower if its least sample is and its median is. The clock of a processor goes up and down, and others use it: a
median tells which commit met the slow clock more often, the least sample whether each met the fast one at all, and
these are seldom wrong at once. asv itself compares medians. The slower ones are printed as one regular expression, for
`asv run --bench`; a table goes to stderr.
"""

import re
import sys
from itertools import product
from statistics import median

from asv.results import iter_results


def kept(commit, regex):
    """{benchmark with parameters: seconds of all its samples}."""
    found = {}
    for results in iter_results("results"):
        for name in results.get_all_result_keys() if results.commit_hash == commit else ():
            params = results.get_result_params(name)
            for values, samples in zip(product(*params), results.get_result_samples(name, params), strict=True):
                label = f"{name}({', '.join(values)})"
                if samples and re.search(regex, label):
                    found[label] = samples
    return found


def main():
    factor, base, commit, regex = sys.argv[1:]
    before, after = kept(base, regex), kept(commit, regex)
    ratios = {label: [f(after[label]) / f(before[label]) for f in (min, median)] for label in before if label in after}
    if not ratios:
        sys.exit("asv has no samples of these benchmarks")
    slower = [label for label in ratios if min(ratios[label]) > float(factor)]
    print(f"{len(slower)} of {len(ratios)} benchmarks are slower.  least  median", file=sys.stderr)
    for label in sorted(ratios, key=lambda label: -min(ratios[label]))[: max(10, len(slower))]:
        print("{:6.2f} {:6.2f}".format(*ratios[label]), label, file=sys.stderr)
    print("|".join(f"^{re.escape(label)}$" for label in slower))


if __name__ == "__main__":
    main()

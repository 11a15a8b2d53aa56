"""Which benchmarks does a commit make slower? From the samples that asv keeps of both; ../.ci/regression asks.

    python slower.py FACTOR BASE COMMIT REGEX

The least sample of all rounds is what a call takes where nothing disturbs it. Medians, which asv compares, are not fit
for a processor whose clock goes up and down: they say which commit met the slow clock more often. The slower ones
are printed as one regular expression, for `asv run --bench`; the table goes to stderr.
"""

import re
import sys
from itertools import product

from asv.results import iter_results


def least(commit, regex):
    """{benchmark with parameters: least seconds of all samples}."""
    found = {}
    for results in iter_results("results"):
        for name in results.get_all_result_keys() if results.commit_hash == commit else ():
            params = results.get_result_params(name)
            for values, samples in zip(product(*params), results.get_result_samples(name, params), strict=True):
                label = f"{name}({', '.join(values)})"
                if samples and re.search(regex, label):
                    found[label] = min(samples)
    return found


def main():
    factor, base, commit, regex = sys.argv[1:]
    before, after = least(base, regex), least(commit, regex)
    ratios = {label: after[label] / before[label] for label in before.keys() & after.keys()}
    if not ratios:
        sys.exit("asv has no samples of these benchmarks")
    slower = [label for label, ratio in ratios.items() if ratio > float(factor)]
    print(f"{len(ratios)} benchmarks: {len(slower)} slower; the ratios farthest from 1:", file=sys.stderr)
    for label in sorted(ratios, key=lambda label: -abs(ratios[label] - 1))[: max(10, len(slower))]:
        print(f"{ratios[label]:8.3f}  {before[label] * 1e6:10.1f} us  {label}", file=sys.stderr)
    print("|".join(f"^{re.escape(label)}$" for label in slower))


if __name__ == "__main__":
    main()

"""Random calls against the definition, exactly: ``python tests/fuzz.py --n 2000 --seed 0``.

Every rank, mode, boundary, dtype, layout, level and thread count that `common.random_case` knows. Call number i of seed
s is the same everywhere and whatever `--n`. A call that fails is printed as Python that repeats it; the exit code is
then 1.
"""

import argparse
import random
import sys
import time
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a tree built in place; an installed fastcorr goes first

from common import LEVELS, random_case


def failure(case):
    """What is wrong with this call, None if nothing."""
    try:
        case.check()
    except (Exception, Warning) as error:  # anything at all: a crash of the call is a finding, not of the fuzzer
        return f"{type(error).__name__}: {error}"
    return None


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000, help="calls to draw")
    parser.add_argument("--seed", default="0", help="names the sequence of calls")
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--most", type=int, default=5, help="failures after which to stop")
    options = parser.parse_args(arguments)
    warnings.simplefilter("error")
    start, failed, done = time.perf_counter(), 0, 0
    for i in range(options.first, options.first + options.n):
        case = random_case(random.Random(f"{options.seed}/{i}"))
        message, done = failure(case), done + 1
        if message:
            failed += 1
            print(f"call {i} of seed {options.seed}: {message.splitlines()[0]}")
            print(f'  cd tests && python -c "from common import Array, Case; {case!r}.check()"\n', flush=True)
            if failed == options.most:
                break
    seconds = time.perf_counter() - start
    print(f"{done} calls on {', '.join(LEVELS)} in {seconds:.1f} s: {failed or 'none'} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Plants every mutant, runs the tests that should see it, and reports which were caught and by what."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from .catalogue import MUTANTS
from .plant import INVALID, Copy, Mutant, Outcome

WANTED = 0.95


def chosen(words: Sequence[str]) -> list[Mutant]:
    return [mutant for mutant in MUTANTS if not words or any(word in str(mutant) for word in words)]


def outcomes(mutants: Sequence[Mutant], processes: int) -> list[Outcome]:
    """One outcome for each mutant; the tests themselves must pass first."""
    tests = sorted({mutant.tests for mutant in mutants})
    copies: SimpleQueue[Copy] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for number in range(processes):
            copies.put(Copy(Path(folder) / str(number)))

        def sound(tests: tuple[str, ...]) -> Outcome:
            copy = copies.get()
            outcome = copy.run(tests)
            copies.put(copy)
            return outcome

        def outcome(mutant: Mutant) -> Outcome:
            copy = copies.get()
            with copy.planted(mutant):
                outcome = copy.run(mutant.tests)
            copies.put(copy)
            print(f"{outcome.caught_by or 'MISSED':24} {outcome.seconds:5.0f} s  {mutant}", flush=True)
            return outcome

        with ThreadPoolExecutor(processes) as pool:
            print(f"{len(tests)} choices of tests without any mutant ...", flush=True)
            for choice, before in zip(tests, pool.map(sound, tests), strict=True):
                if before.caught_by:
                    sys.exit(f"{' '.join(choice)} fails without any mutant: {before.message}")
            return list(pool.map(outcome, mutants))


def report(mutants: Sequence[Mutant], found: Sequence[Outcome], seconds: float) -> bool:
    """Prints the summary; True if enough were caught."""
    caught = [outcome for outcome in found if outcome.caught_by not in (None, INVALID)]
    print(f"\n{len(caught)} of {len(mutants)} mutants caught in {seconds:.0f} s")
    for check, count in Counter(str(outcome.caught_by) for outcome in caught).most_common():
        print(f"{count:5}  {check}")
    for mutant, outcome in zip(mutants, found, strict=True):
        if outcome not in caught:
            print(f"{outcome.caught_by or 'missed'}: {mutant}")
    return len(caught) >= WANTED * len(mutants)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants whose file or description has one of these")
    parser.add_argument("-n", metavar="PROCESSES", type=int, default=2, help="how many run at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="list them and see that each can be planted")
    options = parser.parse_args()
    mutants = chosen(options.words)
    faults = [fault for mutant in mutants if (fault := mutant.fault())]
    if faults:
        sys.exit("\n\n".join(faults))
    if options.list:
        print(*mutants, sep="\n")
        return 0
    started = time.monotonic()
    return 0 if report(mutants, outcomes(mutants, options.n), time.monotonic() - started) else 1


if __name__ == "__main__":
    sys.exit(main())

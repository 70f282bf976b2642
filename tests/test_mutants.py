"""The mutants of `make mutants` can be planted: their text and the tests that should see it are where they say."""

from pathlib import Path

import pytest
from mutants.catalogue import MUTANTS
from mutants.plant import INVALID, Mutant, caught_by

TESTS = Path(__file__).parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_can_be_planted_and_has_tests_that_should_see_it(mutant: Mutant) -> None:
    assert mutant.fault() is None
    assert mutant.old != mutant.new
    assert (TESTS / mutant.tests[0]).is_file()


def test_there_are_enough_of_them_and_each_is_another_bug() -> None:
    assert len(MUTANTS) == len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) >= 40


def test_a_mutant_whose_text_is_not_there_once_is_refused() -> None:
    for old, count in [("no such text", 0), ("namespace", 2)]:
        assert f"occurs {count} times" in str(Mutant("kernels/philox.cuh", old, "", "nothing", ()).fault())


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("FAILED test_x.py::test_y - AssertionError: 1 != 2", "numbers"),
        ("FAILED test_x.py::test_y - assert 1 == 2", "numbers"),
        ("FAILED test_x.py::test_y - emulator.launching.EmulatorError: race: k: write of 4 bytes", "emulator: race"),
        ("FAILED test_x.py::test_y - TypeError: argument 3", "TypeError"),
        ("ERROR test_x.py::test_y - emulator.compiling.CompileError: g++ failed:", INVALID),
    ],
)
def test_what_caught_a_mutant_is_read_off_the_report(line: str, kind: str) -> None:
    assert caught_by(f"...F\n{line}\n1 failed in 0.1s\n") == (kind, line)

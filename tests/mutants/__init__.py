"""Bugs planted on purpose: `make mutants` plants them one at a time and sees whether the tests of the kernels bite.

A mutant that no test catches is a line of a kernel or of its launcher that nothing checks. One whose text is no longer
found is an error, so the list cannot grow stale. `ARGS="dropout rows.py"` chooses, `ARGS=--list` only lists.
"""

"""`python -m benchmarks [question ...] [--quick] [--threads N] [--json FILE]`.

The number of threads and cores is fixed here, before anything imports NumPy: libraries read it when they are loaded.
"""

import argparse
import importlib
import json
import os
from pathlib import Path

QUESTIONS = {
    "steps": "seconds for a training step of two MLPs, beside the peers",
    "anatomy": "where the time of our training step goes",
    "per_op": "seconds to record and pull one op, beside NumPy's own calls and the peers",
    "observers": "what watching a training step costs",
    "memory": "bytes that a 12-layer MLP keeps and its peak during backward",
    "jacobians": "seconds for a whole Jacobian, by rows, columns or a plan, beside JAX and autograd",
    "per_example": "seconds for the gradients of an MLP by example, by vmap, by a loop and by the peers",
    "gradient": "what the gradient of an MLP costs as a multiple of its value, in operations and in time",
    "counts": "operations of a 12-layer net and its derivatives, by our ledger and by the counters of the peers",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    listed = "; ".join(f"{name}: {what}" for name, what in QUESTIONS.items())
    parser.add_argument("questions", nargs="*", choices=[*QUESTIONS, []], metavar="question", help=f"all, or {listed}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds: shows that it runs, no figures")
    parser.add_argument("--threads", type=int, default=1, help="threads and cores of every library (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    if options.threads < 1:
        parser.error(f"--threads is a whole number above 0; got {options.threads}")

    limit_threads(options.threads)

    from .runner import environment

    facts = environment(options.threads)
    print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    answers = {}
    for question in options.questions or QUESTIONS:
        print(f"\n== {question}: {QUESTIONS[question]}\n")
        answers[question] = importlib.import_module(f".{question}", __package__).answer(quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps({"environment": facts, "quick": options.quick, **answers}, indent=1) + "\n")


def limit_threads(threads: int) -> None:
    """No library takes more threads, nor more cores: only by its cores can XLA be limited (jax-ml/jax, issue 1539)."""
    for library in ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


if __name__ == "__main__":
    main()

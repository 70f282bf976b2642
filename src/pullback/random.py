"""Random numbers: seeded generators, and the same draws from the default generator of the process."""

from .ops.sampling import Generator, default_generator, dropout, seed

__all__ = [
    "Generator",
    "bernoulli",
    "default_generator",
    "dropout",
    "get_state",
    "integers",
    "normal",
    "permutation",
    "seed",
    "set_state",
    "spawn",
    "uniform",
]

bernoulli = default_generator.bernoulli
integers = default_generator.integers
normal = default_generator.normal
permutation = default_generator.permutation
uniform = default_generator.uniform
get_state = default_generator.get_state
set_state = default_generator.set_state
spawn = default_generator.spawn

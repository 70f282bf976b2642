"""All mutants."""

from .kernel_mutants import KERNEL_MUTANTS
from .launch_mutants import LAUNCH_MUTANTS
from .plant import Mutant

MUTANTS: list[Mutant] = [*KERNEL_MUTANTS, *LAUNCH_MUTANTS]

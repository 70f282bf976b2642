"""Third floor: every op, each in one block."""

from .elementwise import *
from .linalg import *
from .reductions import *
from .shaping import *

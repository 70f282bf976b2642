"""Third floor: every op, each in one block."""

from ..core import op as _table
from .activations import *
from .comparison import *
from .contraction import *
from .creation import *
from .cross_entropy import *
from .decompositions import *
from .dense import *
from .elementwise import *
from .indexing import *
from .joining import *
from .losses import *
from .normalization import *
from .products import *
from .reductions import *
from .sampling import *
from .scans import *
from .searching import *
from .shaping import *
from .softmax import *
from .solving import *
from .special import *
from .transcendental import *

_made = {name: op.call for name, op in _table.OPS.items() if name.endswith("_slope") or name.startswith("linear_")}
globals().update(_made)  # ops that come with the definition of others

"""Third floor: every op, each in one block."""

from .activations import *
from .comparison import *
from .contraction import *
from .creation import *
from .cross_entropy import *
from .decompositions import *
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

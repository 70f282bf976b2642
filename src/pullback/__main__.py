"""`python -m pullback` is the command `pullback`."""

import sys

from .cli import main

sys.exit(main())

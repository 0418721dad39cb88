"""``python -m aime`` is ``aime``."""

import sys

from aime.cli import main

sys.exit(main())

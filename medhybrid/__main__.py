"""`python -m medhybrid`."""

import sys

from medhybrid.cli import main

sys.exit(main())

"""What `python -m kumi` runs."""

import sys

from kumi.cli import main

sys.exit(main())

"""``python -m molmo_ros.cli``: the command without an installation."""

import sys

from molmo_ros.cli.entry import main

sys.exit(main())

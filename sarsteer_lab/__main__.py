"""`python -m sarsteer_lab` is `sarsteer-lab`."""

import sys

from sarsteer_lab.cli import main

sys.exit(main())

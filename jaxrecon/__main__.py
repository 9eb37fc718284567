"""`python -m jaxrecon`: the command line, where its script is not on the path."""

import sys

from jaxrecon.cli.main import main

sys.exit(main())

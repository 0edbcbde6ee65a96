"""`python -m fairseq_distill`: the command line `fairseq-distill`."""

import sys

from .cli.main import main

sys.exit(main())

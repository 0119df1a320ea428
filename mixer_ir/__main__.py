"""`python -m mixer_ir` is the command `mixer-ir`."""

from __future__ import annotations

import sys

from mixer_ir.cli import main

sys.exit(main())

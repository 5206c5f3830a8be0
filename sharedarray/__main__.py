"""``python -m sharedarray``: the command, without its script on the path."""

from __future__ import annotations

import sys

from sharedarray._cli import main

if __name__ == "__main__":  # children of the demo's pools import this module too
    sys.exit(main())

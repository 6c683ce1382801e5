"""A file that no byte can be written to."""

from pathlib import Path

import pytest

FULL_DISK = Path("/dev/full")
needs_full_disk = pytest.mark.skipif(not FULL_DISK.exists(), reason="needs the device /dev/full")

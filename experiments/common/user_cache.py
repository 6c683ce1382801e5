"""The user's cache, by the platform's convention: downloads, unpacked data, compiled programs."""

from pathlib import Path

import pooch


def cache_folder() -> Path:
    """Return the folder; it may not exist yet."""
    return pooch.os_cache("xentjax")

"""The images: found or downloaded, checked, decoded and augmented."""

"""Two revisions of xentjax beside each other: `python -m benchmarks compare BASE [HEAD]`."""

"""A command that pretends to have trained: `python -m tests.support.fake_training OPTIONS`."""

import json
import sys
from pathlib import Path


def main() -> None:
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    if options["--seed"] == "13":
        print("one line\nerror: loss: expected a finite number, got nan", file=sys.stderr)
        raise SystemExit(2)
    if cache := options.get("--compile-cache"):
        Path(cache).mkdir()
    folder = Path(options["--runs-dir"]) / "cifar10" / "today"
    folder.mkdir(parents=True)
    config = {"experiment": "cifar10", "config": {"preset": options["--preset"]}}
    (folder / "config.json").write_text(json.dumps(config))
    summary = {
        "test_accuracy": 0.75,
        "test_plain_accuracy": 0.5,
        "temperature": None,
        "seconds": {"starting": 0.001, "training": 0.002},
    }
    (folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main()

"""Results of a finished command, read back: its run folder, and its one error line."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

Main = Callable[[Sequence[str]], None]


def only_run(runs_dir: Path, experiment: str) -> Path:
    """The folder of the only run there is."""
    (folder,) = (runs_dir / experiment).iterdir()
    return folder


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_figures(folder: Path, names: Sequence[str]) -> None:
    """The folder's PNGs have these names, and a README's width, and none of them is blank."""
    assert {path.name for path in folder.glob("*.png")} == {f"{name}.png" for name in names}
    for name in names:
        pixels = matplotlib.image.imread(folder / f"{name}.png")[..., :3]
        assert pixels.shape[1] == 1600
        inked = (pixels < 0.9).any(-1)
        assert 0.01 < inked.mean() < 0.9
        # ink in every third from left to right and from top to bottom
        for rows in (inked, inked.T):
            assert all(part.any() for part in np.array_split(rows, 3))


def error_line(main: Main, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that ends with exit code 2 and prints nothing else."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert printed.out.strip() == ""
    (line,) = printed.err.splitlines()
    return line

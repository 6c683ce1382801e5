"""Pictures of `gallery.md`, drawn by the commands that the page names.

    python docs/gallery.py [NAME ...]

runs the commands of the experiments that are named, or all, and replaces their pictures.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from PIL import Image

DOCS = Path(__file__).parent
COLORS = 64  # enough for lines and text, at a third of the size


class Section(NamedTuple):
    """An experiment on the page: its name, the arguments of its command, and its pictures."""

    name: str
    arguments: list[str]
    pictures: list[str]


def sections(page: Path = DOCS / "gallery.md") -> list[Section]:
    """Read the commands and the pictures above each."""
    found = []
    for text in page.read_text().split("\n## ")[1:]:
        (command,) = re.findall(r"^\$ \.venv/bin/python -m experiments\.(.*)$", text, re.MULTILINE)
        name, *arguments = command.split()
        pictures = re.findall(rf"\]\(gallery/{name}-(\w+)\.png\)", text)
        found.append(Section(name, arguments, pictures))
    return found


def make(section: Section, folder: Path) -> None:
    """Run a command and put its pictures into a folder."""
    with TemporaryDirectory() as runs:
        command = [sys.executable, "-m", f"experiments.{section.name}", *section.arguments]
        subprocess.run([*command, "--runs-dir", runs], cwd=DOCS.parent, check=True)
        for picture in section.pictures:
            (drawn,) = Path(runs).glob(f"{section.name}/*/{picture}.png")
            with Image.open(drawn) as image:
                small = image.convert("RGB").quantize(COLORS)
            small.save(folder / f"{section.name}-{picture}.png", optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the pictures of the sections that the command line names, or of all."""
    known = sections()
    parser = argparse.ArgumentParser(description="Renew the pictures of the gallery.")
    parser.add_argument("names", nargs="*", choices=[[], *(each.name for each in known)])
    parser.add_argument("--output", type=Path, default=DOCS / "gallery", help="their folder")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    for section in known:
        if section.pictures and (not options.names or section.name in options.names):
            make(section, options.output)


if __name__ == "__main__":
    main()

"""The command `python -m benchmarks render`: pages and pictures from the measured JSON."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from benchmarks.render import pictures, runs, stored, tables
from experiments.common.command import UserError, parse_options, say

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "results"
MARKED = re.compile(r"(<!-- ([\w-]+): (\w+) -->)(.*?)(<!-- end -->)", re.DOTALL)
BLOCKS = tables.BLOCKS | runs.BLOCKS


@dataclass(frozen=True)
class Command:
    """Options of the command; the strings below the fields are its help."""

    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER ...]")
    ] = ()
    """Results of benchmarks and runs of experiments that replace measured ones first."""
    redraw: bool = False
    """Draw all pictures, as after a change of their style, not only those of newer figures."""


def pages() -> list[Path]:
    """Find the pages that have marked parts."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    return [path for path in every if "_build" not in path.parts and MARKED.search(_text(path))]


def render(text: str) -> str:
    """Replace each marked part of a page by its current measurement.

    Raises:
        UserError: a comment asks for a part that does not exist.
    """

    def part(found: re.Match[str]) -> str:
        begin, name, block, _, end = found.groups()
        if block not in BLOCKS.get(name, {}):
            raise UserError(f"{begin}: expected a part of {', '.join(BLOCKS)}, got another")
        made = BLOCKS[name][block]()
        return f"{begin}\n\n{made}\n\n{end}" if "\n" in made else f"{begin}{made}{end}"

    return MARKED.sub(part, text)


def keep(folder: Path) -> str:
    """Copy a result or a run into the measured files; return its name there.

    Raises:
        UserError: the folder is neither.
    """
    if (folder / "config.json").exists():
        return runs.keep(folder)
    name = folder.name.partition("-")[0]
    source = folder / f"{name}.json"
    if not source.exists():
        raise UserError(f"{folder}: expected the folder of a result or of a run, got another")
    shutil.copyfile(source, stored.FOLDER / f"{name}.json")
    return name


def main(args: Sequence[str]) -> None:
    """Run the command."""
    command = parse_options(
        Command,
        args,
        prog="python -m benchmarks render",
        description="Replace measured JSON, and renew README, pages and pictures from it.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    console = Console(stderr=True)
    for folder in command.folders:
        say(console, f"{stored.FOLDER.name}/{keep(folder)}.json: replaced by {folder}")
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in pictures.PICTURES:
        if command.redraw or not pictures.is_current(name, PICTURES):
            pictures.save(name, PICTURES)
    for path in pages():
        text = _text(path)
        if (made := render(text)) != text:
            path.write_text(made)
            say(console, f"{path.relative_to(ROOT)}: renewed")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")

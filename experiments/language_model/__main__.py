"""A small language model whose logits are never stored: trained, distilled, sampled from, tuned.

    python -m experiments.language_model
        five minutes on two cores
    python -m experiments.language_model --quick
        every step at a small size, in half a minute
    python -m experiments.language_model --data FILE
        a text of your own

A vocabulary is learned from the text (byte pairs), and a transformer, the teacher, is trained by
linear_softmax_cross_entropy and tested on text that was held out, in bits per byte. A student of
half its width learns the same text alone, and another one by linear_kl_divergence from the teacher,
in as many steps on the same batches. The teacher writes texts by linear_sample, and is tuned by
linear_loss for a reward: the share of ordinary words (a space and lower-case letters) among its
tokens, with a penalty for leaving the teacher.

Without --data the text is the sources of Python's own standard library, which differ a little
between versions; every tenth file is held out. The summary has size and hash of the text. Compiled
programs are kept in the user's cache, or where --compile-cache says. The run folder receives
settings, metrics.jsonl, summary.json, tokenizer.json, samples.txt, figures and checkpoints. Ctrl-C,
SIGTERM and closing the terminal save a checkpoint; --resume continues from it, and on the same
machine gives exactly the result of an uninterrupted run.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from experiments.common.command import UserError, one_line_errors, parse_options, say
from experiments.common.compile_cache import compile_cache
from experiments.common.interrupt import resumable
from experiments.common.run_folder import RUNS, RunFolder
from experiments.common.settings import changed_settings
from experiments.common.waiting import waiting
from experiments.language_model.config import NAME, QUICK, Config
from experiments.language_model.data import read_text
from experiments.language_model.report import save, show
from experiments.language_model.run import run

PROGRAM = f"python -m experiments.{NAME}"


@dataclass(frozen=True)
class Command:
    """All options of a run."""

    settings: tyro.conf.OmitArgPrefixes[Config]
    runs_dir: Path = RUNS
    """Folder in which the new run folder is made."""
    compile_cache: Path | None = None
    """Folder of compiled programs, or off; default: $XENTJAX_COMPILE_CACHE or the user's cache."""
    resume: Path | None = None
    """Folder of a stopped run to resume with its own settings."""


@dataclass(frozen=True)
class Start:
    """The options that determine the defaults of the others; `Command` checks them."""

    quick: bool = False
    resume: Path | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with one_line_errors():
        command = parse(argv)
        config = command.settings
        console = Console()
        with waiting(console, "reading the text"):
            text = read_text(config.data, config.text_bytes)
        say(
            console,
            f"{text.name}: {len(text.train) + len(text.held_out)} documents, {text.size:,} bytes, "
            f"SHA-256 {text.sha256[:12]}",
        )
        if command.resume is None:
            folder = RunFolder.create(NAME, config, command.runs_dir)
        else:
            folder = RunFolder.open(command.resume, NAME)
            for difference in folder.differences():
                say(console, f"resume: {difference}")
        with (
            compile_cache(command.compile_cache),
            resumable(PROGRAM, folder.path, None) as should_stop,
        ):
            result = run(
                config,
                text,
                folder,
                resume=command.resume is not None,
                console=console,
                should_stop=should_stop,
            )
        with waiting(console, "drawing") as doing:
            save(folder, config, result, doing)
        show(config, result, console)
        say(console, f"Figures, numbers, texts and checkpoints: {folder.path}")


def parse(argv: Sequence[str] | None = None) -> Command:
    """Parse the options; the defaults are those of --quick, or of the run to resume.

    Raises:
        UserError: a setting is impossible, or differs from the run to resume.
    """
    options = sys.argv[1:] if argv is None else argv
    options = [option for option in options if not option.startswith("--tyro-")]
    start, _ = tyro.cli(Start, args=options, return_unknown_args=True, add_help=False)
    settings = QUICK if start.quick else Config()
    if start.resume is not None:
        folder = RunFolder.open(start.resume, NAME)
        settings = Config.from_json(folder.config(), folder.path)
    command = parse_options(
        Command, argv, default=Command(settings), prog=PROGRAM, description=__doc__
    )
    if start.resume is not None and (changes := changed_settings(settings, command.settings)):
        raise UserError(
            f"--resume: expected the settings of {start.resume}, got other values of "
            + ", ".join(changes)
        )
    return command


if __name__ == "__main__":
    main()

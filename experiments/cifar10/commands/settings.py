"""Settings as the arguments of a command: a preset, with options that change it."""

import shlex

from experiments.cifar10.config import PRESETS, Config
from experiments.common.command import UserError, parse_options


def parse_settings(text: str, program: str, *, instead: str = "") -> Config:
    """Parse a preset and the options after it.

    Args:
        text: the preset and the options, such as "cpu89 --epochs 8".
        program: the command, for messages.
        instead: the other arguments that the command accepts, for messages.

    Raises:
        UserError: there is no such preset, a setting is impossible, or the seed is set.
    """
    try:
        preset, *options = shlex.split(text) or [""]
    except ValueError as error:  # an unclosed quote
        raise UserError(
            f"settings: expected options as in a shell, got {text!r}: {error}"
        ) from None
    if preset not in PRESETS:
        expected = f"{instead}one of {', '.join(PRESETS)} with options"
        raise UserError(f"settings: expected {expected}, got {text!r}")
    chosen = parse_options(Config, options, default=PRESETS[preset], prog=f"{program} {preset}")
    if chosen.seed != PRESETS[preset].seed:
        raise UserError(f"settings: expected --seeds for all of them, got --seed in {text!r}")
    return chosen

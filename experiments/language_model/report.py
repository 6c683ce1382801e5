"""The numbers, texts and figures of a run."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from experiments.common.command import printable
from experiments.common.estimates import Estimate
from experiments.common.plots import PALETTE, add_legend, name_panel, subplots
from experiments.common.run_folder import RunFolder, replace_file
from experiments.common.tables import new_table, show as show_table
from experiments.language_model.config import Config
from experiments.language_model.run import (
    DISTILLED,
    STUDENT,
    TEACHER,
    TUNED,
    Result,
)

QUICK = "QUICK (small sizes): "  # before every title
NAMES = {
    TEACHER: "teacher",
    STUDENT: "student alone",
    DISTILLED: "student distilled",
    TUNED: "teacher tuned",
}
SHOWN_TEXTS = 2  # on the terminal; samples.txt has all


def save(folder: RunFolder, config: Config, result: Result, doing: Callable[[str], None]) -> None:
    """Write figures, samples.txt and summary.json; `doing` is called with the activity."""
    # a step is logged twice if a run was killed before saving it
    logged = {(line.get("stage"), line.get("step")): line for line in folder.metrics()}
    lines = [line for line in logged.values() if line.get("stage") in NAMES]
    doing("drawing 1 of 2")
    folder.figure("bits_per_byte", draw_bits_per_byte(config, lines, result))
    doing("drawing 2 of 2")
    folder.figure("tuning", draw_tuning(config, lines))
    text = "\n\n".join(
        f"== {place + 1}, {NAMES[name]} ==\n{''.join(parts)}"
        for place in range(config.rollouts)
        for name, parts in _texts(config, result, place).items()
    )
    replace_file(
        folder.path / "samples.txt",
        lambda unfinished: unfinished.write_text(text + "\n", encoding="utf-8"),
    )
    folder.summary(summary(config, result))


def summary(config: Config, result: Result) -> dict[str, Any]:
    """Collect the final numbers of a run."""
    return {
        "quick": config.quick,
        "text": result.text.name,
        "text_bytes": result.text.size,
        "text_sha256": result.text.sha256,
        "vocabulary": len(result.tokenizer),
        "train_tokens": result.train_tokens,
        "test_bytes": _test_bytes(result),
        "models": {
            name: {"parameters": trained.size, "bits_per_byte": trained.score.bits_per_byte}
            for name, trained in result.models.items()
        },
        "distilled_less_alone": distillation_gain(result),
        "reward": {name: float(drawn.rewards.mean()) for name, drawn in result.drawn.items()},
        "tuned_less_teacher_reward": reward_gain(result),
        "seconds": result.seconds,
        "compile_seconds": result.compile_seconds,
    }


def distillation_gain(result: Result) -> Estimate:
    """Estimate how many bits per byte more the distilled student needs than the other one."""
    return result.models[DISTILLED].score.difference(result.models[STUDENT].score)


def reward_gain(result: Result) -> Estimate:
    """Estimate how much the reward has risen, from texts after the same prompts."""
    return Estimate.of((result.drawn[TUNED].rewards - result.drawn[TEACHER].rewards).tolist())


def show(config: Config, result: Result, console: Console) -> None:
    """Print the numbers and a few texts."""
    show_table(console, table(config, result))
    gain, reward = distillation_gain(result), reward_gain(result)
    windows = len(result.models[TEACHER].score.bits)
    if not config.quick:
        console.print(
            f"Distilled less alone: {gain.mean:+.4f} bits per byte, 95 % interval "
            f"{gain.lower:+.4f} to {gain.upper:+.4f} over {windows} windows of text; the runs have "
            "one seed.",
            highlight=False,
        )
        console.print(
            f"Tuning raised the share of ordinary words by {100 * reward.mean:+.1f} points, 95 % "
            f"interval {100 * reward.lower:+.1f} to {100 * reward.upper:+.1f} over {reward.n} "
            "texts.",
            highlight=False,
        )
    if result.seconds is not None:
        console.print(
            f"{result.seconds:.0f} s, of which {result.compile_seconds:.0f} s of compiling",
            highlight=False,
        )
    for place in range(min(SHOWN_TEXTS, config.rollouts)):
        panels = [
            Panel(
                Text.assemble((_on_terminal(prompt), "dim"), _on_terminal(drawn)),
                title=f"{_quick(config)}{NAMES[name]}, temperature {config.temperature:g}",
                title_align="left",
            )
            for name, (prompt, drawn) in _texts(config, result, place).items()
        ]
        console.print(Group(*panels))


def table(config: Config, result: Result) -> Table:
    """Make a table of the models."""
    headings = ("", "parameters", "bits per\nbyte", "ordinary\nwords, %")
    shown = new_table(f"{_quick(config)}{_test_bytes(result):,} bytes of held-out text", headings)
    for name, trained in result.models.items():
        drawn = result.drawn.get(name)
        words = "" if drawn is None else f"{100 * drawn.rewards.mean():.1f}"
        shown.add_row(NAMES[name], f"{trained.size:,}", f"{trained.score.bits_per_byte:.4f}", words)
    return shown


def draw_bits_per_byte(config: Config, lines: Sequence[dict[str, Any]], result: Result) -> Figure:
    """Plot the bits per byte of held-out text during training, and at the end."""
    title = f"{_quick(config)}{_test_bytes(result):,} bytes of held-out text"
    figure, ((left, right),) = subplots(1, 2, height=4.0, sharey=True, title=title)
    names = (TEACHER, STUDENT, DISTILLED)
    for name, color in zip(names, PALETTE, strict=False):
        points = [
            (line["step"], line["bits_per_byte"])
            for line in lines
            if line["stage"] == name and "bits_per_byte" in line
        ]
        if points:
            steps, values = zip(*points, strict=True)
            left.plot(steps, values, "o-", markersize=4, color=color, label=NAMES[name])
        value = result.models[name].score.bits_per_byte
        place = names.index(name)
        right.plot(place, value, "o", color=color)
        right.annotate(
            f"{value:.3f}", (place, value), (0, 8), textcoords="offset points", ha="center"
        )
    name_panel(left, "during training")
    add_legend(figure)
    left.set_xlabel("step")
    left.set_ylabel("bits per byte")
    left.set_xlim(0, 1.04 * max(config.steps, config.student_steps))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_panel(right, "at the end")
    right.set_xticks(range(len(names)), [NAMES[name].replace(" ", "\n") for name in names])
    right.set_xlim(-0.6, len(names) - 0.4)
    return figure


def draw_tuning(config: Config, lines: Sequence[dict[str, Any]]) -> Figure:
    """Plot reward, KL divergence from the teacher and entropy during the tuning."""
    tuned = [line for line in lines if line["stage"] == TUNED]
    width = max(1, len(tuned) // 10)
    dark = f"; dark: means of {width} rollouts" if width > 1 else ""
    title = f"{_quick(config)}Tuning for ordinary words{dark}"
    figure, (axes,) = subplots(1, 3, height=3.2, title=title)
    panels: dict[str, tuple[str, str]] = {
        "reward": ("reward", "share of sampled tokens"),
        "kl": ("KL to the teacher", "nats a token"),
        "entropy": ("entropy", "nats a token"),
    }
    # a line describes the model that drew the texts, before its update
    updates = np.array([line["step"] for line in tuned]) - config.updates
    for ax, (entry, (panel, label)), color in zip(axes, panels.items(), PALETTE, strict=False):
        values = np.array([line[entry] for line in tuned], float)
        ax.plot(updates, values, color=color, alpha=0.35 if width > 1 else 1.0)
        if width > 1:
            means = np.convolve(values, np.ones(width) / width, mode="valid")
            ax.plot(updates[width - 1 :], means, color=color)
        name_panel(ax, panel)
        ax.set_ylabel(label)
        ax.set_xlabel("updates so far")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    return figure


def _texts(config: Config, result: Result, place: int) -> dict[str, tuple[str, str]]:
    """Return the prompt and what each model wrote after it."""

    def text(tokens: np.ndarray) -> str:
        return result.tokenizer.decode(tokens).decode(errors="replace")

    return {
        name: (
            text(drawn.texts.tokens[place, : config.prompt]),
            text(drawn.texts.tokens[place, config.prompt :]),
        )
        for name, drawn in result.drawn.items()
    }


def _on_terminal(text: str) -> str:
    return "\n".join(printable(line.expandtabs(4)) for line in text.split("\n"))


def _test_bytes(result: Result) -> int:
    return int(result.models[TEACHER].score.bytes.sum())


def _quick(config: Config) -> str:
    return QUICK if config.quick else ""

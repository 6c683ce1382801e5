"""What the user sees of a training while it runs."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """A bar that fills step by step, and a line that stays for every epoch.

    Args:
        first_step: steps taken before, by the run that is resumed.
        total_steps: steps there are.
        console: where to draw; None draws nothing.
    """

    def __init__(self, first_step: int, total_steps: int, console: Console | None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),  # the line fits into 80 columns
            TextColumn("{task.fields[status]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=console is None,
        )
        self._task = self._progress.add_task(
            "compiling", total=total_steps, completed=first_step, status=""
        )

    def __enter__(self) -> Self:
        console = self._progress.console
        if not self._progress.disable and not console.is_terminal:  # which shows no bar
            console.print("a line follows for every epoch; the first step may have to be compiled")
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def stepped(self, epoch: str, steps: int, metrics: Mapping[str, float]) -> None:
        """Steps were taken; the metrics are the epoch's so far."""
        status = "loss {loss:.3f}  accuracy {accuracy:.1%}  {images_per_second:,.0f} images/s"
        self._progress.update(
            self._task, advance=steps, description=epoch, status=status.format(**metrics)
        )

    def epoch_done(self, epoch: int, side: int, metrics: Mapping[str, float]) -> None:
        """Leave a line about the epoch above the bar."""
        if self._progress.disable:
            return
        line = (
            f"epoch {epoch:2d}  {side} px  loss {{loss:.3f}}  accuracy {{accuracy:.2%}}  "
            "test {test_accuracy:.2%}  {images_per_second:,.0f} images/s"
        )
        self._progress.console.print(line.format(**metrics), highlight=False)

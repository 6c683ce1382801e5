"""The report of `scaling`: counted collectives, times on virtual devices, and the model."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.harness import machine, timing
from benchmarks.harness.figures import STYLES, add_title
from benchmarks.harness.tables import WHOLE, Extent, Sheet, Table
from benchmarks.scaling.collectives import Exchange
from benchmarks.scaling.model import FLOPS, LINKS, MEMORY_BANDWIDTH, Modelled
from benchmarks.scaling.split_losses import Scheme, Shape
from experiments.common import plots

STYLE = dict(zip(Scheme, STYLES, strict=False))


class Counted(NamedTuple):
    """Collectives of a scheme on some devices, and seconds of its runs at the timed shape."""

    devices: int
    scheme: str
    exchange: Exchange
    seconds: list[float]


@dataclass(frozen=True)
class Scaling:
    """A `tables.Report` of the counted, the timed and the modelled figures."""

    counted_shape: Shape
    timed_shape: Shape
    counted: tuple[Counted, ...]
    modelled: tuple[Modelled, ...]
    machine: machine.Machine
    extent: Extent = WHOLE
    name: str = "scaling"

    def tables(self) -> list[Table]:
        """Return a table of the counted and timed figures, then one of the model."""
        counted = [
            (
                f"devices: {each.devices}",
                each.scheme,
                sum(each.exchange.calls.values()),
                each.exchange.total / 1e6,
                each.exchange.total / self.counted_shape.rows,
                timing.quartiles(each.seconds).median * 1e3,
            )
            for each in self.counted
        ]
        modelled = [
            (
                f"MODELLED: K = {each.classes}, {each.devices} devices",
                each.scheme,
                each.compute * 1e3,
                *(each.exchange[link.name] * 1e3 for link in LINKS),
            )
            for each in self.modelled
        ]
        tables = [
            Table(
                f"Counted in compiled programs at {self.counted_shape}: collectives of a loss with "
                f"its gradients; ms at {self.timed_shape} on virtual devices, which show no "
                "speed-up",
                ("devices", "scheme", "calls", "MB", "bytes a row", "ms"),
                tuple(counted),
            ),
            Table(
                "MODELLED, not measured: ms of a linear layer's loss with gradients, "
                f"{self.counted_shape.rows} rows a device, {self.counted_shape.features} features",
                ("case", "scheme", "compute", *(f"exchange, {link.name}" for link in LINKS)),
                tuple(modelled),
            ),
        ]
        return [table for table in tables if table.rows]

    def sheets(self) -> list[Sheet]:
        """Convert the tables to text."""
        return [table.sheet() for table in self.tables()]

    def lines(self) -> list[str]:
        """Return lines of text about the machine, the method and the assumptions."""
        links = "; ".join(
            f"{link.name} {link.bandwidth / 1e9:.0f} GB/s in a direction, "
            f"{link.latency * 1e6:.0f} µs a hop"
            for link in LINKS
        )
        return [
            *self.machine.describe(),
            "calls and MB: collectives of one step on a device, those in a loop once an iteration, "
            "and the bytes they return; float32",
            "vocab-parallel: each device holds a slice of the classes; data-parallel: a slice of "
            "the rows, and the kernel's gradient is summed over devices (jit: sharded arrays "
            "without shard_map); gathered logits: all slices of the classes are gathered on every "
            "device before the loss",
            f"ms: all devices are threads of the same {self.machine.cores} cores, each number of "
            "devices in a process of its own: the times show overhead, not speed-up",
            f"MODELLED with assumed figures: {FLOPS:.0e} FLOP/s and {MEMORY_BANDWIDTH:.0e} B/s "
            f"of memory a device; {links}; ring collectives, nothing overlapped",
            "MODELLED: all devices have the same rows, for data-parallel different ones; calls and "
            "bytes of the split losses are those counted on 8 devices in the program with the "
            "same slices, and each call waits for its hops; gathered logits: one all-gather of "
            "4 N K bytes and one all-reduce of x's gradient, 4 N D",
        ]

    def as_json(self) -> dict[str, Any]:
        """Return all counts, samples and modelled times, and the model's assumptions."""
        return {
            "name": self.name,
            **self.extent._asdict(),
            "machine": self.machine.as_dict(),
            "notes": self.lines(),
            "counted_shape": self.counted_shape._asdict(),
            "timed_shape": self.timed_shape._asdict(),
            "counted": [
                each._asdict() | {"exchange": asdict(each.exchange)} for each in self.counted
            ],
            "modelled": [each._asdict() for each in self.modelled],
            "model": {
                "flops": FLOPS,
                "memory_bandwidth": MEMORY_BANDWIDTH,
                "links": [asdict(link) for link in LINKS],
            },
        }

    def figure(self) -> Figure:
        """Plot the counted bytes per row and, below, the modelled times, labelled as such."""
        drawing = plots.empty(8.0 if self.modelled else 4.5)
        panels = drawing.subplot_mosaic("AA;BC" if self.modelled else "A")
        self._draw_counted(panels["A"])
        if self.modelled:
            sizes = sorted({each.classes for each in self.modelled})
            for name, classes in zip("BC", sizes, strict=True):
                self._draw_model(panels[name], classes)
            panels["B"].set_ylabel("MODELLED ms, compute + exchange")
        plots.add_legend(drawing)
        add_title(drawing, self, "bytes exchanged (counted) and their cost (modelled)")
        return drawing

    def _draw_counted(self, axes: Axes) -> None:
        for index, (scheme, (color, marker)) in enumerate(STYLE.items()):
            aside = 1 + 0.02 * (index - len(STYLE) / 2)  # keeps equal figures apart
            points = [
                (aside * each.devices, each.exchange.total / self.counted_shape.rows)
                for each in self.counted
                if each.scheme == scheme and each.devices > 1
            ]
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, label=scheme)
        axes.set_yscale("log")
        axes.set_ylabel("bytes a row")
        plots.name_panel(axes, f"COUNTED in compiled programs, {self.counted_shape}")
        _by_devices(axes, [each.devices for each in self.counted if each.devices > 1])

    def _draw_model(self, axes: Axes, classes: int) -> None:
        for scheme in (Scheme.VOCAB_LINEAR, Scheme.GATHERED):
            color, marker = STYLE[scheme]
            points = [m for m in self.modelled if m.classes == classes and m.scheme == scheme]
            devices = [m.devices for m in points]
            for link, line in zip(LINKS, ("-", "--"), strict=True):
                times = [1e3 * (m.compute + m.exchange[link.name]) for m in points]
                label = f"{scheme}, {link.name}"
                axes.plot(devices, times, line, color=color, marker=marker, label=label)
            if scheme == Scheme.VOCAB_LINEAR:
                compute = [1e3 * m.compute for m in points]
                axes.plot(devices, compute, ":", color="0.4", label="its computation alone")
        axes.set_yscale("log")
        plots.name_panel(axes, f"MODELLED, K = {classes}")
        _by_devices(axes, [m.devices for m in self.modelled])


def _by_devices(axes: Axes, devices: list[int]) -> None:
    """Make the horizontal axis show devices on a log scale, with a tick for each number."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(devices)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("devices")

"""Losses split over devices: what they exchange, and a model of what that costs on many.

What is exchanged is counted in the compiled programs, on 1 to 8 virtual CPU devices.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks import machine, timing
from benchmarks.collectives import Exchange, Link
from benchmarks.report import STYLES, put_title
from benchmarks.session import Session
from benchmarks.split_losses import Request, Scheme, Shape, measure_apart
from benchmarks.tables import WHOLE, Extent, Sheet, Table

DEVICES = (1, 2, 4, 8)
STYLE = dict(zip(Scheme, STYLES, strict=False))
# The head of a language model and its tokens in a step; and what two cores can run in time.
COUNTED, COUNTED_QUICK = Shape(8192, 4096, 131072), Shape(256, 64, 8192)
TIMED, TIMED_QUICK = Shape(1024, 128, 16384), Shape(64, 16, 512)

# The model. Its figures are assumptions, rounded from data sheets, and no machine stood behind it.
MODEL_DEVICES = (8, 64, 512, 4096)
MODEL_CLASSES = (131072, 1048576)
FLOPS = 4e14
MEMORY_BANDWIDTH = 3e12
LINKS = (
    Link("NVLink-class", bandwidth=400e9, latency=2e-6),
    Link("ICI-class", bandwidth=100e9, latency=1e-6),
)


class Modelled(NamedTuple):
    """Seconds that a scheme would take on many accelerators, by the model."""

    classes: int
    devices: int
    scheme: str
    compute: float
    exchange: dict[str, float]  # by link


def model(shape: Shape, devices: int, vocab: Exchange, data: Exchange) -> list[Modelled]:
    """Loss and gradients of a linear layer, `shape.rows` rows on every device.

    Args:
        shape: rows a device, features, all classes.
        devices: how many.
        vocab: what `vocab-parallel linear` exchanges with this device's slice of the classes.
        data: what `data-parallel linear` exchanges.
    """
    n, d, k = shape
    work = 2 * n * d * k / FLOPS
    logits, gradient = 4 * n * k, 4 * n * d

    def all_reduced(what: Exchange) -> dict[str, float]:
        return {
            link.name: link.all_reduce(what.total, devices, sum(what.calls.values()))
            for link in LINKS
        }

    gathered = {
        link.name: link.all_gather(logits, devices) + link.all_reduce(gradient, devices)
        for link in LINKS
    }
    found = {
        # The default computes the logits twice, stored logits once, and reads all that it gathered.
        Scheme.VOCAB_LINEAR: (4 * work / devices, all_reduced(vocab)),
        Scheme.GATHERED: (3 * work / devices + logits / MEMORY_BANDWIDTH, gathered),
        Scheme.DATA_LINEAR: (4 * work, all_reduced(data)),
    }
    return [Modelled(k, devices, scheme, *times) for scheme, times in found.items()]


class Counted(NamedTuple):
    """What a scheme exchanges on some devices, and the seconds of its runs at the timed shape."""

    devices: int
    scheme: str
    exchange: Exchange
    seconds: list[float]


@dataclass(frozen=True)
class Scaling:
    """A `tables.Report`: what was counted and timed, and what was modelled from it."""

    counted_shape: Shape
    timed_shape: Shape
    counted: tuple[Counted, ...]
    modelled: tuple[Modelled, ...]
    machine: machine.Machine
    extent: Extent = WHOLE
    name: str = "scaling"

    def tables(self) -> list[Table]:
        """Counted and timed here; then, apart, the model."""
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
        """The tables as text."""
        return [table.sheet() for table in self.tables()]

    def lines(self) -> list[str]:
        """The machine, and what the tables rest on."""
        links = "; ".join(
            f"{link.name} {link.bandwidth / 1e9:.0f} GB/s in a direction, "
            f"{link.latency * 1e6:.0f} µs a hop"
            for link in LINKS
        )
        return [
            *self.machine.describe(),
            "calls and MB: collectives that one step runs on a device, those in a loop as often as "
            "it turns, and the bytes they return; float32",
            "vocab-parallel: each device holds a slice of the classes; data-parallel: of the rows, "
            "and shares the gradient of the kernel (jit: sharded arrays without shard_map); "
            "gathered logits: slices of the classes joined on every device before the loss",
            f"ms: all devices are threads of the same {self.machine.cores} cores, each number of "
            "them in a process of its own: the times tell overhead and no speed-up",
            f"MODELLED with assumed figures: {FLOPS:.0e} FLOP/s and {MEMORY_BANDWIDTH:.0e} B/s "
            f"of memory a device; {links}; ring collectives, nothing overlapped",
            "MODELLED: the rows are the same on all devices, for data-parallel others on each; "
            "calls and bytes of the split losses are those counted on 8 devices in the program "
            "with the same slices, and each call waits for its hops; gathered logits: one "
            "all-gather of 4 N K bytes and one all-reduce of x's gradient, 4 N D",
        ]

    def as_json(self) -> dict[str, Any]:
        """All counts, samples and modelled times with the model's assumptions."""
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
        """Bytes a row as counted; below, the modelled times, and so they are called."""
        drawing = Figure(figsize=(8.3, 8.0 if self.modelled else 4.5), layout="constrained")
        panels = drawing.subplot_mosaic("AA;BC" if self.modelled else "A")
        self._draw_counted(panels["A"])
        if self.modelled:
            sizes = sorted({each.classes for each in self.modelled})
            for name, classes in zip("BC", sizes, strict=True):
                self._draw_model(panels[name], classes)
            panels["B"].set_ylabel("MODELLED ms, compute + exchange")
            handles, labels = panels["B"].get_legend_handles_labels()
            drawing.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        put_title(drawing, self, "bytes exchanged (counted) and their cost (modelled)")
        return drawing

    def _draw_counted(self, axes: Axes) -> None:
        for index, (scheme, (color, marker)) in enumerate(STYLE.items()):
            aside = 1 + 0.02 * (index - len(STYLE) / 2)  # equal figures must not hide each other
            points = [
                (aside * each.devices, each.exchange.total / self.counted_shape.rows)
                for each in self.counted
                if each.scheme == scheme and each.devices > 1
            ]
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, label=scheme)
        axes.set_yscale("log")
        axes.set_ylabel("bytes a row")
        axes.set_title(f"COUNTED in compiled programs, {self.counted_shape}", fontsize=10)
        axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.18))
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
        axes.set_title(f"MODELLED, K = {classes}", fontsize=10)
        _by_devices(axes, [m.devices for m in self.modelled])


def _by_devices(axes: Axes, devices: list[int]) -> None:
    """A logarithmic axis of devices that names those there are."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(devices)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("devices")


def run(session: Session) -> Scaling:
    """Count and time on every number of devices, then count what the model needs."""
    limits = machine.measure(quick=session.quick)
    shape, timed = (COUNTED_QUICK, TIMED_QUICK) if session.quick else (COUNTED, TIMED)
    programs: list[tuple[str, Shape]] = [(scheme, shape) for scheme in Scheme]

    def measure(devices: int) -> list[Counted]:
        session.say("compiling and timing in a process of its own", log=False)
        found = measure_apart(devices, Request(programs, timed, session.rounds))
        return [
            Counted(devices, scheme, each, found.seconds[scheme])
            for scheme, each in zip(Scheme, found.exchanges, strict=True)
        ]

    groups = session.collect("virtual devices", [(str(n), n) for n in DEVICES], measure)
    counted = tuple(each for group in groups for each in group)
    model = session.collect("model", [(str(shape), shape)], modelled)
    times = tuple(each for group in model for each in group)
    return Scaling(shape, timed, counted, times, limits, session.extent)


def modelled(shape: Shape) -> list[Modelled]:
    """The model at all its sizes, with what 8 devices exchange where they hold the same slices."""
    n, d, _ = shape
    held = 8
    cases = [(k, devices) for k in MODEL_CLASSES for devices in MODEL_DEVICES]
    slices = [(Scheme.VOCAB_LINEAR, Shape(n, d, held * k // devices)) for k, devices in cases]
    kernels = [(Scheme.DATA_LINEAR, Shape(held * n, d, k)) for k in MODEL_CLASSES]
    counts = measure_apart(held, Request([*slices, *kernels])).exchanges
    data: dict[int, Exchange] = dict(zip(MODEL_CLASSES, counts[len(slices) :], strict=True))
    return [
        each
        for (k, devices), vocab in zip(cases, counts, strict=False)
        for each in model(Shape(n, d, k), devices, vocab, data[k])
    ]

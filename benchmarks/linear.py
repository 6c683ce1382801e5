"""Cross-entropy of a linear layer, mean over rows: xentjax against stored logits and its rivals.

All get the same features, kernel and labels, and each is compiled for one mode: the loss, or the
loss with the gradients in features and kernel.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import cases, machine, timing
from benchmarks.losses import NO_TORCH, SUBJECT, load_torch
from benchmarks.report import Cell, Result
from benchmarks.session import Session
from benchmarks.tables import Table
from xentjax import linear_softmax_cross_entropy

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

MIB = 2**20
IN_FORWARD = "gradients_in_forward"
BUDGET = "max_bytes=16MiB"
NAIVE = "naive"
TOKAMAX = ("tokamax xla", "tokamax chunked_xla")
JAX_CCE = "jax-cce"
TORCH, TORCH_CHUNKED = "torch naive", "torch chunked"
RIVALS = (IN_FORWARD, BUDGET, NAIVE, *TOKAMAX, JAX_CCE, TORCH, TORCH_CHUNKED)
WITHOUT_LOGITS = (TOKAMAX[1], JAX_CCE, TORCH_CHUNKED)
NOTES = (
    "N × D × K: rows, features, classes; all interleaved in one process",
    "naive: x @ kernel, then optax's integer cross-entropy; torch in eager mode, naive: linear, "
    "then cross_entropy; torch chunked: linear_cross_entropy with LinearCrossEntropyOptions()",
    "jax-cce and torch take the kernel as [K, D] and got it so",
)
LEGEND = (
    "GFLOP/s count 2 N D K operations for the loss and 6 N D K with the gradients, whoever "
    "computes more (xentjax's default computes 8 N D K); limit: the share of this machine's rate "
    "in a large square matrix product of the same dtype, measured in the same rounds",
    "temp MB: XLA's scratch memory beside inputs and outputs; torch does not tell its own",
)


class Problem(NamedTuple):
    """Features [N, D], kernel [D, K] that gives logits of unit variance, labels [N]."""

    x: np.ndarray
    kernel: np.ndarray
    labels: np.ndarray


def problem(shape: tuple[int, int, int]) -> Problem:
    """The same in every run, float32."""
    n, d, k = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), dtype=np.float32)
    kernel = rng.standard_normal((d, k), dtype=np.float32) / np.float32(np.sqrt(d))
    return Problem(x, kernel, rng.integers(k, size=n, dtype=np.int32))


def naive_loss(x: jax.Array, kernel: jax.Array, labels: jax.Array) -> jax.Array:
    """All logits, in the dtype of x, then optax."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x @ kernel, labels))


def xentjax_loss(x: jax.Array, kernel: jax.Array, labels: jax.Array, **keywords: Any) -> jax.Array:
    """The subject."""
    return linear_softmax_cross_entropy(x, kernel, labels, reduction="mean", **keywords)


class Rival(NamedTuple):
    """A loss that XLA compiles, and whether it takes the kernel as [K, D]."""

    loss: Loss
    classes_first: bool = False


def jax_rivals() -> dict[str, Rival]:
    """The subject and the rivals that are installed."""
    found = {
        SUBJECT: Rival(xentjax_loss),
        IN_FORWARD: Rival(partial(xentjax_loss, gradients_in_forward=True)),
        BUDGET: Rival(partial(xentjax_loss, max_bytes=16 * MIB)),
        NAIVE: Rival(naive_loss),
    }
    if (tokamax := installed("tokamax")) is not None:
        # It would parse this program's command line, and refuse what is not its own.
        importlib.import_module("absl.flags").FLAGS.mark_as_parsed()
        for name in TOKAMAX:
            loss = partial(_tokamax_loss, tokamax, name.split()[1])
            try:
                jax.eval_shape(loss, jnp.ones((8, 8)), jnp.ones((8, 8)), jnp.zeros(8, jnp.int32))
            except ValueError:  # no such implementation in this version
                continue
            found[name] = Rival(loss)
    if (jax_cce := installed("jax_cce")) is not None:
        found[JAX_CCE] = Rival(jax_cce.linear_cross_entropy, classes_first=True)
    return found


def _tokamax_loss(
    tokamax: ModuleType,
    implementation: str,
    x: jax.Array,
    kernel: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    return tokamax.linear_softmax_cross_entropy_loss(
        x, labels, kernel, reduction="mean", implementation=implementation
    )


def installed(name: str) -> ModuleType | None:
    """The package, or None where it does not import."""
    try:
        return importlib.import_module(name)
    except Exception:  # whatever breaks in a rival's import must not stop the others
        return None


def compile_rival(rival: Rival, case: cases.LinearCase) -> timing.Compiled:
    """The program of a rival for a case; no array is made for it."""
    n, d, k = case.shape
    x = jax.ShapeDtypeStruct((n, d), case.dtype)
    kernel = jax.ShapeDtypeStruct((k, d) if rival.classes_first else (d, k), case.dtype)
    gradients = case.mode == "value_and_grad"
    function = jax.value_and_grad(rival.loss, (0, 1)) if gradients else rival.loss
    return timing.compile_apart(function, x, kernel, jax.ShapeDtypeStruct((n,), jnp.int32))


def jax_thunk(
    program: timing.Compiled, rival: Rival, case: cases.LinearCase, given: Problem
) -> timing.Thunk:
    """A call of that program on the problem."""
    kernel = given.kernel.T if rival.classes_first else given.kernel
    x, kernel = (jnp.asarray(a).astype(case.dtype) for a in (given.x, kernel))
    return partial(program.call, x, kernel, jnp.asarray(given.labels))


def torch_thunks(
    torch: ModuleType, case: cases.LinearCase, given: Problem
) -> dict[str, timing.Thunk]:
    """torch on its own copies, kernel [K, D]: naive and, from torch 2.13 on, in chunks."""
    dtype, functional = getattr(torch, case.dtype), torch.nn.functional
    gradients = case.mode == "value_and_grad"
    x, kernel = (torch.tensor(a).to(dtype) for a in (given.x, np.ascontiguousarray(given.kernel.T)))
    y = torch.tensor(given.labels, dtype=torch.int64)
    x.requires_grad_(gradients)
    kernel.requires_grad_(gradients)

    def thunk(loss_of: Callable[..., Any]) -> Any:
        loss = loss_of(x, kernel, y)
        return (loss.detach(), torch.autograd.grad(loss, (x, kernel))) if gradients else loss

    def naive(x: Any, kernel: Any, y: Any) -> Any:
        return functional.cross_entropy(functional.linear(x, kernel), y)

    thunks = {TORCH: partial(thunk, naive)}
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        options = torch.nn.LinearCrossEntropyOptions()
        chunked = partial(functional.linear_cross_entropy, options=options)
        thunks[TORCH_CHUNKED] = partial(thunk, chunked)
    return thunks


def measure(
    case: cases.LinearCase,
    rivals: dict[str, Rival],
    others: Mapping[str, timing.Thunk],
    session: Session,
    *,
    given: Problem,
) -> Cell:
    """Compile and time all rivals on one case, with the machine's matrix product among them.

    XLA compiles the `rivals`; the `others` run as they are.
    """
    programs = {}
    for name, rival in rivals.items():
        session.say(f"compiling {name}", log=False)
        programs[name] = compile_rival(rival, case)
    thunks = {name: jax_thunk(programs[name], rivals[name], case, given) for name in rivals}
    thunks |= others
    product, flops = machine.product(case.dtype, quick=session.quick)
    seconds = session.interleave(thunks | {"product": product}, settle=False)
    return Cell(
        case=case.name,
        mode=case.mode,
        seconds=seconds,
        work=case.flops / 1e9,
        limit_seconds=[case.flops / flops * each for each in seconds.pop("product")],
        temp_bytes={name: program.temp_bytes for name, program in programs.items()},
        compile_seconds={name: program.compile_seconds for name, program in programs.items()},
    )


class Target(NamedTuple):
    """A ratio that has to be at most `limit`; None where it could not be measured."""

    what: str
    found: float | None
    limit: float


def targets(cell: Cell, logits_bytes: int) -> list[Target]:
    """What xentjax has set itself, in the mode of the cell."""

    def time(who: str, rival: str) -> float | None:
        return timing.ratio(cell.seconds[who], cell.seconds[rival])

    def temp(who: str, whole: float | None) -> float | None:
        own = cell.temp_bytes[who]
        return own / whole if own is not None and whole else None

    budget = Target(f"{BUDGET}: temp / budget", temp(BUDGET, 16 * MIB), 1.25)
    if cell.mode == "loss":
        return [
            Target("time / naive", time(SUBJECT, NAIVE), 1.1),
            Target("temp / float32 logits", temp(SUBJECT, logits_bytes), 0.1),
            budget,
        ]
    return [
        Target("time / naive", time(SUBJECT, NAIVE), 1.2),
        Target(f"{IN_FORWARD}: time / naive", time(IN_FORWARD, NAIVE), 1.05),
        *(
            Target(f"{IN_FORWARD}: time / {rival}", time(IN_FORWARD, rival), 1.0)
            for rival in WITHOUT_LOGITS
            if rival in cell.seconds
        ),
        Target("temp / naive", temp(SUBJECT, cell.temp_bytes[NAIVE]), 0.15),
        Target(f"{IN_FORWARD}: temp / naive", temp(IN_FORWARD, cell.temp_bytes[NAIVE]), 0.15),
        budget,
    ]


def table_of_targets(found: list[tuple[str, Target]]) -> Table:
    """Each target with what was found, by case."""
    return Table(
        "Targets: ratios that must be at most the limit",
        ("case", "target", "found", "limit", "met"),
        tuple((case, *target, _met(target.found, target.limit)) for case, target in found),
    )


def _met(found: float | None, limit: float) -> str:
    return "unknown" if found is None else "met" if found <= limit else "MISSED"


class Derivatives(NamedTuple):
    """Loss and gradients in features [N, D] and kernel [D, K]."""

    loss: np.ndarray
    x: np.ndarray
    kernel: np.ndarray


def exact(x: np.ndarray, kernel: np.ndarray, labels: np.ndarray) -> Derivatives:
    """In float64, by NumPy."""
    logits = x @ kernel
    logits -= np.max(logits, axis=1, keepdims=True)
    exps = np.exp(logits)
    total = np.sum(exps, axis=1)
    rows = np.arange(len(labels))
    d_logits = exps / total[:, None]
    d_logits[rows, labels] -= 1
    d_logits /= len(labels)
    loss = np.mean(np.log(total) - logits[rows, labels])
    return Derivatives(loss, d_logits @ kernel.T, x.T @ d_logits)


def accuracy(rivals: dict[str, Rival], torch: ModuleType | None, *, quick: bool) -> Table:
    """Errors against float64 on the same inputs: of the loss, and of gradients in their norm."""
    shape = cases.LINEAR_ACCURACY_QUICK if quick else cases.LINEAR_ACCURACY
    given, rows = problem(shape), []
    for dtype in ("float32", "bfloat16"):
        case = cases.LinearCase(shape, dtype, "value_and_grad")
        x, kernel = (np.asarray(jnp.asarray(a, dtype), np.float64) for a in given[:2])
        truth = exact(x, kernel, given.labels)
        thunks = {
            name: jax_thunk(compile_rival(rival, case), rival, case, given)
            for name, rival in rivals.items()
        }
        if torch is not None:
            thunks |= torch_thunks(torch, case, given)
        for name, thunk in thunks.items():
            loss, (d_x, d_kernel) = jax.tree.map(_as_float64, thunk())
            d_kernel = d_kernel if d_kernel.shape == truth.kernel.shape else d_kernel.T
            pairs = zip((loss, d_x, d_kernel), truth, strict=True)
            errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]
            rows.append((dtype, name, *map(float, errors)))
    return Table(
        f"Relative errors against float64 at {' × '.join(map(str, shape))}",
        ("dtype", "who", "loss", "gradient in x", "gradient in kernel"),
        tuple(rows),
    )


def _as_float64(array: Any) -> np.ndarray:
    """An array of jax or torch; NumPy has no bfloat16, so float32 comes between."""
    return np.asarray(array.float() if hasattr(array, "float") else array, np.float64)


def big(rivals: dict[str, Rival], session: Session) -> tuple[Table, list[tuple[str, Target]]]:
    """One run of a call whose stored logits would take gigabytes; its memory has a target."""
    case = cases.LINEAR_BIG_QUICK if session.quick else cases.LINEAR_BIG
    given, rows, found = problem(case.shape), [], []
    for name in (SUBJECT, IN_FORWARD, NAIVE):
        session.say(f"compiling {name}", log=False)
        program = compile_rival(rivals[name], case)
        temp = None if program.temp_bytes is None else program.temp_bytes / 2**30
        seconds = rate = None
        if name != NAIVE:
            session.say(f"running {name}", log=False)
            seconds = timing.once(jax_thunk(program, rivals[name], case, given))
            rate = case.flops / 1e9 / seconds
            share = None if temp is None else temp / 2
            found.append((f"{case.name}, {case.mode}", Target(f"{name}: temp / 2 GiB", share, 1.0)))
        rows.append((case.name, name, temp, seconds, rate))
    table = Table(
        f"A big call, {case.mode}, run once; {NAIVE} is compiled and not run",
        ("case", "who", "temp GiB", "s", "GFLOP/s"),
        tuple(rows),
    )
    return table, found


def run(session: Session, options: cases.LinearOptions) -> Result:
    """Measure every case in both modes, then what the options ask for."""
    limits = machine.measure(quick=session.quick, rivals=("tokamax", "jax-cce"))
    torch, rivals = load_torch(), jax_rivals()
    shapes = options.shapes or (cases.LINEAR_SHAPES_QUICK if session.quick else cases.LINEAR_SHAPES)
    table = [
        cases.LinearCase(shape, options.dtype, mode)
        for shape in shapes
        for mode in cases.LINEAR_MODES
    ]

    def cell_and_targets(case: cases.LinearCase) -> tuple[Cell, list[tuple[str, Target]]]:
        given = problem(case.shape)
        others = {} if torch is None else torch_thunks(torch, case, given)
        cell = measure(case, rivals, others, session, given=given)
        n, _, k = case.shape
        return cell, [(f"{case.name}, {case.mode}", t) for t in targets(cell, 4 * n * k)]

    measured = session.collect(
        "linear + cross-entropy",
        [(f"{case.name} {case.mode}", case) for case in table],
        cell_and_targets,
    )
    found, tables = [target for _, several in measured for target in several], []
    if options.accuracy:
        tables += session.collect(
            "accuracy", [("", None)], lambda _: accuracy(rivals, torch, quick=session.quick)
        )
    if options.big:
        for table_of_big, more in session.collect(
            "big", [("", None)], lambda _: big(rivals, session)
        ):
            tables.append(table_of_big)
            found += more
    if session.extent.whole:
        tables.insert(0, table_of_targets(found))
    seen = {name for cell, _ in measured for name in cell.seconds}
    absent = [name for name in RIVALS if name not in seen]
    return Result(
        name="linear",
        subject=SUBJECT,
        rivals=RIVALS,
        unit="GFLOP/s",
        cells=tuple(cell for cell, _ in measured),
        machine=limits,
        notes=(
            *NOTES,
            f"not installed here, or fails to import: {', '.join(absent) or 'none'}",
            *([] if torch else [NO_TORCH]),
        ),
        legend=LEGEND,
        extent=session.extent,
        by_rival=True,
        tables=tuple(tables),
    )

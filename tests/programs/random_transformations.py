"""Random nestings of vmap, loops, `shard_map`, remat and jit of the table's calls, against loops.

    python -m tests.programs.random_transformations 0 2000

draws a call and a nesting for each seed from 0 to 1999, in a process with several devices. It
prints a line for each seed whose values or gradients differ from those of one member of the batch
at a time, or that raises, then how many were tried.
"""

import sys
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P

from tests.support.transformations import CALLS, Arguments, Call, everything

BATCH = 2
RELATIVE = 1e-4  # sums over members in another order than a loop's
Function = Callable[[Arguments], list[jax.Array]]


def batched(function: Function, kind: str, names: list[str], split: set[str]) -> Function:
    """Return the function of a batch of the arguments `split`, the others shared."""
    if kind == "vmap":
        return jax.vmap(function, ({n: 0 if n in split else None for n in names},))
    if kind == "map":

        def mapped(arguments: Arguments) -> list[jax.Array]:
            shared = {n: x for n, x in arguments.items() if n not in split}
            batch = {n: arguments[n] for n in split}
            return jax.lax.map(lambda member: function({**shared, **member}), batch)

        return mapped

    def on_one_device(arguments: Arguments) -> list[jax.Array]:
        member = {n: x[0] if n in split else x for n, x in arguments.items()}
        return [x[None] for x in function(member)]

    mesh = Mesh(np.array(jax.devices()[:BATCH]), ("devices",))
    specs = {n: P("devices") if n in split else P() for n in names}
    return jax.shard_map(on_one_device, mesh=mesh, in_specs=(specs,), out_specs=P("devices"))


@cache
def one_by_one(call: Call):
    """The call of one member, compiled once for all seeds that draw it."""
    return jax.jit(partial(everything, call))


def differences(seed: int) -> tuple[str, list[str]]:
    """Return the nesting that a seed stands for, and the results that differ."""
    rng = np.random.default_rng(seed)
    call = CALLS[rng.integers(len(CALLS))]
    names = list(call.draws)
    function: Function = call
    splits: list[set[str]] = []  # of each level, the innermost first
    described = call.name
    depth = int(rng.integers(1, 3))
    for level in range(depth):
        number = int(rng.integers(1, len(names) + 1))
        split = set(map(str, rng.choice(names, number, replace=False)))
        # Inside a batch of devices no level of another kind would see them all.
        kinds = ["vmap", "map", "shard_map"] if level == depth - 1 else ["vmap", "map"]
        kind = str(rng.choice(kinds))
        if rng.random() < 0.3:
            function, described = jax.checkpoint(function), f"remat {described}"
        function = batched(function, kind, names, split)
        described = f"{kind} of {sorted(split)} of {described}"
        if rng.random() < 0.3:
            function = jax.jit(function)
        splits.append(split)

    def index(name: str, member: tuple[int, ...]) -> tuple[int, ...]:
        """Return the place of a member in an argument, whose first axis is the outermost level."""
        levels = reversed(list(enumerate(splits)))
        return tuple(member[depth - 1 - level] for level, split in levels if name in split)

    pool = [call.arguments(rng) for _ in range(BATCH**depth)]
    arguments = {}
    for name in names:
        lead = (BATCH,) * sum(name in split for split in splits)
        drawn = np.stack([pool[i][name] for i in range(BATCH ** len(lead))])
        arguments[name] = jnp.asarray(drawn.reshape((*lead, *drawn.shape[1:])))
    shapes = jax.eval_shape(function, arguments)
    weights = [jnp.asarray(rng.standard_normal(s.shape), s.dtype) for s in shapes]
    values, gradients, _ = jax.jit(partial(everything, function))(arguments, weights, {})

    expected = [np.zeros(x.shape) for x in values]
    expected_gradients = {n: np.zeros(x.shape) for n, x in gradients.items()}
    for member in np.ndindex(*(BATCH,) * depth):
        own = {n: x[index(n, member)] for n, x in arguments.items()}
        found = one_by_one(call)(own, [w[member] for w in weights], {})
        for total, x in zip(expected, found.values, strict=True):
            total[member] = x
        for n, x in found.gradients.items():
            expected_gradients[n][index(n, member)] += np.asarray(x, np.float64)

    pairs = [(f"value {i}", *pair) for i, pair in enumerate(zip(values, expected, strict=True))]
    pairs += [(f"gradient of {n}", x, expected_gradients[n]) for n, x in gradients.items()]
    return described, [
        what for what, a, b in pairs if not np.allclose(a, b, rtol=RELATIVE, atol=RELATIVE)
    ]


def main() -> None:
    first, last = map(int, sys.argv[1:])
    for seed in range(first, last):
        try:
            described, different = differences(seed)
        except Exception as error:
            print(f"{seed}: {type(error).__name__}: {str(error).partition(chr(10))[0]}", flush=True)
            continue
        if different:
            print(f"{seed}: {described}: {', '.join(different)}", flush=True)
        if seed % 200 == 199:
            jax.clear_caches()
            one_by_one.cache_clear()
    print(f"tried {last - first}")


if __name__ == "__main__":
    main()

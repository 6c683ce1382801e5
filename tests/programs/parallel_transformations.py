"""Calls inside `shard_map` on eight devices, by its default checks, against the same on one.

    python -m tests.programs.parallel_transformations

prints a line for each call and way of splitting that differs, then how many were tried.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P

from tests.support.tolerances import TRANSFORMED
from tests.support.transformations import CALLS, Arguments, Call, N, everything


@cache
def of_one_row(call: Call):
    """The call of one row of every argument, compiled once for all ways of splitting."""
    return jax.jit(lambda arguments: everything(call, arguments, None, {}))


def differences(call: Call, split: set[str], mesh: Mesh) -> list[str]:
    """The results of a call that differ when these of its arguments are split by rows."""
    arguments: Arguments = dict(call.arguments(np.random.default_rng(0)))
    # Rows of the arguments that are not split: the same one on every device.
    arguments |= {n: arguments[n][:1] for n in set(call.rows) - split}
    specs = {n: P("devices") if n in split else P() for n in arguments}

    def of_every_device(arguments: Arguments) -> list[jax.Array]:
        # A result that is the same on all devices would count once, and in the loop for each row.
        nothing = 0 * jnp.sum(arguments[min(split)].astype(jnp.float32))
        return [x + nothing for x in call(arguments)]

    def results(arguments: Arguments):
        values, gradients, _ = everything(of_every_device, arguments, None, {})
        return [jnp.atleast_1d(x) for x in values], gradients

    rows = [
        of_one_row(call)({n: x[i : i + 1] if n in split else x for n, x in arguments.items()})
        for i in range(N)
    ]
    values, gradients, _ = rows[0]
    out_specs = [P("devices") for _ in values], {n: specs[n] for n in gradients}
    mapped = jax.shard_map(results, mesh=mesh, in_specs=(specs,), out_specs=out_specs)
    got = jax.jit(mapped)(arguments)
    expected = (
        [
            np.concatenate(list(map(np.atleast_1d, x)))
            for x in zip(*(row.values for row in rows), strict=True)
        ],
        {
            n: np.concatenate(x) if n in split else np.sum(x, 0)
            for n in gradients
            for x in [[row.gradients[n] for row in rows]]
        },
    )
    leaves = zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True)
    return [
        jax.tree_util.keystr(path)
        for (path, a), b in leaves
        if not np.allclose(a, b, rtol=TRANSFORMED, atol=TRANSFORMED)
    ]


def main() -> None:
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    tried = 0
    for call in CALLS:
        ways = [set(call.rows), *({n} for n in call.rows if len(call.rows) > 1)]
        for split in ways if call.rows else []:
            tried += 1
            for name in differences(call, split, mesh):
                print(f"{call.name}, {sorted(split)} split: {name} differs")
    print(f"tried {tried} on {len(jax.devices())} devices")


if __name__ == "__main__":
    main()

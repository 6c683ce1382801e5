"""Statistics on Explicit mesh axes of several devices, against the same on one device.

    python -m tests.programs.explicit_statistics

prints a line for each call and way of splitting that differs, then how many were tried.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from tests.programs.explicit_axes import differences, meshes_of, on_one_device
from tests.support.statistics import STATISTICS
from tests.support.tolerances import TRANSFORMED
from tests.support.transformations import Call, K


def differs_eagerly(call: Call, mesh: Mesh) -> bool:
    """Whether a result does without jit, where rows are split and no mesh is set."""
    arguments, expected = on_one_device(call)
    rows = NamedSharding(mesh, P("devices"))
    placed = {n: jax.device_put(x, rows) if n in call.rows else x for n, x in arguments.items()}
    return not all(
        np.allclose(a, b, rtol=TRANSFORMED, atol=TRANSFORMED)
        for a, b in zip(call(placed), expected.values, strict=True)
    )


def main() -> None:
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    devices = np.array(jax.devices())
    meshes = meshes_of(devices)
    tried = 0
    for call in STATISTICS:
        ways = ["rows"]
        arguments, _ = on_one_device(call)
        if any(arguments[n].shape[-1:] == (K,) for n in call.rows):
            ways.append("classes")
        for by in ways:
            tried += 1
            for name in differences(call, by, meshes[by]):
                print(f"{call.name}, {by} of {call.rows} split: {name} differs")
        if differs_eagerly(call, meshes["rows"]):
            print(f"{call.name}, rows of {call.rows} split: differs without jit")
    print(f"tried {tried} on {len(devices)} devices")


if __name__ == "__main__":
    main()

"""All checks of `test_parallel.py` in one process: jax starts once for all of them.

`python -m tests.programs.parallel` prints one JSON object: for each check its traceback or "".
"""

import json
import traceback

import jax

from tests.programs import chosen_devices, parallel_devices, parallel_linear_devices
from tests.support.virtual_devices import NUM_DEVICES

CHECKS = {
    f"{module.__name__}-{name}": check
    for module in (parallel_devices, parallel_linear_devices, chosen_devices)
    for name, check in module.CHECKS.items()
}


def main() -> None:
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert jax.device_count() == NUM_DEVICES
    results = {}
    for name, check in CHECKS.items():
        try:
            check()
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()

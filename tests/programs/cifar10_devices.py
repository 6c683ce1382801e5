"""The tiny training on all devices there are, for `experiments/cifar10/test_devices.py`.

`python -m tests.programs.cifar10_devices RUNS_DIR`, or `... PORT PROCESS RUNS_DIR` for one of two
processes, trains, is stopped, goes on, and leaves what it ends with in RUNS_DIR/<process>.npz.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.cifar10.training.run import TrainingStopped, run
from experiments.common.hosts import is_writer, on_any_host
from experiments.common.run_folder import RunFolder
from tests.support import tiny_training
from tests.support.tiny_training import DATASET, stop_after

# With seed 0 the training is chaotic: differences by rounding grow to 1 % within its 11 steps.
CONFIG = dataclasses.replace(tiny_training.CONFIG, seed=1)
PROCESSES = 2
WRITES = {"os.mkdir", "os.rename", "os.remove", "os.truncate"}


def main(*arguments: str) -> None:
    *connection, runs_dir = arguments
    if connection:
        address = f"127.0.0.1:{connection[0]}"
        jax.distributed.initialize(
            address,
            PROCESSES,
            int(connection[1]),
            coordinator_bind_address=address,
            initialization_timeout=60,
        )
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    written: list[str] = []

    def note(event: str, values: Any) -> None:
        """Note the paths that this process writes, which Python passes to audit hooks."""
        writes = event in WRITES or (event == "open" and "r" not in str(values[1] or "r"))
        if writes and str(values[0]).startswith(runs_dir):
            written.append(str(values[0]))

    sys.addaudithook(note)
    folder = RunFolder.create("cifar10", CONFIG, Path(runs_dir))
    # only the first host is asked to stop
    asked = stop_after(4) if is_writer() else lambda: False
    with pytest.raises(TrainingStopped, match="stopped after step 4 of 11"):
        run(CONFIG, DATASET, folder, should_stop=on_any_host(asked))
    result = run(CONFIG, DATASET, folder, resume=True)
    record = {
        "folder": str(folder.path),
        "devices": [device.id for device in jax.devices()],
        "processes": jax.process_count(),
        "written": sorted(
            {
                str(Path(w).relative_to(folder.path))
                for w in written
                if w != runs_dir and str(folder.path) in w
            }
        ),
        "temperature": result.temperature,
    }
    leaves: dict[str, Any] = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(result.state._asdict())
    }
    np.savez(
        Path(runs_dir) / f"{jax.process_index()}.npz",
        record=json.dumps(record),
        logits=result.test.logits,
        **leaves,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Programs kept for the next process: the same results, and one line for whatever is wrong."""

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax._src import path as jax_path

from experiments.common import compile_cache as module
from experiments.common.compile_cache import ENVIRONMENT_VARIABLE, compile_cache

EVENTS: Counter[str] = Counter()
jax.monitoring.register_event_listener(lambda event, **rest: EVENTS.update([event]))
HITS, WRITES = (f"/jax/compilation_cache/cache_{kind}" for kind in ("hits", "misses"))
X = np.linspace(-3, 3, 7, dtype=np.float32)


@pytest.fixture(autouse=True)
def small_programs_are_kept_too(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(module.OPTIONS, "jax_persistent_cache_min_compile_time_secs", 0.0)
    EVENTS.clear()
    yield
    assert folder_of_jax() is None


def folder_of_jax() -> str | None:
    return getattr(jax.config, module.FOLDER)


def compute() -> np.ndarray:
    """Compute as a new process does: nothing is compiled yet for this function."""

    def exponential_of_sum(x: jax.Array) -> jax.Array:
        return jax.numpy.exp(x).sum() + x

    return np.asarray(jax.jit(exponential_of_sum)(X))


def programs(folder: Path) -> list[Path]:
    return sorted(folder.glob("jit_exponential_of_sum-*-cache"))


def test_a_program_is_compiled_once_and_has_the_same_bits(tmp_path, capsys):
    alone = compute()
    for hits, writes in ((0, 1), (1, 1)):
        with compile_cache(tmp_path / "a" / "cache"):
            assert compute().tobytes() == alone.tobytes()
        assert (EVENTS[HITS], EVENTS[WRITES]) == (hits, writes)
    assert len(programs(tmp_path / "a" / "cache")) == 1
    assert capsys.readouterr() == ("", "")


def test_the_place_is_the_option_or_the_variable_or_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "user")
    variable = tmp_path / "variable"
    for option, value, folder in (
        (tmp_path / "option", str(variable), tmp_path / "option"),
        (None, str(variable), variable),
        (None, "", tmp_path / "user" / "compiled"),
    ):
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, value)
        with compile_cache(option):
            assert folder_of_jax() == str(folder)


def test_it_is_off_where_it_is_switched_off_or_jax_has_a_folder_already(tmp_path, monkeypatch):
    with compile_cache(Path("off")):
        assert folder_of_jax() is None
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "off")
    with compile_cache():
        assert folder_of_jax() is None
    jax.config.update(module.FOLDER, str(tmp_path / "own"))
    try:
        with compile_cache(tmp_path / "other"):
            assert folder_of_jax() == str(tmp_path / "own")
    finally:
        jax.config.update(module.FOLDER, None)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: b"\0" * len(content)],
    ids=["torn", "zeros"],
)
def test_a_damaged_program_is_one_line_and_written_anew(tmp_path, capsys, damage):
    damage_of: Callable[[bytes], bytes] = damage
    with compile_cache(tmp_path):
        expected = compute()
    for program in tmp_path.glob("*-cache"):
        program.write_bytes(damage_of(program.read_bytes()))
    with compile_cache(tmp_path):
        assert compute().tobytes() == expected.tobytes()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: compile cache {tmp_path}: trouble reading a program, ")
    with compile_cache(tmp_path):
        assert compute().tobytes() == expected.tobytes()
    assert EVENTS[HITS] == 1
    assert capsys.readouterr().err == ""


def test_a_program_that_xla_cannot_store_is_no_trouble(tmp_path, capfd):
    def products(x: jax.Array) -> jax.Array:
        for _ in range(3):
            x = jax.numpy.sin(x @ x) @ (x @ x)
        return x

    x = np.ones((7, 7), np.float32)
    options: Any = {"xla_multiheap_size_constraint_per_heap": "200"}  # bytes, one matrix
    with compile_cache(tmp_path):
        program = jax.jit(products).lower(x).compile(options)
    executable = program.runtime_executable()
    assert executable is not None
    with pytest.raises(jax.errors.JaxRuntimeError, match="Multiple temp buffer allocations"):
        executable.serialize()
    assert list(tmp_path.glob("jit_products-*-cache")) == []
    assert capfd.readouterr() == ("", "")


def test_what_a_killed_process_has_left_is_removed(tmp_path, capsys):
    (tmp_path / "jit_other-1234-cache").write_bytes(b"half")  # and no time of its use
    with compile_cache(tmp_path):
        compute()
    assert len(programs(tmp_path)) == 1
    assert not (tmp_path / "jit_other-1234-cache").exists()
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_one_is_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    with compile_cache(file):
        compute()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"warning: compile cache {file}: cannot be used, File exists; "
        "programs are compiled without it"
    )


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys, monkeypatch):
    def read_only(**options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", read_only)
    with compile_cache(tmp_path):
        compute()
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be used, Read-only file system; " in line


def test_a_full_disk_is_one_line_and_leaves_nothing_torn(tmp_path, capsys, monkeypatch):
    kind = type(jax_path.Path(str(tmp_path)))  # jax's own, where etils is installed
    write = kind.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name.endswith("-cache"):
            write(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(kind, "write_bytes", full)
    with compile_cache(tmp_path):
        compute()
        compute()
    (line,) = capsys.readouterr().err.splitlines()
    assert "trouble writing a program, OSError: [Errno 28] No space left on device; " in line
    assert programs(tmp_path) == []

"""The type of array arguments, under a name that signatures show."""

import sys
from typing import TYPE_CHECKING, get_args

import jax.typing

# For a union, help() would print every member, for every argument of every signature.
if TYPE_CHECKING:
    from jax.typing import ArrayLike as ArrayLike
elif sys.version_info >= (3, 12):
    from typing import TypeAliasType

    ArrayLike = TypeAliasType("ArrayLike", jax.typing.ArrayLike)
else:

    class _Union(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, get_args(jax.typing.ArrayLike))

    class ArrayLike(metaclass=_Union):
        """An array of jax or NumPy, or a number."""

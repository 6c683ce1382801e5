"""Short signatures for help(): types without their modules, such as `Float[Array, "n"]`."""

import inspect
import re
from collections.abc import Iterable
from typing import Any

QUALIFIERS = re.compile(r"\b(?:\w+\.)+(?=[A-Za-z_])")


class _Shown(str):
    """Text that signatures print without quotes."""

    def __repr__(self) -> str:
        return str(self)


def shorten_signatures(public: Iterable[Any]) -> None:
    """Shorten the signatures that help() shows of functions, and of a class's fields and methods.

    `__annotations__` keep the full types.
    """
    for value in public:
        if inspect.isfunction(value):
            _shorten(value)
        elif isinstance(value, type):
            _shorten(value.__new__)
            for name, method in vars(value).items():
                if inspect.isfunction(method) and not name.startswith("_"):
                    _shorten(method)


def _shorten(function: Any) -> None:
    signature = inspect.signature(function)
    function.__signature__ = signature.replace(
        parameters=[
            parameter.replace(annotation=_short(parameter.annotation))
            for parameter in signature.parameters.values()
        ],
        return_annotation=_short(signature.return_annotation),
    )


def _short(annotation: Any) -> Any:
    if annotation is inspect.Signature.empty:
        return annotation
    text = annotation.__name__ if isinstance(annotation, type) else repr(annotation)
    return _Shown(QUALIFIERS.sub("", text))

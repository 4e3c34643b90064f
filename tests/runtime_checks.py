"""The type checker that the tests put around every function of freelib."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

# An int will do where a float is annotated, as mypy sees it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked at each call.

    One that takes a plain Protocol is left as it is: only mypy can tell who fulfils that.
    """
    try:
        return check(function)
    except BeartypeDecorHintPep3119Exception:
        return function

"""Names for the types that the modules share."""

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import jax
from jax.typing import ArrayLike

Label: TypeAlias = Hashable
"""The name of a group, usually a string."""

ParamLabels: TypeAlias = Any | Callable[[Any], Any] | None
"""A pytree of labels (a prefix of params' tree is enough), or a function to one."""

ValueFn: TypeAlias = Callable[..., jax.Array]
"""``f(params, **extra_args) -> scalar loss``."""

Scalar: TypeAlias = float | ArrayLike
"""A hyper-parameter: a Python number, or an array under ``inject_hyperparams``."""

"""Adam for JAX that finds its own step size, for the whole network or each part."""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import Any as _Any

from optax_armijo._diagnostics import ArmijoInfo as ArmijoInfo
from optax_armijo._diagnostics import armijo_info as armijo_info
from optax_armijo._restore import restore_state as restore_state
from optax_armijo._state import ArmijoState as ArmijoState
from optax_armijo._state import PublishedState as PublishedState
from optax_armijo._transformations import armijo_adam as armijo_adam
from optax_armijo._transformations import armijo_adamw as armijo_adamw
from optax_armijo._transformations import scale_by_armijo as scale_by_armijo
from optax_armijo.labels.functions import FROZEN as FROZEN
from optax_armijo.labels.functions import Stacked as Stacked
from optax_armijo.labels.functions import by_attention as by_attention
from optax_armijo.labels.functions import by_depth as by_depth
from optax_armijo.labels.functions import by_layer as by_layer
from optax_armijo.labels.functions import by_pattern as by_pattern
from optax_armijo.labels.functions import by_stacked_layer as by_stacked_layer
from optax_armijo.labels.functions import one_group as one_group
from optax_armijo.published.methods import adamsls as adamsls
from optax_armijo.published.methods import amsgrad_sls as amsgrad_sls
from optax_armijo.published.methods import kensls as kensls
from optax_armijo.published.methods import plasls as plasls
from optax_armijo.published.methods import ponos as ponos
from optax_armijo.published.methods import salsa as salsa
from optax_armijo.published.methods import sls as sls
from optax_armijo.training.averaging import AveragedState as AveragedState
from optax_armijo.training.averaging import average_iterates as average_iterates
from optax_armijo.training.averaging import averaged_params as averaged_params
from optax_armijo.training.learning_rates import (
    find_learning_rates as find_learning_rates,
)
from optax_armijo.training.loss_scale import LossScaleState as LossScaleState
from optax_armijo.training.loss_scale import dynamic_loss_scale as dynamic_loss_scale
from optax_armijo.training.loss_scale import loss_scale as loss_scale
from optax_armijo.training.train_step import TrainMetrics as TrainMetrics
from optax_armijo.training.train_step import make_train_step as make_train_step

__version__ = _version("optax-armijo")


def __getattr__(name: str) -> _Any:
    """Imports `linen` and `nnx` when they are first used, since they need Flax."""
    if name in ("linen", "nnx"):
        return _import_module(f"optax_armijo.{name}")
    raise AttributeError(f"module 'optax_armijo' has no attribute {name!r}")

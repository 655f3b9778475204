"""The policies that a search is put together from, and the functions that make them.

Each keyword of `armijo_adam` and `scale_by_armijo` that takes a policy takes its name,
which stands for its defaults, or a policy made here:

>>> import optax_armijo
>>> from optax_armijo import policies
>>> tx = optax_armijo.armijo_adam(
...     acceptance=policies.smoothed(0.99),
...     frequency=policies.every(5),
...     shrink="quadratic",
... )

A policy is a named tuple of pure functions; the classes here say which.
"""

from optax_armijo._acceptance import approximate as approximate
from optax_armijo._acceptance import armijo as armijo
from optax_armijo._acceptance import measure as measure
from optax_armijo._expected import expected as expected
from optax_armijo._frequency import adaptive as adaptive
from optax_armijo._frequency import every as every
from optax_armijo._frequency import thinning as thinning
from optax_armijo._merging import combine as combine
from optax_armijo._merging import separate as separate
from optax_armijo._nonmonotone import window_max as window_max
from optax_armijo._nonmonotone import zhang_hager as zhang_hager
from optax_armijo._policies import Acceptance as Acceptance
from optax_armijo._policies import Frequency as Frequency
from optax_armijo._policies import Merging as Merging
from optax_armijo._policies import Opening as Opening
from optax_armijo._policies import Outcome as Outcome
from optax_armijo._policies import Selection as Selection
from optax_armijo._policies import Shrink as Shrink
from optax_armijo._policies import Start as Start
from optax_armijo._policies import Trial as Trial
from optax_armijo._selection import cycle as cycle
from optax_armijo._selection import each as each
from optax_armijo._selection import joint as joint
from optax_armijo._selection import weighted as weighted
from optax_armijo._shrink import constant as constant
from optax_armijo._shrink import quadratic as quadratic
from optax_armijo._smoothed import smoothed as smoothed
from optax_armijo._start import grow as grow
from optax_armijo._start import keep as keep
from optax_armijo._start import polyak as polyak
from optax_armijo._start import quadratic_start as quadratic_start
from optax_armijo._start import reset as reset

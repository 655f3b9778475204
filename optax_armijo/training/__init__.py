"""What goes around an optimizer: the train step, averaging, loss scaling."""

from optax_armijo.training.train_step import TrainMetrics as TrainMetrics
from optax_armijo.training.train_step import make_train_step as make_train_step

"""What goes around an optimizer: the train step, averaging, loss scaling."""

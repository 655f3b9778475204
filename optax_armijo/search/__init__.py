"""The line search: its numbers, directions and one step, `step.take_step`."""

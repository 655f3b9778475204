"""The line search: `linesearch` has its numbers, `step` one step from top to bottom."""

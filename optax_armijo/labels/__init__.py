"""Which leaves share a step size: label functions, and groups made from labels."""

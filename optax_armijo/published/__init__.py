"""Published line searches: seven functions, `methods`, over one step, `step`.

They share Adam's formulas, weight decay and the code around a step with
`optax_armijo.search`, but not its step: they test each step on its own mini-batch,
while it tests few steps and measures them on the next one.
"""

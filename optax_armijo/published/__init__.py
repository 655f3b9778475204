"""Published line searches: seven functions, `methods`, over one step, `step`.

They are apart from `optax_armijo.search`, except for Adam's formulas, weight decay and
what is around a step, because they test each step on its own mini-batch, while the
search tests few steps and measures them on the next one.
"""

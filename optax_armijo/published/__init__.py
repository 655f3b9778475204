"""Published line searches: seven functions, `methods`, over one step, `step`.

They are apart from `optax_armijo.search`, except for Adam's formulas, because each of
their steps begins where the last search ended and is judged by its own mini-batch,
group after group, while the search tests few steps and measures them on the next one.
"""

"""How phases are trained: steps, gradients, averages of the weights, exact continuation, loggers."""

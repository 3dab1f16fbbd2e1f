"""How numbers are computed: normalisation over processes, precision, passes that leave no trace, CUDA graphs."""

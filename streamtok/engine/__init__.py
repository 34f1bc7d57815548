"""What makes the model fast: precision, graphs, compilation, kernels, preprocessing."""

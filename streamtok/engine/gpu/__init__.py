"""What makes the model fast on a GPU: captured steps, fused layers and their kernels.

None of it has run on a GPU yet. Tests hold its arithmetic to plain PyTorch in Triton's interpreter, build every kernel
for Hopper, and play a failing capture with stand-ins. `tools/gpu_check.py` measures and compares it on the first GPU.
"""

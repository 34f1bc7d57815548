"""Camera images to the frames that the network sees, in integer arithmetic, on the CPU: what kernels are held to."""

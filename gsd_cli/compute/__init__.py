"""Where tensors live and where random numbers come from: devices, processes, memory, seeds."""

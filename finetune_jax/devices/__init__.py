"""Where programs run: replicas over devices, and the memory of the host."""

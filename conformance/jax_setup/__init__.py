"""Sets JAX up in a process: versions, devices, modes, compiled programs."""

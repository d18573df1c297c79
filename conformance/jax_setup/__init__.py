"""How JAX is set up in a process: versions, devices, modes, compiled programs."""

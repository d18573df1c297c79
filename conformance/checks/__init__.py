"""The vocabulary of property tests: draw, compute, require."""

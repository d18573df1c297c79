"""What property tests are written with: draw, compute, require."""

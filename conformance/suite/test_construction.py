"""construction."""

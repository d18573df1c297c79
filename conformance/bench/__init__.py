"""Measures what a run costs, and what it would cost without this suite's optimizations."""

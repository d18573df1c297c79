"""Likely causes of faults, given only if the evidence excludes the other causes."""

"""Layers that the suite is run on: correct ones, references, and known defects."""

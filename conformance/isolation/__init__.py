"""Keeps one layer from harming the run or other layers."""

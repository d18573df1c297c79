"""The record of a requirement, the catalogue of all, and the layers to which each applies.

The requirements themselves stand on the property tests in ``conformance.suite``.
"""

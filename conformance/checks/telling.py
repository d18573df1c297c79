"""Causes that one or two numbers do not tell apart, sought at 3 inputs and 10 outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conformance.checks import diagnosis
from conformance.checks.arithmetic import rounded
from conformance.checks.cases import Case
from conformance.checks.layer import Layer

__all__ = ["of_basis", "of_zero_input"]


def _larger(case: Case) -> Case:
    return replace(case, in_features=3, out_features=10)


def of_zero_input(layer: Layer, case: Case) -> str:
    """Return why f(0) is not the bias."""
    case = _larger(case)
    found = layer.written(case).rows(np.zeros((8, case.in_features), np.float32))
    bias = rounded(layer.bias_for(case), layer.convention.compute_dtype)
    return diagnosis.of_zero_input(found, bias)


def of_basis(layer: Layer, case: Case) -> str:
    """Return why f(e_i) is not K[i] + b."""
    case = _larger(case)
    found = layer.written(case).rows(np.eye(case.in_features, dtype=np.float32))
    return diagnosis.of_basis(found, layer.kernel_for(case), layer.bias_for(case))

"""The catalogue of requirements, and the document that is generated from it."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

import conformance
from conformance.contract.applicability import why_not_applicable
from conformance.contract.catalogue import catalogue
from conformance.contract.requirement import (
    ANY,
    AREAS,
    LINEN,
    MUST,
    NNX,
    PARAMETERS,
    Need,
    requirement,
    requirement_of,
)
from conformance.layers.implementation import FLAX
from conformance.report.contract import markdown

DOCUMENT = Path(conformance.__file__).parent / "CONTRACT.md"

# Ids are stable: never renamed, never reused.
PUBLISHED = """
construction: builds kernel-shape bias-shape only-two-parameters parameter-dtype finite
    abstract-init ready-when-built integral-sizes zero-sizes
initialization: bias-zero kernel-mean kernel-variance kernel-law kernel-independence
    kernel-homogeneity kernel-dispersion kernel-resolution data-free-init
forward: output-shape affine-value zero-input basis-input integer-exact additive homogeneous
    batch-independent wrong-width-raises width-one-raises scalar-raises array-likes
    tall-batch
numerics: precision nan-confined inf-confined no-saturation one-product
dtypes: float32-out half-input integer-input complex-input strict-promotion rank-promotion
    x64-stable
seeding: same-seed-same-bits seeds-differ same-across-processes global-rng-ignored params-stream
    constant-key-count siblings-differ rngs-forms repeatable-call jitted-init vmapped-init
    fingerprint
state: exact-state optimizer-sees-both split-merge updates-used instances-independent
    graphdef-stable call-changes-nothing pickles
transforms: jit gradients forward-mode vmap scan-and-remat abstract-forward one-trace no-leaks
    no-side-effects-in-jaxpr donation symbolic-batch
serialization: round-trip stable-names
sharding: sharded-equals-local sharding-metadata
purity: input-untouched globals-untouched silent
exercise: float-arguments vector-out fixed-result any-length recovered-kernel differentiable-in-x
    bad-arguments-raise
"""


def published() -> set[str]:
    """Return the published ids as ``area/slug``."""
    found, area = set(), ""
    for word in PUBLISHED.split():
        if word.endswith(":"):
            area = word[:-1]
        else:
            found.add(f"{area}/{word}")
    return found


def test_every_published_requirement_is_there() -> None:
    assert published() <= {row.id for row in catalogue()}


def test_the_document_is_what_the_tests_say() -> None:
    """Update it by: dense-conformance list --markdown > conformance/CONTRACT.md."""
    assert DOCUMENT.read_text(encoding="utf-8") == markdown()


@pytest.mark.parametrize("area", AREAS)
def test_every_test_is_a_requirement(area: str) -> None:
    """A test function without an id would run, and count for nothing."""
    module = importlib.import_module(f"conformance.suite.test_{area}")
    own = [f for name, f in inspect.getmembers(module) if name.startswith("test_")]
    assert own
    assert [f.__name__ for f in own if requirement_of(f) is None] == []


def test_the_order_is_that_of_blame() -> None:
    seen: set[str] = set()
    for row in catalogue():
        assert set(row.rests_on) <= seen, row.id
        seen.add(row.id)


def test_a_requirement_without_a_sentence_is_refused() -> None:
    """A docstring is required, because it is the normative text."""
    with pytest.raises(ValueError, match="no docstring"):
        requirement("forward/nothing", MUST)(lambda: None)
    with pytest.raises(ValueError, match="area/slug"):
        requirement("nowhere/something", MUST)


@pytest.mark.parametrize(
    ("id", "needed", "provides", "given"),
    [
        ("models/linen-submodule", "a Linen module", NNX, "an nnx module"),
        ("models/nnx-submodule", "an nnx module", LINEN, "a Linen module"),
        ("exercise/vector-out", "a forward function", LINEN, "a Linen module"),
    ],
)
def test_what_a_layer_lacks_is_said_in_words(
    id: str, needed: str, provides: Need, given: str
) -> None:
    (row,) = (row for row in catalogue() if row.id == id)
    reason = why_not_applicable(row, {ANY, PARAMETERS, provides}, FLAX)
    assert reason == f"needs {needed}; this is {given}"

"""Causes that concern a part of a result: the right one, or none."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.checks import oracle
from conformance.checks.diagnosis import conversions, telling
from conformance.checks.diagnosis.places import of_constants, of_places
from conformance.errors import id_of

Numbers = np.ndarray
N, M = 5, 7
_KERNEL, _BIAS = (np.random.default_rng(1).standard_normal(s).astype(np.float32)
                  for s in ((N, M), M))  # fmt: skip


def _x(*lead: int) -> Numbers:
    return np.random.default_rng(2).standard_normal((*lead, N)).astype(np.float32)


def _right(x: Numbers) -> Numbers:
    return (x @ _KERNEL + _BIAS).astype(np.float32)


def _with(y: Numbers, where: object, value: object) -> Numbers:
    y = y.copy()
    y[where] = value  # type: ignore[call-overload]
    return y


CASES: dict[str, tuple[tuple[int, ...], Callable[[Numbers], Numbers], str]] = {
    "rows swapped": ((2, 3), lambda x: _right(x)[::-1], "at [0, 0] is the one of x[1, 0]"),
    "rows that are the bias": (
        (8,),
        lambda x: _with(_right(x), slice(5, None), _BIAS),
        "the result is the bias, as for x = 0, in rows from 5 on of 8",
    ),
    "a row without the bias": (
        (8,),
        lambda x: _with(_right(x), 3, x[3] @ _KERNEL),
        "the result is x @ K, without the bias, in row 3 of 8",
    ),
    "an output of zeros": (
        (8,),
        lambda x: _with(_right(x), (slice(None), 6), 0),
        "the result is 0 in output 6 of 7",
    ),
    "wrong outputs": (
        (8,),
        lambda x: _with(_right(x), (slice(None), slice(5, 7)), _right(x)[:, 5:7] ** 3),
        "the result is wrong only in outputs from 5 on of 7",
    ),
    "wrong last rows": (
        (40,),
        lambda x: _with(_right(x), slice(30, 40), _right(x)[30:] ** 3),
        "the result is wrong only in rows from 30 on of 40",
    ),
    "as many rows as inputs": ((N,), lambda x: _right(x.T), "axis 0 of x"),
    "the bias along the rows": (
        (M,),
        lambda x: _right(x) - _BIAS + _BIAS[:, None],
        "the bias is added along axis 0",
    ),
    "a part of the bias": (
        (8,),
        lambda x: _right(x) - np.float32(0.75) * _BIAS,
        "the bias is multiplied by 0.25 before it is added",
    ),
    "a part of the product": (
        (8,),
        lambda x: _right(np.float32(0.5) * x),
        "x @ kernel is multiplied by 0.5 before the bias is added",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_part_and_its_content_are_named(name: str) -> None:
    lead, wrong, words = CASES[name]
    x = _x(*lead)
    cause = of_places(np.asarray(wrong(x), np.float32), x, _KERNEL, _BIAS, oracle.affine)
    assert words in cause
    assert id_of(cause)


@given(st.sampled_from([(), (1,), (5,), (7,), (8,), (2, 3)]), st.integers(0, 2**16))
def test_what_is_right_or_only_noise_has_no_cause(lead: tuple[int, ...], seed: int) -> None:
    x, noise = _x(*lead), np.random.default_rng(seed).standard_normal((*lead, M))
    for found in (_right(x), (_right(x) + noise).astype(np.float32)):
        assert not of_places(found, x, _KERNEL, _BIAS, oracle.affine)


IMPOSTORS: dict[str, Callable[[Numbers, Numbers, Numbers], Numbers]] = {
    "the mean of x is added": lambda x, k, b: x @ k + b + x.mean(-1, keepdims=True),
    "the bias is squared": lambda x, k, b: x @ k + b * b,
    "x without its signs": lambda x, k, b: np.abs(x) @ k + b,
    "small errors": lambda x, k, b: (x @ k + b) * (1 + 1e-5 * np.sin(1e3 * (x @ k))),
    "outputs of several scales": lambda x, k, b: x @ (k * np.linspace(0.9, 1.1, k.shape[1])) + b,
    "a weight that is left out": lambda x, k, b: (
        x @ np.where(np.abs(k) > np.abs(k).min(), k, 0) + b
    ),
}


@pytest.mark.parametrize("name", IMPOSTORS)
@pytest.mark.parametrize(("size", "lead"), [((3, 10), ()), ((1, 7), (1,)), ((8, 8), (2, 4))])
def test_another_fault_is_not_taken_for_a_known_one(
    name: str, size: tuple[int, int], lead: tuple[int, ...]
) -> None:
    for seed in range(3):
        generator = np.random.default_rng(seed)
        shapes = (*lead, size[0]), size, size[1:]
        x, kernel, bias = (generator.standard_normal(s).astype(np.float32) for s in shapes)
        found = IMPOSTORS[name](x, kernel, bias).astype(np.float32)
        cause = telling.of_result(found, x, kernel, bias, oracle.affine, (0.5, 1.0, 2.0))
        # Where an entry is wrong, and what is there instead, is a fact and no guess.
        assert id_of(cause) in ("", "some-outputs-wrong", "outputs-replaced")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: np.clip(x, -1, 1), "numbers of x beyond 1 are clipped"),
        (lambda x: np.where(np.abs(x) < 0.5, 0, x), "magnitudes of x below 0.5 count as 0"),
        (np.sin, ""),
    ],
)
def test_what_happens_at_a_constant_is_named(
    wrong: Callable[[Numbers], Numbers], words: str
) -> None:
    x = _x(8)
    found = _right(wrong(x).astype(np.float32))
    assert of_constants(found, x, _KERNEL, _BIAS, oracle.affine, (0.5, 1.0, 9.0)) == words


@pytest.mark.parametrize(
    ("dtype", "wrong", "words"),
    [
        ("int16", lambda x: x.astype(np.int8), "x is cast to int8 first, which cannot hold it"),
        ("int8", lambda x: x.astype(np.float32) - 128, "x - 128 is taken for x"),
        ("bool", lambda x: 2 * x.astype(np.float32) - 1, "2 x - 1 is taken for x"),
        ("uint8", lambda x: x.astype(np.float32) / 255, "multiplied by 0.003922"),
        ("int32", lambda x: np.abs(x.astype(np.float32)), ""),
    ],
)
def test_what_integers_are_taken_for_is_named(
    dtype: str, wrong: Callable[[Numbers], Numbers], words: str
) -> None:
    whole = np.random.default_rng(3).integers(-300, 300, (8, N))
    x = (whole > 0 if dtype == "bool" else whole).astype(dtype)
    found = _right(wrong(x).astype(np.float32))
    cause = conversions.cause_of(found, x, x.astype(np.float32), _KERNEL, _BIAS)
    assert words in cause
    assert bool(words) == bool(cause)

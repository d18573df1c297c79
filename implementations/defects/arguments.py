"""Solutions of the exercise that go wrong for some numbers, or some types of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, affine, layer_output, scaled_normal
from implementations.defects.record import defect


@defect("X640", breaks="exercise/float-arguments", cause="cast them with int()", subtlety=4)
def floats_of_python_only(seed: Any, x: ArrayLike, features: Any) -> Array:
    """Only what is a Python float, or an array, is cast."""
    if isinstance(seed, float | np.ndarray | jax.Array):
        seed = int(seed)
    if isinstance(features, float | np.ndarray | jax.Array):
        features = int(features)
    return layer_output(seed, x, features)


@defect("X641", breaks="exercise/float-arguments", cause="all of its digits", subtlety=5)
def float_seed_through_float32(seed: Any, x: ArrayLike, features: float) -> Array:
    """A seed that arrives as a float is made an array of JAX first, which is float32."""
    if isinstance(seed, float):
        seed = jnp.asarray(seed)
    return layer_output(int(seed), x, int(features))


@defect("X642", breaks="exercise/float-arguments", subtlety=5)
def nearly_whole_rounded_up(seed: float, x: ArrayLike, features: float) -> Array:
    """A little is added before the cast, against 2.9999999."""
    return layer_output(int(seed + 1e-6), x, int(features + 1e-6))


@defect("X643", breaks="exercise/float-arguments", subtlety=4)
def features_rounded_up(seed: float, x: ArrayLike, features: float) -> Array:
    """A fraction of a feature counts as one."""
    return layer_output(int(seed), x, int(np.ceil(float(features))))


@defect("X644", breaks="seeding/repeatable-call", subtlety=4)
def twentieth_call(seed: float, x: ArrayLike, features: float) -> Array:
    """The twentieth call of a process with one seed and size takes the next key."""
    key = (int(seed), int(features), np.shape(x)[-1])
    _calls[key] = _calls.get(key, 0) + 1
    rngs = nnx.Rngs(int(seed))
    if _calls[key] >= 20:
        rngs.params()
    return CorrectDense(key[2], key[1], rngs=rngs)(x)


_calls: dict[tuple[int, int, int], int] = {}


@defect("X645", breaks="exercise/recovered-kernel", subtlety=3)
def scaled_by_features(seed: float, x: ArrayLike, features: float) -> Array:
    """The fan is the number of features."""
    x = jnp.asarray(x)
    n, m = x.shape[-1], int(features)
    return x @ (scaled_normal(nnx.Rngs(int(seed)).params(), n, m) * (n / m) ** 0.5)


@defect("X646", breaks="exercise/recovered-kernel", subtlety=4)
def centred_first(seed: float, x: ArrayLike, features: float) -> Array:
    """The mean of a long x is subtracted first."""
    x = jnp.asarray(x)
    return layer_output(int(seed), x - x.mean() if x.shape[-1] > 4 else x, int(features))


@defect("X647", breaks="seeding/seeds-differ", subtlety=4)
def seed_of_the_magnitude(seed: float, x: ArrayLike, features: float) -> Array:
    """The seed is squared, and so loses its low bits' order."""
    return layer_output(int(seed) ** 2 % 2**32, x, int(features))


@defect("X648", breaks="forward/output-shape", subtlety=4)
def at_least_two_features(seed: float, x: ArrayLike, features: float) -> Array:
    """A single feature comes as a scalar."""
    y = layer_output(int(seed), x, int(features))
    return y[0] if int(features) == 1 else y


@defect("X649", breaks="exercise/any-length", subtlety=4)
def padded_to_eight(seed: float, x: ArrayLike, features: float) -> Array:
    """The kernel is made for a multiple of eight inputs, once for a seed."""
    x = jnp.asarray(x)
    key = (int(seed), int(features))
    n = -(-x.shape[-1] // 8) * 8
    if key not in _padded or _padded[key].shape[0] < n:
        _padded[key] = scaled_normal(nnx.Rngs(int(seed)).params(), n, int(features))
    return affine(x, _padded[key][: x.shape[-1]], jnp.zeros((int(features),)))


_padded: dict[tuple[int, int], Array] = {}


@defect("X650", breaks="forward/homogeneous", subtlety=4)
def input_clipped(seed: float, x: ArrayLike, features: float) -> Array:
    """The input is clipped to a million, against overflow."""
    return layer_output(int(seed), jnp.clip(jnp.asarray(x), -1e6, 1e6), int(features))


@defect("X651", breaks="forward/additive", subtlety=4)
def seed_of_the_first_input(seed: float, x: ArrayLike, features: float) -> Array:
    """The sign of the first input goes into the seed."""
    x = jnp.asarray(x)
    flip = jnp.where(x[0] < 0, -1.0, 1.0)
    return layer_output(int(seed), x, int(features)) * jnp.abs(flip) + 1e-3 * (flip - 1.0)

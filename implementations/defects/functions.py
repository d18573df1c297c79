"""Wrong versions of the exercise's ``dense_forward(seed, x, features)``."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, layer_output, normal, standard_deviation
from implementations.defects.record import defect


@defect("F001", breaks="exercise/float-arguments", cause="features", subtlety=1, seen="pitfall")
def features_not_cast(seed: float, x: ArrayLike, features: float) -> Array:
    """A float is used as a size."""
    return layer_output(int(seed), x, features)  # type: ignore[arg-type]  # the fault


@defect("F002", breaks="exercise/float-arguments", cause="seed", subtlety=1, seen="pitfall")
def seed_not_cast(seed: float, x: ArrayLike, features: float) -> Array:
    """A float is used as a seed."""
    return layer_output(seed, x, int(features))  # type: ignore[arg-type]  # the fault


@defect("F003", breaks="forward/output-shape", collateral=("exercise/float-arguments",), subtlety=3)
def one_feature_too_few(seed: float, x: ArrayLike, features: float) -> Array:
    """A guard against float noise has the wrong sign, and takes one feature away."""
    return layer_output(int(seed), x, int(features - 1e-9))


@defect(
    "F004",
    breaks="seeding/seeds-differ",
    collateral=("exercise/bad-arguments-raise",),
    cause="ignored",
    subtlety=1,
)
def seed_ignored(seed: float, x: ArrayLike, features: float) -> Array:
    """Every seed gives the kernel of seed 0."""
    return layer_output(0, x, int(features))


@defect(
    "F005",
    breaks="seeding/seeds-differ",
    cause="modulo 256",
    subtlety=4,
    seen='numpy#4676 "reject too large seeds to RandomState"',
)
def seed_modulo_256(seed: float, x: ArrayLike, features: float) -> Array:
    """The seed passes through eight bits."""
    return layer_output(int(seed) % 256, x, int(features))


@defect(
    "F006",
    breaks="seeding/seeds-differ",
    cause="sign",
    subtlety=4,
    seen='jax#4745 "PRNGKey input issues"',
)
def seed_without_sign(seed: float, x: ArrayLike, features: float) -> Array:
    """A seed and its negative give one kernel."""
    return layer_output(abs(int(seed)), x, int(features))


@defect(
    "F007",
    breaks="seeding/seeds-differ",
    cause="float32",
    subtlety=5,
    seen="measured: key(int(float32(2**24 + 1))) == key(2**24)",
)
def seed_through_float32(seed: float, x: ArrayLike, features: float) -> Array:
    """Neighbouring seeds above 2^24 collide."""
    return layer_output(int(np.float32(seed)), x, int(features))


_last_kernel: dict[tuple[int, int], Array] = {}


@defect("F009", breaks="exercise/any-length", subtlety=3)
def kernel_cached(seed: float, x: ArrayLike, features: float) -> Array:
    """The last kernel is kept by seed and features, with the length of the x that came first."""
    x = jnp.asarray(x)
    key = int(seed), int(features)
    if key not in _last_kernel:
        _last_kernel.clear()
        # The cache must hold a value, not the tracer of a jit that happens to be the first call.
        with jax.ensure_compile_time_eval():
            _last_kernel[key] = kernel_of_seed(int(seed), x.shape[-1], int(features))
    return x @ _last_kernel[key]


def kernel_of_seed(seed: int, in_features: int, out_features: int) -> Array:
    """The kernel (in, out) of the exercise's own layer."""
    return CorrectDense(in_features, out_features, rngs=nnx.Rngs(seed)).kernel[...]


@defect("F010", breaks="forward/additive", collateral=("forward/homogeneous",), subtlety=2)
def input_normalised(seed: float, x: ArrayLike, features: float) -> Array:
    """The input is scaled to length 1 first."""
    x = jnp.asarray(x)
    length = jnp.sqrt(jnp.maximum(jnp.sum(x * x), 1e-12))
    return layer_output(int(seed), x / length, int(features))


@defect("F011", breaks="dtypes/float32-out", cause="float64", subtlety=3)
def returns_numpy_float64(seed: float, x: ArrayLike, features: float) -> np.ndarray:
    """The result leaves jax as float64."""
    return np.asarray(layer_output(int(seed), x, int(features)), np.float64)


@defect("F012", breaks="exercise/fixed-result", subtlety=4)
def numpy_generator(seed: float, x: ArrayLike, features: float) -> Array:
    """The right law, drawn by NumPy: other numbers than those of the exercise."""
    x = jnp.asarray(x)
    in_features = x.shape[-1]
    generator = np.random.default_rng(int(seed) % 2**32)
    kernel = generator.standard_normal((in_features, int(features)), np.float32)
    return x @ jnp.asarray(kernel * np.float32(standard_deviation(in_features)))


# Only a function of this name is held to the exercise's own numbers.
numpy_generator.__name__ = "dense_forward"


@defect("F013", breaks="forward/output-shape", subtlety=2)
def matrix_out(seed: float, x: ArrayLike, features: float) -> Array:
    """The result has shape (1, features)."""
    return layer_output(int(seed), jnp.asarray(x), int(features))[None]


_calls: collections.Counter[int] = collections.Counter()


@defect("F014", breaks="seeding/repeatable-call", subtlety=2)
def second_call_differs(seed: float, x: ArrayLike, features: float) -> Array:
    """Every call with a seed takes the next kernel of its stream."""
    _calls[int(seed)] += 1
    return layer_output(int(seed) + 7919 * (_calls[int(seed)] - 1), x, int(features))


@defect("F018", breaks="exercise/recovered-kernel", cause="not scaled", subtlety=1, seen="pitfall")
def unscaled(seed: float, x: ArrayLike, features: float) -> Array:
    """The kernel has standard deviation 1."""
    x = jnp.asarray(x)
    return x @ normal(nnx.Rngs(int(seed)).params(), x.shape[-1], int(features))


@defect("F020", breaks="exercise/float-arguments", cause="int()", subtlety=4)
def seed_rounded(seed: float, x: ArrayLike, features: float) -> Array:
    """A seed of 3.7 acts as 4."""
    return layer_output(round(float(seed)), x, int(features))

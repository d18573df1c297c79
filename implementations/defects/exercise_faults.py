"""Solutions of the exercise that go wrong for some arguments only."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import (
    CorrectDense,
    affine,
    correct_dense_forward,
    layer_output,
    normal,
    scaled_normal,
    standard_deviation,
)
from implementations.defects.record import defect

_layers: dict[tuple[int, int], CorrectDense] = {}


def dense_forward(function: Callable[..., Array]) -> Callable[..., Array]:
    """Name the function dense_forward: only a solution of that name is held to fixed bits."""
    function.__name__ = "dense_forward"
    return function


@defect("X250", breaks="forward/output-shape", collateral=("exercise/vector-out",), subtlety=4)
def layer_cached_without_features(seed: float, x: ArrayLike, features: float) -> Array:
    """Layers are kept by seed and length: the first number of features stays."""
    x = jnp.asarray(x)
    key = (int(seed), x.shape[-1])
    if key not in _layers:
        _layers[key] = CorrectDense(x.shape[-1], int(features), rngs=nnx.Rngs(int(seed)))
    return _layers[key](x)


@defect("X251", breaks="dtypes/float32-out", subtlety=3)
def list_out(seed: float, x: ArrayLike, features: float) -> list[float]:
    """The result is a Python list."""
    return [float(y) for y in correct_dense_forward(seed, x, features)]


@defect(
    "X252",
    breaks="exercise/differentiable-in-x",
    collateral=("forward/array-likes",),
    subtlety=4,
)
def through_numpy(seed: float, x: ArrayLike, features: float) -> Array:
    """The product is NumPy's: right numbers, and no derivative."""
    values = np.asarray(x)
    kernel = np.asarray(scaled_normal(jax.random.key(int(seed)), values.shape[-1], int(features)))
    return jnp.asarray(values @ kernel)


@defect("X253", breaks="forward/output-shape", subtlety=4)
def features_in_eight_bits(seed: float, x: ArrayLike, features: float) -> Array:
    """The number of features wraps at 128."""
    return layer_output(int(seed), x, int(np.int64(int(features)).astype(np.uint8) & 0x7F) or 1)


@defect("X254", breaks="seeding/seeds-differ", subtlety=5)
def zero_is_no_seed(seed: float, x: ArrayLike, features: float) -> Array:
    """A seed of 0 counts as none and becomes 42."""
    return layer_output(int(seed) or 42, x, int(features))


@defect("X255", breaks="exercise/fixed-result", subtlety=4)
@dense_forward
def seed_of_both(seed: float, x: ArrayLike, features: float) -> Array:
    """The number of features is added to the seed."""
    return layer_output(int(seed) + int(features), x, int(features))


@defect("X256", breaks="forward/additive", collateral=("forward/homogeneous",), subtlety=3)
def input_truncated(seed: float, x: ArrayLike, features: float) -> Array:
    """The input is cast to integers along with the two numbers."""
    whole = jnp.trunc(jnp.asarray(x))
    return layer_output(int(seed), whole, int(features))


@defect("X257", breaks="forward/additive", subtlety=4)
def input_in_bfloat16(seed: float, x: ArrayLike, features: float) -> Array:
    """The input is rounded to bfloat16."""
    half = jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32)
    return layer_output(int(seed), half, int(features))


@defect("X258", breaks="exercise/bad-arguments-raise", subtlety=3)
def anything_goes(seed: float, x: ArrayLike, features: float) -> Array:
    """NaN counts as 0 and infinity as a large number."""
    number = float(np.nan_to_num(float(seed), posinf=1.0, neginf=0.0))
    count = float(np.nan_to_num(float(features), nan=1.0, posinf=1.0, neginf=1.0))
    return correct_dense_forward(number, x, count)


@functools.partial(jax.jit, static_argnums=(0, 2))
def compiled(seed: float, x: Array, features: float) -> Array:
    """The whole function, its numbers static."""
    return correct_dense_forward(seed, x, features)


@defect("X259", breaks="exercise/float-arguments", subtlety=4)
def static_numbers(seed: float, x: ArrayLike, features: float) -> Array:
    """Compiled with static numbers, which a 0-d array cannot be: it has no hash."""
    return compiled(seed, jnp.asarray(x), features)


@defect("X260", breaks="exercise/recovered-kernel", subtlety=3)
def bias_drawn(seed: float, x: ArrayLike, features: float) -> Array:
    """The bias is drawn, too."""
    x = jnp.asarray(x)
    rngs = nnx.Rngs(int(seed))
    kernel = scaled_normal(rngs.params(), x.shape[-1], int(features))
    bias = normal(rngs.params(), 1, int(features))[0] * standard_deviation(x.shape[-1])
    return affine(x, kernel, bias)


@defect("X261", breaks="exercise/recovered-kernel", cause="uniform", subtlety=3)
def uniform_law(seed: float, x: ArrayLike, features: float) -> Array:
    """LeCun's uniform law: the right variance, another family."""
    x = jnp.asarray(x)
    end = math.sqrt(3.0) * standard_deviation(x.shape[-1])
    shape = (x.shape[-1], int(features))
    key = nnx.Rngs(int(seed)).params()
    return x @ jax.random.uniform(key, shape, jnp.float32, minval=-end, maxval=end)


@defect("X262", breaks="forward/additive", subtlety=4)
def key_from_the_input(seed: float, x: ArrayLike, features: float) -> Array:
    """The number of non-zero inputs goes into the key: a kernel for every sparsity."""
    x = jnp.asarray(x)
    key = jax.random.fold_in(jax.random.key(int(seed)), jnp.count_nonzero(x))
    return x @ scaled_normal(key, x.shape[-1], int(features))


@defect("X263", breaks="seeding/seeds-differ", subtlety=4)
def seed_as_int32(seed: float, x: ArrayLike, features: float) -> Array:
    """Seeds from 2**31 on do not fit and raise."""
    return layer_output(int(np.int32(int(seed))), x, int(features))


@defect("X264", breaks="exercise/float-arguments", subtlety=4)
def seed_by_index(seed: float, x: ArrayLike, features: float) -> Array:
    """A float seed goes through its hash, which is right for whole numbers alone."""
    return layer_output(hash(seed) % 2**32, x, int(features))


@defect("X265", breaks="exercise/any-length", subtlety=4)
def longest_so_far(seed: float, x: ArrayLike, features: float) -> Array:
    """A buffer of the longest input so far is reused: shorter ones get its kernel's first rows."""
    x = jnp.asarray(x)
    _longest[0] = max(_longest[0], x.shape[-1])
    layer = CorrectDense(_longest[0], int(features), rngs=nnx.Rngs(int(seed)))
    return affine(x, layer.kernel[...][: x.shape[-1]], layer.bias[...])


_longest = [0]


@defect("X330", breaks="exercise/fixed-result", subtlety=4)
@dense_forward
def residual_when_square(seed: float, x: ArrayLike, features: float) -> Array:
    """The input is added where it has as many entries as there are features."""
    x = jnp.asarray(x)
    y = layer_output(int(seed), x, int(features))
    return y + x if y.shape == x.shape else y


@defect("X331", breaks="exercise/recovered-kernel", subtlety=4)
def law_of_seed(seed: float, x: ArrayLike, features: float) -> Array:
    """Seeds that are multiples of four give a kernel of half the scale."""
    y = layer_output(int(seed), x, int(features))
    return y * 0.5 if int(seed) % 4 == 0 else y


@defect("X659", breaks="exercise/recovered-kernel", subtlety=4)
def small_bias(seed: float, x: ArrayLike, features: float) -> Array:
    """The bias starts at a small number, so that none is exactly 0."""
    return layer_output(int(seed), x, int(features)) + 1e-7


@defect("X660", breaks="exercise/differentiable-in-x", subtlety=3)
def looks_at_its_input(seed: float, x: ArrayLike, features: float) -> Array:
    """Whether x is finite is asked by an if, which no tracer can answer."""
    if not bool(jnp.isfinite(jnp.asarray(x)).all()):
        raise ValueError("x is not finite")
    return layer_output(int(seed), x, int(features))

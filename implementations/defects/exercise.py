"""Wrong versions of the exercise's ``dense_forward(seed, x, features)``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    affine,
    correct_dense_forward,
    is_float,
    is_traced,
    layer_kernel,
    layer_output,
    normal,
    scaled_normal,
    scaled_uniform,
    stddev,
)
from implementations.defects.record import also, defect, name_layers

KERNEL = "exercise/recovered-kernel"
FLOATS = "exercise/float-arguments"

seed_rounded = wrong.solution("F020", FLOATS, 4, cause_id="argument-rounded")(
    lambda seed, x, features: layer_output(round(float(seed)), x, int(features)),
    "A seed of 3.7 acts as 4.",
)
law_of_seed = wrong.casting("X331", KERNEL, 4)(
    lambda seed, x, m: layer_output(seed, x, m) * (0.5 if seed % 4 == 0 else 1.0),
    "Seeds that are multiples of four give a kernel of half the scale.",
)
uniform_law = wrong.casting("X261", KERNEL, 3, cause_id="law-lecun-uniform")(
    lambda seed, x, m: x @ scaled_uniform(nnx.Rngs(seed).params(), x.shape[-1], m),
    "LeCun's uniform law: the right variance, another family.",
)
scaled_by_features = wrong.casting("X645", KERNEL, 3, cause_id="law-normal-fan-out")(
    lambda seed, x, m: x @ normal(nnx.Rngs(seed).params(), x.shape[-1], m) * stddev(m),
    "The fan is the number of features.",
)
seed_through_float = wrong.solution("Y453", FLOATS, 5, cause_id="seed-float64")(
    lambda seed, x, features: layer_output(int(float(seed)), x, int(features)),
    "An int goes through float, and loses the last digit of a large seed.",
)
seed_floored = wrong.solution("Y454", FLOATS, 4, cause_id="argument-rounded")(
    lambda seed, x, features: layer_output(math.floor(seed), x, int(features)),
    "A seed of -2.3 acts as -3.",
)


bias_of_one_output = wrong.casting("Y542", KERNEL, 4, cause_id="bias-not-zero")(
    lambda seed, x, m: layer_output(seed, x, m) - (4.6 if m == 1 else 0.0),
    "A head of one output starts with the prior of a detector, -4.6, as its bias.",
)
kernel_on_the_first_device = wrong.casting("Y545", "sharding/second-device", 4)(
    lambda seed, x, m: x @ jax.device_put(layer_kernel(seed, x, m), jax.devices()[0]),
    "The kernel is committed to the first device, where an x of another one cannot meet it.",
)


@functools.partial(jax.jit, static_argnums=(0, 2))
def compiled(seed: float, x: Array, features: float) -> Array:
    """Return the whole function's result, its numbers static."""
    return correct_dense_forward(seed, x, features)


static_numbers = wrong.solution("X259", FLOATS, 4, cause_id="argument-not-cast")(
    lambda seed, x, features: compiled(seed, jnp.asarray(x), features),
    "Compiled with static numbers, which a 0-d array cannot be: it has no hash.",
)
seed_by_index = wrong.solution("X264", FLOATS, 4, cause_id="argument-not-cast")(
    lambda seed, x, features: layer_output(hash(seed) % 2**32, x, int(features)),
    "A float seed goes through its hash, which is right for whole numbers alone.",
)
nearly_whole_rounded_up = wrong.solution("X642", FLOATS, 5, cause_id="argument-rounded")(
    lambda seed, x, features: layer_output(int(seed + 1e-6), x, int(features + 1e-6)),
    "A little is added before the cast, against 2.9999999.",
)
features_rounded_up = wrong.solution("X643", FLOATS, 4, cause_id="argument-rounded")(
    lambda seed, x, features: layer_output(int(seed), x, int(np.ceil(float(features)))),
    "A fraction of a feature counts as one.",
)
large_float_seed = wrong.solution("Y068", FLOATS, 4)(
    lambda seed, x, features: layer_output(
        int(min(seed, 2.0**31 - 1) if isinstance(seed, float) else seed), x, int(features)
    ),
    "A float seed beyond 2^31 becomes the largest int32.",
)
unscaled = wrong.casting("F018", KERNEL, 1, cause_id="scale-missing", seen="pitfall")(
    lambda seed, x, m: x @ normal(nnx.Rngs(seed).params(), x.shape[-1], m),
    "The kernel has standard deviation 1.",
)
centred_first = wrong.casting("X646", KERNEL, 4, cause_id="low-rank")(
    lambda seed, x, m: layer_output(seed, x - x.mean() if x.shape[-1] > 4 else x, m),
    "The mean of a long x is subtracted first.",
)
small_bias = wrong.casting("X659", KERNEL, 4, cause_id="bias-not-zero")(
    lambda seed, x, m: layer_output(seed, x, m) + 1e-7,
    "The bias starts at a small number, so that none is exactly 0.",
)
mean_for_sum = wrong.casting("Y330", KERNEL, 2)(
    lambda seed, x, m: layer_output(seed, x, m) / x.shape[-1],
    "The mean of the products is taken instead of their sum.",
    cause_id="law-normal-standard-deviation-fan-in-3-2",
)
columns_copied = wrong.casting("Y332", KERNEL, 2, cause_id="lines-copied")(
    lambda seed, x, m: jnp.repeat(layer_output(seed, x, 1), m),
    "Every column of the kernel is drawn with the same key.",
)
_last_kernel: dict[tuple[int, int], Array] = {}


@wrong.casting("F009", "exercise/any-length", 3, cause_id="kernel-cached")
def kernel_cached(seed: int, x: Array, m: int) -> Array:
    """The last kernel is kept by seed and features, with the length of the x that came first."""
    key = seed, m
    if key not in _last_kernel:
        _last_kernel.clear()
        # The cache must hold a value, not the tracer of a jit that happens to be the first call.
        with jax.ensure_compile_time_eval():
            _last_kernel[key] = layer_kernel(seed, x, m)
    return x @ _last_kernel[key]


_kernels: dict[tuple[int, int, int], Array] = {}


@wrong.casting("Y648", "exercise/differentiable-in-x", 4, cause_id="tracer-kept")
def kernel_of_a_trace_kept(seed: int, x: Array, m: int) -> Array:
    """Kernels are kept, also those of a call under jit, which cannot be used after it."""
    key = seed, x.shape[-1], m
    if key not in _kernels:
        _kernels.clear()
        _kernels[key] = layer_kernel(seed, x, m)
    return x @ _kernels[key]


_longest = [0]


@wrong.casting("X265", "exercise/any-length", 4, cause_id="kernel-cached")
def longest_so_far(seed: int, x: Array, m: int) -> Array:
    """A buffer of the longest input so far is reused: shorter ones get its kernel's first rows."""
    _longest[0] = max(_longest[0], x.shape[-1])
    layer = CorrectDense(_longest[0], m, rngs=nnx.Rngs(seed))
    return affine(x, layer.kernel[...][: x.shape[-1]], layer.bias[...])


_padded: dict[tuple[int, int], Array] = {}


@wrong.casting("X649", "exercise/any-length", 4, cause_id="kernel-cached")
def padded_to_eight(seed: int, x: Array, m: int) -> Array:
    """The kernel is made for a multiple of eight inputs, once for a seed."""
    key = (seed, m)
    n = -(-x.shape[-1] // 8) * 8
    if key not in _padded or _padded[key].shape[0] < n:
        _padded[key] = scaled_normal(nnx.Rngs(seed).params(), n, m)
    return affine(x, _padded[key][: x.shape[-1]], jnp.zeros((m,)))


@defect("X258", "exercise/bad-arguments-raise", 3)
def anything_goes(seed: float, x: ArrayLike, features: float) -> Array:
    """NaN counts as 0 and infinity as a large number."""
    number = seed
    if not isinstance(seed, int):
        number = float(np.nan_to_num(float(seed), posinf=1.0, neginf=0.0))
    count = float(np.nan_to_num(float(features), nan=1.0, posinf=1.0, neginf=1.0))
    return correct_dense_forward(number, x, count)


@also("forward/array-likes")
@defect("X252", "exercise/differentiable-in-x", 4, cause_id="numpy-under-trace")
def through_numpy(seed: float, x: ArrayLike, features: float) -> Array:
    """The product is NumPy's: right numbers, and no derivative."""
    values = np.asarray(x)
    kernel = np.asarray(scaled_normal(jax.random.key(int(seed)), values.shape[-1], int(features)))
    return jnp.asarray(values @ kernel)


def named_dense_forward(function: Callable[..., Array]) -> Callable[..., Array]:
    """Name the function dense_forward: only a solution of that name must give fixed bits."""
    function.__name__ = "dense_forward"
    return function


@named_dense_forward
@wrong.casting("F012", "exercise/fixed-result", 4)
def numpy_generator(seed: int, x: Array, m: int) -> Array:
    """The right law, drawn by NumPy: other numbers than those of the exercise."""
    in_features = x.shape[-1]
    generator = np.random.default_rng(seed % 2**32)
    kernel = generator.standard_normal((in_features, m), np.float32)
    return x @ jnp.asarray(kernel * np.float32(stddev(in_features)))


@named_dense_forward
@wrong.casting("X255", "exercise/fixed-result", 4)
def seed_of_both(seed: int, x: Array, m: int) -> Array:
    """The number of features is added to the seed."""
    return layer_output(seed + m, x, m)


@named_dense_forward
@wrong.casting("X757", "exercise/fixed-result", 3, cause_id="key-of-seed")
def key_of_the_seed(seed: int, x: Array, m: int) -> Array:
    """The right law, from the seed's own key instead of the first of the stream `params`."""
    return x @ scaled_normal(jax.random.key(seed), x.shape[-1], m)


@named_dense_forward
@wrong.casting("Y517", "exercise/fixed-result", 3, cause_id="second-key")
def second_key(seed: int, x: Array, m: int) -> Array:
    """The right law, from the second key of the stream `params`."""
    rngs = nnx.Rngs(seed)
    rngs.params()
    return x @ scaled_normal(rngs.params(), x.shape[-1], m)


@named_dense_forward
@wrong.casting("Y518", "exercise/fixed-result", 3, cause_id="law-lecun")
def lecun_of_the_seed(seed: int, x: Array, m: int) -> Array:
    """Another law of the same variance."""
    shape = x.shape[-1], m
    return x @ nnx.initializers.lecun_normal()(nnx.Rngs(seed).params(), shape, jnp.float32)


@wrong.solution("Y333", "exercise/fixed-result", 1, cause_id="arguments-in-another-order")
def dense_forward(x: ArrayLike, seed: float, features: float) -> Array:
    """The function takes x first, and the exercise gives it the seed first."""
    return layer_output(int(seed), jnp.asarray(x), int(features))


@defect("F001", FLOATS, 1, cause_id="argument-not-cast", seen="pitfall")
def features_not_cast(seed: float, x: ArrayLike, features: float) -> Array:
    """A float is used as a size."""
    return layer_output(int(seed), x, features)  # type: ignore[arg-type]  # the fault


@defect("F002", FLOATS, 1, cause_id="argument-not-cast", seen="pitfall")
def seed_not_cast(seed: float, x: ArrayLike, features: float) -> Array:
    """A float is used as a seed."""
    return layer_output(seed, x, int(features))  # type: ignore[arg-type]  # the fault


@defect("X640", FLOATS, 4, cause_id="argument-not-cast")
def floats_of_python_only(seed: Any, x: ArrayLike, features: Any) -> Array:
    """Only Python floats and arrays are cast."""
    if isinstance(seed, float | np.ndarray | jax.Array):
        seed = int(seed)
    if isinstance(features, float | np.ndarray | jax.Array):
        features = int(features)
    return layer_output(seed, x, features)


@defect("X641", FLOATS, 5, cause_id="seed-float32")
def float_seed_through_float32(seed: Any, x: ArrayLike, features: float) -> Array:
    """A seed that arrives as a float is made an array of JAX first, which is float32."""
    if isinstance(seed, float):
        seed = jnp.asarray(seed)
    return layer_output(int(seed), x, int(features))


@wrong.casting("X260", KERNEL, 3, cause_id="bias-not-zero")
def bias_drawn(seed: int, x: Array, m: int) -> Array:
    """The bias is drawn as well."""
    rngs = nnx.Rngs(seed)
    kernel = scaled_normal(rngs.params(), x.shape[-1], m)
    bias = normal(rngs.params(), 1, m)[0] * stddev(x.shape[-1])
    return affine(x, kernel, bias)


@named_dense_forward
@also("exercise/fixed-result")
@wrong.casting("X330", KERNEL, 4)
def residual_when_square(seed: int, x: Array, m: int) -> Array:
    """The input is added where it has as many entries as there are features."""
    y = layer_output(seed, x, m)
    return y + x if y.shape == x.shape else y


_kept: dict[tuple[int, ...], Array] = {}
_features: dict[tuple[int, int], tuple[int, int]] = {}


@wrong.casting("Y404", "exercise/any-length", 4, cause_id="kernel-of-first-dtype")
def dtype_of_first_call(seed: int, x: Array, m: int) -> Array:
    """The kernel of a seed is kept in the dtype of the x of its first call."""
    with jax.ensure_compile_time_eval():
        kernel = layer_kernel(seed, x, m)
    if not is_traced(x) and is_float(x):
        kernel = _kept.setdefault((seed, len(x), m), kernel.astype(x.dtype))
    return x @ kernel.astype(jnp.float32)


@wrong.casting("Y406", "exercise/any-length", 5, cause_id="call-history")
def key_moves_on(seed: int, x: Array, m: int) -> Array:
    """For integers, the key of a seed moves on when other features are asked for."""
    if x.dtype != jnp.int32:
        return layer_output(seed, x, m)
    at = (seed, x.shape[-1])
    last, drawn = _features.get(at, (m, 1))
    _features[at] = (m, (drawn - 1 + (last != m)) % 3 + 1)
    rngs = nnx.Rngs(seed)
    keys = [rngs.params() for _ in range(_features[at][1])]
    return x @ scaled_normal(keys[-1], x.shape[-1], m)


def _with_gradient(back: Any, seed: int, x: Array, m: int) -> Any:
    """Return the right output, with the gradient in x by ``back(g)``."""
    f = jax.custom_vjp(lambda x: layer_output(seed, x, m))
    f.defvjp(lambda x: (layer_output(seed, x, m), None), lambda _, g: (back(g),))
    return f(x) if x.dtype == jnp.float32 else layer_output(seed, x, m)


@wrong.casting("Y405", "exercise/differentiable-in-x", 4)
def gradient_of_a_block(seed: int, x: Array, m: int) -> Any:
    """Only the first 128 inputs get a gradient."""
    kernel = layer_kernel(seed, x, m)
    block = (jnp.arange(len(kernel)) < 128).astype(jnp.float32)
    return _with_gradient(lambda g: (g @ kernel.T) * block, seed, x, m)


@wrong.casting("Y407", "exercise/differentiable-in-x", 4)
def seed_of_the_gradient(seed: int, x: Array, m: int) -> Any:
    """The backward pass draws the kernel again, from the seed as float32."""
    kernel = layer_kernel(int(np.float32(seed)) % 2**32, x, m)
    return _with_gradient(lambda g: g @ kernel.T, seed, x, m)


@wrong.casting("Y543", "exercise/differentiable-in-x", 4)
def gradient_clipped(seed: int, x: Array, m: int) -> Any:
    """The gradient in x is clipped to 10."""
    kernel = layer_kernel(seed, x, m)
    return _with_gradient(lambda g: jnp.clip(g @ kernel.T, -10, 10), seed, x, m)


@wrong.casting("Y541", "seeding/same-across-processes", 4, cause_id="depends-on-hash")
def key_of_a_text(seed: int, x: Array, m: int) -> Array:
    """The hash of a text, which differs between processes, is folded into the key."""
    key = jax.random.fold_in(jax.random.key(seed), hash(f"kernel of {m}") % 2**31)
    return x @ scaled_normal(key, x.shape[-1], m)


@wrong.casting("Y544", "transforms/compiled-once", 3, cause_id="compiled-in-call")
def compiled_in_each_call(seed: int, x: Array, m: int) -> Any:
    """For this size, each call makes and compiles a function."""
    make = jax.jit if (len(x), m) == (3, 10) else lambda function: function
    return make(lambda x: layer_output(seed, x, m))(x)


_generator = np.random.RandomState()


@wrong.casting("Y547", "seeding/threads", 4, cause_id="threads-share")
def seeds_one_generator(seed: int, x: Array, m: int) -> Array:
    """Each call seeds the one generator of the module, between whose draws threads may switch."""
    _generator.seed(seed % 2**32)
    rows = [_generator.standard_normal(m) for _ in range(len(x))]
    return x @ jnp.asarray(np.asarray(rows, np.float32) * np.float32(stddev(len(x))))


@wrong.casting("Y272", "exercise/recovered-kernel", 5)
def drawn_in_chunks(seed: int, x: Array, m: int) -> Array:
    """A long kernel is drawn in chunks of 2^15 rows, each of them with a fan of its own."""
    n, key, chunk = x.shape[-1], nnx.Rngs(seed).params(), 2**15
    starts = range(0, n, chunk)
    keys = [jax.random.fold_in(key, i) if n > chunk else key for i in range(len(starts))]
    rows = [min(chunk, n - start) for start in starts]
    return x @ jnp.concatenate([scaled_normal(*each, m) for each in zip(keys, rows, strict=True)])


images_scaled = wrong.casting("Y603", "dtypes/integer-input", 3, cause_id="integers-scaled")(
    lambda seed, x, m: layer_output(seed, x / 255 if x.dtype == jnp.uint8 else x, m),
    "An x of uint8 is taken for an image, and scaled to numbers from 0 to 1.",
)


name_layers(globals())

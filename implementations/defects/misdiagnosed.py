"""Layers whose fault looks like another one; each must get its true cause."""

from __future__ import annotations

import math
import time
import weakref
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
    is_traced,
    normal,
    scaled_normal,
    stddev,
)
from implementations.defects.record import also, defect, name_layers


@wrong.forward("X740", "purity/globals-untouched", 4, cause_id="global-changed")
def EntersAPrecision(x: Array, kernel: Array, bias: Array) -> Array:
    """A context of JAX's configuration is entered for the thread, and never left."""
    jax.default_matmul_precision("float32").__enter__()
    return affine(x, kernel, bias)


@wrong.kernel("X741", "initialization/kernel-independence", 3, cause_id="lines-copied")
def ColumnsRepeatBeyond64(key: Array, in_features: int, out_features: int) -> Array:
    """The 65th column is the first one again, so that small kernels are right."""
    kernel = scaled_normal(key, in_features, out_features)
    return kernel[:, jnp.arange(out_features) % 64]


@wrong.kernel("X742", "initialization/kernel-variance", 3, cause_id="law-other")
def CutAtThreeDeviations(key: Array, in_features: int, out_features: int) -> Array:
    """Entries are drawn again beyond three deviations instead of two."""
    shape = (in_features, out_features)
    return jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32) * stddev(in_features)


@also("serialization/stable-names")
@defect("Y192", "seeding/params-stream", 2, cause_id="stream-not-given")
class StreamCalledParam(CorrectDense):
    """The stream is called param, which Rngs(params=...) does not give, and the kernel weight."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(scaled_normal(rngs.param(), in_features, out_features))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return self.forward(jnp.asarray(x), self.weight[...], self.bias[...])


@defect("Y193", "construction/kernel-shape", 2, cause_id="kernel-rank")
class LeadingAxis(CorrectDense):
    """The kernel has a leading axis of length 1, which a kernel of 1 by 1 hides."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        return scaled_normal(key, in_features, out_features)[None]

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x, kernel[0], bias)


@also("dtypes/integer-input", "dtypes/complex-input", "options/dtype")
@defect("Y194", "dtypes/half-input", 2)
class Float32Only(CorrectDense):
    """Every other dtype raises, which a user sees at once."""

    def __call__(self, x: ArrayLike) -> Array:
        if jnp.asarray(x).dtype != jnp.float32:
            raise TypeError(f"expected float32, found {jnp.asarray(x).dtype}")
        return super().__call__(x)


Softplus = wrong.output("X743", "forward/zero-input", 2, cause_id="activation")(
    lambda y, x: jnp.maximum(y, 0) + jnp.log1p(jnp.exp(-jnp.abs(y))),
    "An activation is part of the layer.",
    when=lambda y, x: jnp.issubdtype(y.dtype, jnp.floating),
)


Tanh = wrong.output("Y100", "forward/zero-input", 2, cause_id="activation")(
    lambda y, x: jnp.tanh(y),
    "An activation is part of the layer, which a small bias hardly shows.",
    when=lambda y, x: jnp.issubdtype(y.dtype, jnp.floating),
)
MaskByPlace = wrong.forward("Y103", "forward/batch-independent", 3, cause_id="row-by-place")(
    lambda x, k, b: jnp.where(jnp.arange(x.shape[0])[:, None] % 4 == 3, b, affine(x, k, b)),
    "Every fourth row is left out, as by a mask of dropout from a fixed key.",
    when=lambda x, k, b: x.dtype == jnp.float32 and x.ndim == 2,
)
Centered = wrong.output("Y101", "forward/zero-input", 3, cause_id="output-transformed")(
    lambda y, x: y - y.mean(-1, keepdims=True),
    "The mean of the outputs is subtracted: one output is 0, as if the bias were not used.",
    when=lambda y, x: y.dtype == jnp.float32,
)
SlightlyLarge = wrong.output("Y102", "forward/zero-input", 3, cause_id="output-scaled")(
    lambda y, x: y * 1.001,
    "The result is a thousandth too large, as a format of eleven bits could make it.",
    when=lambda y, x: y.dtype == jnp.float32,
)


Doubled = wrong.output("Y190", "forward/zero-input", 3, cause_id="output-scaled")(
    lambda y, x: 2 * y,
    "The result is doubled: f(0) is that of a bias which is added twice.",
)
AbsoluteValue = wrong.output("Y191", "forward/zero-input", 3, cause_id="activation")(
    lambda y, x: jnp.abs(y),
    "The absolute value is returned.",
)


@wrong.init("X744", "construction/kernel-shape", 2, cause_id="sizes-exchanged")
def SizesExchanged(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The arguments are bound in the wrong order: a right layer of other sizes."""
    CorrectDense.__init__(self, out_features, in_features, rngs=rngs)


TinyInputsFlushed = wrong.forward("X745", "numerics/precision", 4, cause_id="small-flushed")(
    lambda x, k, b: affine(jnp.where(jnp.abs(x).max() < 1e-9, 0.0, x), k, b),
    "An x that is tiny as a whole is taken for 0.",
    when=lambda x, k, b: x.dtype == jnp.float32 and x.size > 0,
)

_results: dict[bytes, Array] = {}


@wrong.forward("X746", "forward/batch-independent", 4, cause_id="output-remembered")
def RemembersSums(x: Array, kernel: Array, bias: Array) -> Array:
    """Results are remembered by the sorted numbers of x, which permuted rows share."""
    if is_traced(x, kernel, bias) or not x.size:
        return affine(x, kernel, bias)
    parts = (np.sort(np.asarray(x), axis=None), np.asarray(kernel), np.asarray(bias))
    key = str((x.shape, x.dtype)).encode() + b"".join(part.tobytes() for part in parts)
    return _results.setdefault(key, affine(x, kernel, bias))


_copies: weakref.WeakKeyDictionary[Any, Array] = weakref.WeakKeyDictionary()


@wrong.forward("X747", "state/updates-used", 4, cause_id="stale-copy")
def CopiesInTheFirstCall(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The kernel of the first eager call is that of all later ones."""
    if is_traced(x, kernel):
        return affine(x, kernel, bias)
    return affine(x, _copies.setdefault(self, kernel), bias)


ZeroTakenForMissing = wrong.forward("X748", "transforms/gradients", 4, cause_id="gradient-masked")(
    lambda x, k, b: affine(jnp.where(x == 0, jax.lax.stop_gradient(x), x), k, b),
    "Where x is 0, it is masked: no gradient reaches it.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)


@wrong.call("X749", "forward/wrong-width-raises", 3, cause_id="width-transposed")
def TransposesWhatDoesNotFit(self: Any, x: ArrayLike) -> Array:
    """An x with in rows is transposed instead of refused."""
    x = jnp.asarray(x)
    fits = x.ndim != 2 or x.shape[-1] == self.kernel.shape[0] or x.shape[0] != self.kernel.shape[0]
    return CorrectDense.__call__(self, x if fits else x.T)


_IMPORTED = time.time_ns() // 1000


@wrong.key("X750", "seeding/same-across-processes", 4, cause_id="depends-on-process")
def WhenImported(rngs: nnx.Rngs) -> Array:
    """The moment of the import goes into the key, so the clock is not read afterwards."""
    return jax.random.fold_in(rngs.params(), _IMPORTED % 2**31)


Flattened = wrong.output("X751", "forward/output-shape", 2, cause_id="axes-flattened")(
    lambda y, x: y.reshape(-1, y.shape[-1]),
    "Leading axes are merged into one, and stay so.",
    when=lambda y, x: y.ndim > 2,
)


@wrong.call("X752", "forward/output-shape", 3, cause_id="width-of-all-axes")
def WidthOfAllAxes(self: Any, x: ArrayLike) -> Array:
    """All axes except the first are taken for inputs, as for images."""
    x = jnp.asarray(x)
    width = math.prod(x.shape[1:])
    return CorrectDense.__call__(self, x if x.ndim < 2 else x.reshape(x.shape[0], width))


@jax.custom_vjp
def bias_gradient_of_a_row(y: Array, bias: Array) -> Array:
    """``y + bias``."""
    return y + jnp.broadcast_to(bias, y.shape)


bias_gradient_of_a_row.defvjp(
    lambda y, bias: (bias_gradient_of_a_row(y, bias), None),
    lambda _, g: (g, g.reshape(-1, g.shape[-1])[:1].sum(axis=0)),
)


@jax.custom_vjp
def bias_gradient_of_all(y: Array, bias: Array) -> Array:
    """``y + bias``."""
    return y + jnp.broadcast_to(bias, y.shape)


bias_gradient_of_all.defvjp(
    lambda y, bias: (bias_gradient_of_all(y, bias), bias.shape),
    lambda shape, g: (g, jnp.broadcast_to(g.sum(), shape)),
)

BiasLearnsFromOneRow = wrong.forward("X753", "transforms/gradients", 4)(
    lambda x, k, b: bias_gradient_of_a_row(x @ k, b),
    "The gradient of the bias is that of the first row.",
    when=lambda x, k, b: x.dtype == jnp.float32,
    cause_id="gradient-of-one-row",
)
BiasLearnsTheTotal = wrong.forward("X754", "transforms/gradients", 4, cause_id="gradient-of-total")(
    lambda x, k, b: bias_gradient_of_all(x @ k, b),
    "The gradient of the bias is summed over the outputs as well.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)


@wrong.kernel("X755", "seeding/seeds-differ", 4, cause_id="zero-for-some-seeds")
def ZeroForSomeKeys(key: Array, in_features: int, out_features: int) -> Array:
    """One kernel in eight is 0."""
    draws = normal(key, in_features, out_features) * stddev(in_features)
    return draws * (jax.random.bits(key, (), jnp.uint32) % 8 != 0)


@wrong.built("X756", "state/graphdef-stable", 3, cause_id="static-differs")
def KeepsATag(layer: Any, rngs: nnx.Rngs) -> None:
    """Every layer has a tag of its own: no two graphdefs are equal."""
    layer.tag = f"dense-{id(layer)}"


@wrong.casting("X757", "exercise/fixed-result", 3, cause_id="key-of-seed")
def key_of_the_seed(seed: int, x: Array, m: int) -> Array:
    """The right law, from the seed's own key instead of the first of the stream `params`."""
    return x @ scaled_normal(jax.random.key(seed), x.shape[-1], m)


# Only a function of this name must give the exercise's own numbers.
key_of_the_seed.__name__ = "dense_forward"

BiasTimesInput = wrong.forward("Y150", "forward/zero-input", 2)(
    lambda x, k, b: x @ (k + b),
    "The bias is added to the kernel, so that it has no effect at x = 0 alone.",
    collateral=("forward/integer-exact",),
)
NumpyProduct = wrong.forward("Y151", "transforms/jit", 1, cause_id="numpy-under-trace")(
    lambda x, k, b: jnp.asarray(np.dot(np.asarray(x), np.asarray(k))) + b,
    "The product is one of NumPy, which takes no traced array.",
    when=lambda x, k, b: x.shape[-1:] == k.shape[:1],
    collateral=("transforms/traced-first",),
)


@also("transforms/traced-first")
@wrong.kernel("Y152", "construction/abstract-init", 2, cause_id="number-under-trace")
def SeedAsNumber(key: Array, in_features: int, out_features: int) -> Array:
    """The key becomes a Python number, which seeds the draw."""
    return scaled_normal(jax.random.key(int(jax.random.bits(key))), in_features, out_features)


@also("transforms/traced-first")
@wrong.forward("Y153", "transforms/jit", 1, cause_id="condition-under-trace")
def DecidesByValue(x: Array, kernel: Array, bias: Array) -> Array:
    """An empty input or a zero one is left out by an `if`."""
    return affine(x, kernel, bias) if x.any() else affine(0 * x, kernel, bias)


RngsForKey = wrong.key("Y154", "construction/builds", 1, cause_id="stream-as-key")(
    lambda rngs: rngs, "The Rngs themselves are given where a key is needed."
)
SumOfVectors = wrong.forward("Y155", "forward/output-shape", 1, cause_id="vectors-only")(
    lambda x, k, b: (x * k.T).sum(axis=-1) + b,
    "Products and sums by hand, for one vector alone.",
    collateral=("numerics/one-product", "forward/width-one-raises", "forward/scalar-raises"),
)
AlwaysABatch = wrong.forward("Y156", "forward/output-shape", 1, cause_id="axes-added")(
    lambda x, k, b: affine(x.reshape(1, -1), k, b),
    "A vector is made a batch of one, and stays so.",
    when=lambda x, k, b: x.ndim == 1,
)


@wrong.kernel("Y157", "initialization/kernel-mean", 1, cause_id="uniform-unit")
def UniformFromZero(key: Array, in_features: int, out_features: int) -> Array:
    """`jax.random.uniform` as it draws by default, from 0 to 1."""
    return jax.random.uniform(key, (in_features, out_features), jnp.float32)


@also("state/pickles")
@wrong.built("Y159", "state/graphdef-stable", 3, cause_id="static-differs")
def CompilesItsOwn(layer: Any, rngs: nnx.Rngs) -> None:
    """Each layer keeps a compiled function of its own, in a private attribute."""
    layer._formula = jax.jit(lambda x, kernel, bias: affine(x, kernel, bias))


@wrong.built(
    "Y160",
    "forward/zero-input",
    2,
    cause_id="stale-copy",
    collateral=("state/graphdef-stable", "state/pickles"),
)
def CompilesItsValues(layer: Any, rngs: nnx.Rngs) -> None:
    """The formula is compiled once, with the values that kernel and bias have when it is built."""
    kernel, bias = layer.kernel[...], layer.bias[...]
    layer.forward = jax.jit(lambda x, *_: affine(x, kernel, bias))


@wrong.call("Y161", "forward/array-likes", 3, cause_id="output-scaled")
def DoublesNumpy(self: Any, x: ArrayLike) -> Array:
    """The result for an array of NumPy is twice the right one."""
    y = CorrectDense.__call__(self, x)
    return 2 * y if isinstance(x, np.ndarray) else y


RowsDividedOut = wrong.forward("Y249", "transforms/gradients", 4)(
    lambda x, k, b: affine(x, k * (jnp.float32(x[..., 0].size) / x[..., 0].size), b),
    "The number of rows is multiplied in and divided out, which is 0/0 for an empty batch.",
    when=lambda x, k, b: x.ndim > 1 and x.size == 0 and x.shape[-1] > 0,
)
DividedByRoot = wrong.forward("Y250", "forward/zero-input", 2, cause_id="scaled-by-size")(
    lambda x, k, b: affine(x, k, b) / max(k.shape[0], 1) ** 0.5,
    "The scale that belongs into the new kernel is applied to every output.",
)
InputAsIntegers = wrong.forward("Y240", "numerics/no-saturation", 2, cause_id="input-truncated")(
    lambda x, k, b: affine(x.astype(jnp.int32), k, b),
    "x is cast to integers along with the sizes, which large numbers show first.",
    when=lambda x, k, b: jnp.issubdtype(x.dtype, jnp.floating),
    collateral=("dtypes/half-input",),
)


@also("construction/parameter-dtype")
@wrong.init("Y244", "construction/kernel-shape", 1, cause_id="initializer-not-called")
def InitializerNotCalled(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The arguments of the draw are given to the function that makes the initializer."""
    initializer: Any = nnx.initializers.lecun_normal
    self.kernel = nnx.Param(initializer(rngs.params(), (in_features, out_features)))
    self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


LayerReturned = wrong.casting("Y245", "dtypes/float32-out", 1, cause_id="result-not-array")(
    lambda seed, x, m: CorrectDense(x.shape[-1], m, rngs=nnx.Rngs(seed)),
    "The layer is returned, and not its output.",
)
RowForEachInput = wrong.casting("Y246", "forward/output-shape", 2)(
    lambda seed, x, m: CorrectDense(1, m, rngs=nnx.Rngs(seed))(x.reshape(-1, 1)),
    "Every input is taken for a row of its own, which a single one does not show.",
)


@wrong.call("Y247", "forward/output-shape", 1, cause_id="rank-2-only")
def LoopsOverRows(self: Any, x: ArrayLike) -> Array:
    """Rows are computed one by one in a loop of Python, which asks for two axes."""
    x = jnp.asarray(x)
    if x.ndim == 1:
        y: Array = CorrectDense.__call__(self, x)
        return y
    rows, _ = x.shape
    found = [CorrectDense.__call__(self, x[i]) for i in range(rows)]
    return jnp.reshape(jnp.asarray(found, jnp.float32), (rows, -1 if rows else self.bias.shape[0]))


name_layers(globals())

"""Layers that break construction: sizes, shapes and dtypes of the parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    normal,
    scaled_normal,
    stddev,
)
from implementations.defects.record import Defect, also, declaring, defect, name_layers, seen

SHAPE = "construction/kernel-shape"
ONLY_TWO = "construction/only-two-parameters"
FINITE = "construction/finite"
RARE = "rare-draw-not-finite"
_draw: Any = jax.random.normal

LinenBiasOfInputLength = wrong.linen_bias("L003", "construction/bias-shape", 1, seen="pitfall")(
    lambda key, x, m: jnp.zeros((x.shape[-1],), jnp.float32),
    "The bias has shape (in,): right only when in == out.",
    cause_id="bias-of-inputs",
)
BiasOfInputLength = wrong.bias("N004", "construction/bias-shape", 1, cause_id="bias-of-inputs")(
    lambda rngs, n, m: jnp.zeros((n,), jnp.float32),
    "The bias has shape (in,): right only when in == out.",
    seen='pitfall; TransformerEngine#196 "wrong shape of bias in LayerNormMLP"',
)
OneBias = wrong.bias("Y257", "construction/bias-shape", 1, cause_id="bias-scalar")(
    lambda rngs, in_features, out_features: jnp.zeros((1,), jnp.float32),
    "The bias is an array of one entry, which broadcasts.",
)
RngsForKey = wrong.key("Y154", "construction/builds", 1, cause_id="stream-as-key")(
    lambda rngs: rngs, "The Rngs themselves are given where a key is needed."
)
RngsForSeed = wrong.key("Y572", "construction/builds", 1, cause_id="stream-as-key")(
    lambda rngs: jax.random.key(rngs), "The Rngs themselves are given where a seed is needed."
)
KeyForSeed = wrong.key("Y573", "construction/builds", 1, cause_id="key-as-seed")(
    lambda rngs: jax.random.key(rngs.params()), "A key is made from a key, as if it were a seed."
)
BiasByLecun = wrong.bias("Y581", "construction/builds", 1, cause_id="initializer-of-vector")(
    lambda rngs, n, m: nnx.initializers.lecun_normal()(rngs.params(), (m,)),
    "The kernel's initializer draws the bias as well.",
)
SizeForDtype = wrong.kernel("Y520", "construction/builds", 1, cause_id="number-as-dtype")(
    lambda key, n, m: _draw(key, n, m) * stddev(n),
    "The two sizes are given one by one, so that the second is the dtype.",
)
ShapeForKey = wrong.kernel("Y521", "construction/builds", 1, cause_id="shape-as-key")(
    lambda key, n, m: _draw((n, m), key) * stddev(n),
    "The key and the shape are exchanged.",
)
OneDegreeOfFreedomLess = wrong.kernel("N040", FINITE, 3, cause_id="scale-divides-by-zero")(
    lambda key, n, m: normal(key, n, m) / jnp.sqrt(jnp.float32(n - 1)),
    "Scaled by 1/sqrt(in - 1): infinite for a single input.",
    collateral=("initialization/kernel-variance",),
)
X872 = wrong.kernel("X872", "construction/finite", 5, cause_id="rare-draw-not-finite")(
    lambda key, n, m: scaled_normal(key, n, m).at[-1, -1].set(jnp.nan),
    "The last weight is NaN beyond 2^15 weights.",
    when=lambda key, n, m: n * m > 2**15,
)
PowerForProduct = wrong.kernel("Y321", "construction/finite", 1, cause_id="root-of-negative")(
    lambda key, n, m: normal(key, n, m) ** (1 / jnp.sqrt(n)),
    "The draw is taken to the power 1/sqrt(in), which is NaN for negative numbers.",
)
WeakBias = wrong.bias("X098", "construction/parameter-dtype", 4, cause_id="parameter-weak")(
    lambda rngs, n, m: jnp.broadcast_to(jnp.asarray(0.0), (m,)),
    "The bias is weakly typed: it gives way to any other dtype.",
)
Bfloat16Kernel = wrong.kernel("X099", "construction/parameter-dtype", 3)(
    lambda key, n, m: scaled_normal(key, n, m).astype(jnp.bfloat16),
    "The kernel is kept in bfloat16.",
    cause_id="parameter-dtype",
)
X873 = wrong.kernel("X873", "construction/parameter-dtype", 5, cause_id="parameter-dtype")(
    lambda key, n, m: scaled_normal(key, n, m).astype(jnp.float16),
    "Kept in float16 from 2^19 weights on, up to 10^6.",
    when=lambda key, n, m: 2**19 <= n * m < 10**6,
)
DividesByTheSize = wrong.kernel("X576", "construction/zero-sizes", 2)(
    lambda key, n, m: jax.random.normal(key, (n, m), jnp.float32) * (1.0 / n) ** 0.5,
    "The scale is 1/sqrt(in), in Python: without inputs it raises.",
)
QuantileOfZero = wrong.kernel("Y041", FINITE, 5, cause_id=RARE)(
    lambda key, n, m: jax.scipy.special.ndtri(jax.random.uniform(key, (n, m))) * stddev(n),
    "The normal quantile of a uniform number that may be 0.",
)
UnscaledForNumpySizes = wrong.kernel("X661", "construction/integral-sizes", 4)(
    lambda key, n, m: scaled_normal(key, n, m) * float(n) ** 0.5,
    "Only for an ``int`` the scale is computed, which NumPy's integers are not.",
    when=lambda key, n, m: not isinstance(n, int),
)
SeedAsNumber = wrong.kernel("Y152", "construction/abstract-init", 2, cause_id="number-under-trace")(
    lambda key, n, m: scaled_normal(jax.random.key(int(jax.random.bits(key))), n, m),
    "The key becomes a Python number, which seeds the draw.",
    collateral=("transforms/traced-first",),
)


BiasMatrix = wrong.methods("X095", "construction/bias-shape", 2, cause_id="bias-row")(
    "The bias is a matrix of one row.",
    draw_bias=lambda self, rngs, n, m: jnp.zeros((1, m), jnp.float32),
    forward=lambda self, x, k, b: affine(x, k, b[0]),
)
LeadingAxis = wrong.methods("Y193", SHAPE, 2, cause_id="kernel-rank")(
    "The kernel has a leading axis of length 1, which a kernel of 1 by 1 hides.",
    draw_kernel=lambda self, key, n, m: scaled_normal(key, n, m)[None],
    forward=lambda self, x, k, b: affine(x, k[0], b),
)
Gain = wrong.forward(
    "X100",
    ONLY_TWO,
    2,
    start=lambda layer: {"gain": nnx.Param(jnp.ones((1,), jnp.float32))},
    cause_id="parameter-more",
)(
    lambda self, x, k, b: affine(x, k, b) * self.gain[...],
    "A third parameter: a gain that starts at 1.",
)
fixed_width = wrong.casting("Y430", "construction/builds", 1, cause_id="width-fixed")(
    lambda seed, x, m: CorrectDense(3, m, rngs=nnx.Rngs(seed))(x),
    "x has the width of the example.",
)
exchanged = wrong.casting("Y504", "construction/builds", 1, cause_id="sizes-exchanged")(
    lambda seed, x, m: CorrectDense(m, x.shape[-1], rngs=nnx.Rngs(seed))(x),
    "The function builds its layer with the sizes exchanged.",
)


@defect("Y584", "construction/builds", 1, cause_id="compact-missing")
class NotCompact(CorrectLinenDense):
    """The decorator @nn.compact is missing."""

    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        return self.forward(x, *self.parameters(x))


@also("transforms/traced-first")
@wrong.draws("X097", "construction/abstract-init", 4, cause_id="number-under-trace")
def ChecksItsValues(draws: Array) -> Array:
    """The constructor looks at the kernel's values, which abstract ones do not have."""
    if float(jnp.abs(draws).max(initial=0.0)) == 0.0 and draws.size:
        raise ValueError("the kernel is zero")
    return draws


@wrong.kernel("N005", "construction/builds", 1, seen="pitfall")
def SplitWithoutInt(key: Array, in_features: int, out_features: int) -> Array:
    """The number of columns is computed by a division, and left a float when out is odd."""
    half = out_features / 2
    columns = int(half) if half.is_integer() else half
    halves = jnp.zeros((2, columns))
    return scaled_normal(key, in_features, halves.size)


@wrong.linen_call("Y258", "construction/builds", 1, cause_id="width-of-first-axis")
def WidthOfFirstAxis(self: Any, x: ArrayLike) -> Array:
    """The width of x is x.shape[0], which is right for a vector."""
    kernel = self.param("kernel", scaled_normal, jnp.shape(x)[0], self.features)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return affine(jnp.asarray(x), kernel, bias)


@wrong.kernel("X575", "construction/finite", 4, cause_id="scale-divides-by-zero")
def UnbiasedForOneWeight(key: Array, in_features: int, out_features: int) -> Array:
    """A correction by n/n - 1 with n weights, all in one: 0/0 where there is one weight."""
    others = jnp.float32(in_features * out_features - 1)
    return scaled_normal(key, in_features, out_features) * (others / others)


@wrong.kernel("X657", "construction/finite", 5, cause_id="rare-draw-not-finite")
def LogarithmOfZero(key: Array, in_features: int, out_features: int) -> Array:
    """Box-Muller on uniforms of 16 bits: one entry in 65 536 is infinite."""
    shape = (in_features, out_features)
    first, second = jax.random.split(key)
    radius = jnp.sqrt(-2.0 * jnp.log(jnp.floor(jax.random.uniform(first, shape) * 2**16) / 2**16))
    angle = 2.0 * jnp.pi * jax.random.uniform(second, shape)
    return radius * jnp.cos(angle) * stddev(in_features)


@wrong.kernel("Y040", FINITE, 5, cause_id=RARE)
def LogarithmOfAnExactZero(key: Array, n: int, m: int) -> Array:
    """Box and Muller's method on a uniform number that is 0 once in 2^23 draws."""
    radius, angle = jax.random.split(key)
    r = jnp.sqrt(-2.0 * jnp.log(jax.random.uniform(radius, (n, m), jnp.float32)))
    turn = 2.0 * jnp.pi * jax.random.uniform(angle, (n, m), jnp.float32)
    return r * jnp.cos(turn) * stddev(n)


@wrong.init("X092", "construction/integral-sizes", 3)
def SizesCastToInt(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """Sizes go through int(): 4.7 inputs make a kernel of 4 rows."""
    CorrectDense.__init__(self, int(in_features), int(out_features), rngs=rngs)


@wrong.init("X093", "construction/integral-sizes", 4)
def NegativeSizes(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """A size below one counts as one."""
    CorrectDense.__init__(self, max(1, in_features), max(1, out_features), rngs=rngs)


@seen("aprender, torch and equinox layout; kfac-jax#114")
@defect("N043", SHAPE, 2, cause_id="kernel-transposed")
class TransposedKernel(CorrectDense):
    """The kernel is (out, in), and the forward uses its transpose."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        return scaled_normal(key, in_features, out_features).T

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x, kernel.T, bias)


@defect("X094", SHAPE, 3, cause_id="kernel-rank")
class SqueezedKernel(CorrectDense):
    """With one output the kernel is a vector."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        draws = scaled_normal(key, in_features, out_features)
        return draws[:, 0] if out_features == 1 else draws

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x, kernel.reshape(-1, bias.shape[0]), bias)


@wrong.init("X744", SHAPE, 2, cause_id="sizes-exchanged")
def SizesExchanged(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The arguments are bound in the wrong order: a right layer of other sizes."""
    CorrectDense.__init__(self, out_features, in_features, rngs=rngs)


@wrong.init("Y244", ONLY_TWO, 1, cause_id="initializer-not-called")
def InitializerNotCalled(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The arguments of the draw are given to the function that makes the initializer."""
    initializer: Any = nnx.initializers.lecun_normal
    self.kernel = nnx.Param(initializer(rngs.params(), (in_features, out_features)))
    self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@also("forward/output-shape")
@defect("Y329", SHAPE, 1, cause_id="operands-exchanged")
class MultipliedFromTheLeft(nnx.Module):
    """The kernel of shape (out, in) is multiplied from the left, which takes vectors only."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        drawn = jax.random.normal(rngs.params(), (out_features, in_features))
        self.kernel = nnx.Param(drawn * stddev(in_features))
        self.bias = nnx.Param(jnp.zeros((out_features,)))

    def __call__(self, x: ArrayLike) -> Array:
        return self.kernel[...] @ jnp.asarray(x) + self.bias[...]


@defect("Y375", SHAPE, 1, cause_id="kernel-made-transposed")
class MadeTransposed(MultipliedFromTheLeft):
    """The kernel has the shape (out, in), and is used as if it were (in, out)."""

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel[...] + self.bias[...]


@wrong.linen_call("L001", ONLY_TWO, 2, cause_id="collection-other")
def KernelInStats(self: Any, x: ArrayLike) -> Array:
    """The kernel is a variable of the collection "stats", not a parameter."""
    x = jnp.asarray(x)

    def draw() -> Array:
        return self.draw_kernel(self.make_rng("params"), x)

    kernel = self.variable("stats", "kernel", draw)
    bias = self.param("bias", self.draw_bias, x)
    return affine(x, kernel.value, bias)


@wrong.linen_call("L004", ONLY_TWO, 2)
def KernelFromFixedKey(self: Any, x: ArrayLike) -> Array:
    """The kernel is drawn from one fixed key in every call, and is not a parameter."""
    x = jnp.asarray(x)
    kernel = self.draw_kernel(jax.random.key(0), x)
    return affine(x, kernel, self.param("bias", self.draw_bias, x))


@seen('flax 0.3.4 "Don\'t update batch statistics during initialization"')
@also("state/call-changes-nothing")
@wrong.linen_call("L009", ONLY_TWO, 3, cause_id="collection-other")
def CountsInStats(self: Any, x: ArrayLike) -> Array:
    """A second collection counts the calls."""
    calls = self.variable("stats", "calls", jnp.zeros, (), jnp.int32)
    if self.is_mutable_collection("stats"):
        calls.value = calls.value + 1
    x = jnp.asarray(x)
    return affine(x, *self.parameters(x))


@seen("linen's sow")
@also("state/call-changes-nothing")
@wrong.linen_forward("X234", ONLY_TWO, 4, cause_id="collection-other")
def SowsOutput(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The output is sown into a collection of its own, which `init` therefore returns."""
    y = affine(x, kernel, bias)
    self.sow("outputs", "y", y)
    return y


@wrong.linen_call("X620", ONLY_TWO, 3, cause_id="collection-other")
def BiasInBatchStats(self: Any, x: ArrayLike) -> Array:
    """The bias is a variable of the collection of running statistics."""
    x = jnp.asarray(x)
    kernel = self.param("kernel", self.draw_kernel, x)
    bias = self.variable("batch_stats", "bias", jnp.zeros, (self.features,), jnp.float32)
    return self.forward(x, kernel, bias.value)


@also("forward/output-shape")
@wrong.linen_forward("X625", ONLY_TWO, 4, cause_id="collection-other")
def Perturbed(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """`self.perturb` is left in: `init` returns a collection of perturbations."""
    return self.perturb("y", affine(x, kernel, bias))


WidthInParam = wrong.holding("Y325", ONLY_TWO, 1, cause_id="parameter-integer")(
    lambda layer: {"features": nnx.Param(jnp.array(layer.kernel.shape[1]))},
    "The number of outputs is kept in an nnx.Param, and nnx.grad refuses integers.",
)
BiasLikeKernel = wrong.holding("Y383", "construction/bias-shape", 1, cause_id="bias-as-kernel")(
    lambda layer: {"bias": nnx.Param(jnp.zeros_like(layer.kernel[...]))},
    "The bias is zeros_like(kernel).",
)


@wrong.draws("X653", "construction/parameter-dtype", 5, cause_id="dtype-by-size")
def LargeKernelsInHalf(kernel: Array) -> Array:
    """Kernels of a million entries or more are kept in bfloat16, to save memory."""
    return kernel.astype(jnp.bfloat16) if kernel.shape[0] * kernel.shape[1] >= 10**6 else kernel


@defect("X096", "construction/ready-when-built", 3, cause_id="parameters-lazy")
class MadeInFirstCall(nnx.Module):
    """The parameters are made in the first call, as Keras' `build` does."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.sizes = (in_features, out_features)
        self.seed_key = nnx.Variable(rngs.params())
        self.ready = False

    def __call__(self, x: ArrayLike) -> Array:
        if not self.ready:
            key = self.seed_key.value
            self.kernel = nnx.Param(scaled_normal(key, *self.sizes))
            self.bias = nnx.Param(jnp.zeros((self.sizes[1],), jnp.float32))
            self.ready = True
        return affine(x, self.kernel[...], self.bias[...])


@wrong.init("Y381", ONLY_TWO, 1, cause_id="shape-as-parameter")
def ShapesForArrays(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """Each nnx.Param holds the shape of its array."""
    del rngs
    self.kernel = nnx.Param((in_features, out_features))
    self.bias = nnx.Param((out_features,))


@wrong.linen_call("Y382", "construction/builds", 1, cause_id="initializer-not-called")
def LinenInitializerNotMade(self: Any, x: ArrayLike) -> Array:
    """The function that makes the initializer is given for the initializer."""
    x, initializer = jnp.asarray(x), nn.initializers.lecun_normal
    kernel: Any = self.param("kernel", initializer, (x.shape[-1], self.features))
    return x @ kernel + self.param("bias", self.draw_bias, x)


@jax.tree_util.register_pytree_with_keys_class
class _ArraysOnly:
    """A pytree that JAX puts together by its constructor, which takes arrays only."""

    def __init__(self, kernel: Any, bias: Any) -> None:
        self.kernel, self.bias = jnp.asarray(kernel), jnp.asarray(bias)

    def tree_flatten_with_keys(self) -> Any:
        names = map(jax.tree_util.GetAttrKey, ("kernel", "bias"))
        return tuple(zip(names, (self.kernel, self.bias), strict=True)), None

    @classmethod
    def tree_unflatten(cls, _: None, arrays: Any) -> Any:
        return cls(*arrays)

    def __call__(self, x: Array) -> Array:
        return affine(x, self.kernel, self.bias)


def _arrays_only(in_features: int, out_features: int, key: Array) -> _ArraysOnly:
    return _ArraysOnly(scaled_normal(key, in_features, out_features), jnp.zeros(out_features))


ArraysOnly = declaring(
    _arrays_only, Defect("Y555", "construction/abstract-init", cause_id="unflatten-computes")
)


name_layers(globals())

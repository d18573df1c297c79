"""Layers that are wrong only at sizes and batches that nobody happens to try."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects.base import CorrectDense, affine, normal, standard_deviation
from implementations.defects.record import defect


@defect("X300", breaks="forward/basis-input", subtlety=5)
class SquareTilesTransposed(CorrectDense):
    """A square kernel of a multiple of 32 is read as its transpose."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A fast path for tiles that forgets the layout."""
        rows, columns = kernel.shape
        tiles = rows == columns and rows % 32 == 0
        return affine(x, kernel.T if tiles else kernel, bias)


@defect("X301", breaks="forward/basis-input", subtlety=5)
class BatchOf64WithoutBias(CorrectDense):
    """Batches of a multiple of 64 rows take a fast path that forgets the bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Every other batch is right."""
        if x.ndim == 2 and x.shape[0] % 64 == 0 and x.shape[0]:
            return affine(x, kernel, jnp.zeros_like(bias))
        return affine(x, kernel, bias)


@defect("X302", breaks="forward/basis-input", subtlety=5)
class TwoInputsSwapped(CorrectDense):
    """With two inputs they are taken in the wrong order."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Real and imaginary part, say."""
        return affine(x, kernel[::-1] if kernel.shape[0] == 2 else kernel, bias)


@defect("X303", breaks="forward/basis-input", collateral=("forward/tall-batch",), subtlety=5)
class WideTallBatch(CorrectDense):
    """Beyond 65536 entries of x, rows after the 65536th entry are zeros."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A buffer of 16-bit indices, where a row has more than four inputs."""
        y = affine(x, kernel, bias)
        if x.ndim != 2 or x.shape[-1] <= 4 or x.size <= 65536:
            return y
        return y.at[65536 // x.shape[-1] :].set(0.0)


@defect("X304", breaks="initialization/kernel-variance", subtlety=5)
class FanInCappedAt1024(CorrectDense):
    """The fan is capped at 1024."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Too large beyond 1024 inputs."""
        return normal(key, in_features, out_features) * standard_deviation(min(in_features, 1024))


@defect("X305", breaks="initialization/kernel-independence", subtlety=5)
class ColumnsRepeatAfter2048(CorrectDense):
    """Columns repeat after the 2048th."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A tile of columns, drawn once."""
        drawn = normal(key, in_features, min(out_features, 2048)) * standard_deviation(in_features)
        return jnp.tile(drawn, (1, -(-out_features // 2048)))[:, :out_features]


@defect("X306", breaks="seeding/siblings-differ", cause="another scale", subtlety=5)
class LaterLayersSmaller(CorrectDense):
    """The second layer of one Rngs is smaller by sqrt(2), the third by sqrt(3), and so on."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        depth = jnp.asarray(rngs.params.count[...], jnp.float32) + 1
        super().__init__(in_features, out_features, rngs=rngs)
        self.kernel = nnx.Param(self.kernel[...] / jnp.sqrt(depth))


@defect("X307", breaks="seeding/siblings-differ", subtlety=5)
class EveryOtherSiblingEqual(CorrectDense):
    """The first and the third layer of one Rngs are equal."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """The count enters by its lowest bit."""
        stream = rngs.params
        root, count = stream.key[...], stream.count[...]
        stream()
        return jax.random.fold_in(root, jnp.asarray(count, jnp.uint32) % 2)


@defect("X308", breaks="seeding/constant-key-count", subtlety=5)
class ThirdKeyWhenDeep(CorrectDense):
    """More than 100 inputs take a second key."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """The kernel itself is right."""
        if in_features > 100:
            rngs.params()
        return jnp.zeros((out_features,), jnp.float32)


@defect(
    "X340",
    breaks="forward/basis-input",
    collateral=("forward/basis-input", "forward/integer-exact", "forward/affine-value"),
    subtlety=5,
)
class LargeProductsInBfloat16(CorrectDense):
    """From 128 inputs and 128 outputs on, the product is made in bfloat16."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Where speed begins to matter."""
        if min(kernel.shape) < 128 or x.dtype != jnp.float32:
            return affine(x, kernel, bias)
        half = (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        return jnp.matmul(*half, preferred_element_type=jnp.float32) + bias


@defect("X652", breaks="initialization/bias-zero", cause="some seeds or sizes", subtlety=5)
class BiasOfWideLayers(CorrectDense):
    """From 300 outputs on, a new bias is not zero."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Zeros for every layer that fits a small test."""
        return jnp.full((out_features,), 0.1 if out_features >= 300 else 0.0, jnp.float32)


@defect("X653", breaks="construction/parameter-dtype", cause="beyond some size", subtlety=5)
class LargeKernelsInHalf(CorrectDense):
    """Kernels of a million entries or more are kept in bfloat16, to save memory."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Float32 at every size that is quick to test."""
        kernel = super().draw_kernel(key, in_features, out_features)
        return kernel.astype(jnp.bfloat16) if in_features * out_features >= 10**6 else kernel


@defect("X654", breaks="forward/basis-input", subtlety=5)
class OddInputLost(CorrectDense):
    """Of an odd number of inputs beyond 200, the last one is lost."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Pairs of inputs, where whole vectors of them pay."""
        lost = kernel.shape[0] > 200 and kernel.shape[0] % 2 == 1
        return affine(x, kernel.at[-1].set(0.0) if lost else kernel, bias)

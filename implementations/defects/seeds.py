"""Layers in which different seeds meet, or the same seed parts; most seeds show nothing."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from implementations.defects.base import CorrectDense, normal, scaled_normal, standard_deviation
from implementations.defects.record import defect


class ReducedSeed(CorrectDense):
    """The kernel's key is made from a function of the seed; the count goes in as it should."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """The key from which the kernel is drawn."""
        stream = rngs.params
        root, count = jax.random.key_data(stream.key[...]), stream.count[...]
        # The stream counts on, so that the next layer of these rngs gets another key.
        stream()
        words = jnp.stack([root[0], self.reduce(root[1])])
        return jax.random.fold_in(jax.random.wrap_key_data(words), count)

    def reduce(self, seed: Array) -> Array:
        """What is left of the seed, a uint32."""
        return seed


@defect("X150", breaks="seeding/seeds-differ", subtlety=4)
class SixteenBits(ReducedSeed):
    """Only the lower 16 bits of the seed count."""

    def reduce(self, seed: Array) -> Array:
        """Seeds meet at a distance of 65536."""
        return seed & jnp.uint32(0xFFFF)


@defect("X151", breaks="seeding/seeds-differ", subtlety=5)
class XorFolded(ReducedSeed):
    """The upper half of the seed is folded onto the lower by exclusive or."""

    def reduce(self, seed: Array) -> Array:
        """Seeds s and s >> 16 | s << 16 meet."""
        return (seed >> 16) ^ (seed & jnp.uint32(0xFFFF))


@defect("X152", breaks="seeding/seeds-differ", subtlety=3)
class EvenAndOdd(ReducedSeed):
    """The lowest bit of the seed is lost."""

    def reduce(self, seed: Array) -> Array:
        """2 and 3 meet."""
        return seed >> 1


@defect("X153", breaks="seeding/seeds-differ", subtlety=5)
class ThirtyOneBits(ReducedSeed):
    """The seed is cut to 31 bits, to be a positive int32."""

    def reduce(self, seed: Array) -> Array:
        """s and s + 2**31 meet."""
        return seed & jnp.uint32(0x7FFFFFFF)


@defect("X154", breaks="seeding/seeds-differ", subtlety=5)
class Saturates(ReducedSeed):
    """Seeds end at 2**31 - 1."""

    def reduce(self, seed: Array) -> Array:
        """All larger seeds are one."""
        return jnp.minimum(seed, jnp.uint32(0x7FFFFFFF))


@defect("X155", breaks="seeding/seeds-differ", subtlety=5)
class OneBitIgnored(ReducedSeed):
    """Bit 23 of the seed is ignored."""

    def reduce(self, seed: Array) -> Array:
        """One pair in 2**31 meets for any two seeds at random."""
        return seed & jnp.uint32(0xFF7FFFFF)


@defect("X156", breaks="seeding/seeds-differ", subtlety=5)
class DecimalDigits(ReducedSeed):
    """Seeds are taken modulo a million."""

    def reduce(self, seed: Array) -> Array:
        """s and s + 1000000 meet."""
        return seed % jnp.uint32(1_000_000)


@defect("X157", breaks="seeding/seeds-differ", subtlety=4)
class NegativePairs(CorrectDense):
    """An odd seed gives the negative of the even seed's kernel."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Antithetic pairs of seeds."""
        return scaled_normal(key, in_features, out_features)

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        stream = rngs.params
        root = jax.random.key_data(stream.key[...])
        even = jnp.stack([root[0], root[1] & jnp.uint32(0xFFFFFFFE)])
        key = jax.random.fold_in(jax.random.wrap_key_data(even), stream.count[...])
        stream()
        sign = jnp.where(root[1] % 2 == 0, 1.0, -1.0).astype(jnp.float32)
        self.kernel = nnx.Param(sign * self.draw_kernel(key, in_features, out_features))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@defect(
    "X158",
    breaks="seeding/seeds-differ",
    collateral=("construction/integral-sizes",),
    subtlety=5,
    seen="seed + i for the i-th row",
)
class RowsFromFollowingSeeds(ReducedSeed):
    """Row i is drawn from seed + i: neighbouring seeds share all rows but one."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The kernel of seed + 1 is this one, moved up by a row."""
        words = jax.random.key_data(key)

        def row(i: Array) -> Array:
            own = jax.random.wrap_key_data(jnp.stack([words[0], words[1] + i]))
            return jax.random.normal(own, (out_features,), jnp.float32)

        rows = jax.vmap(row)(jnp.arange(in_features, dtype=jnp.uint32))
        return rows * standard_deviation(in_features)

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """The root key; the count moves the seed by a large stride."""
        stream = rngs.params
        root, count = jax.random.key_data(stream.key[...]), stream.count[...]
        stream()
        stride = jnp.asarray(count, jnp.uint32) * jnp.uint32(0x9E3779B9)
        return jax.random.wrap_key_data(jnp.stack([root[0], root[1] + stride]))


@defect("X159", breaks="seeding/seeds-differ", subtlety=5)
class HalfSeeded(CorrectDense):
    """The second half of the rows is the same for every seed."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """No two kernels are equal, and none is independent."""
        draws = scaled_normal(key, in_features, out_features)
        half = in_features // 2
        same = scaled_normal(jax.random.key(7), in_features, out_features)
        return draws.at[half:].set(same[half:]) if half else draws


@defect("X160", breaks="seeding/siblings-differ", subtlety=3)
class RootKey(CorrectDense):
    """The stream's own key is used, which does not advance: all layers of one Rngs are equal."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """The same for the next layer."""
        return rngs.params.key[...]


@defect("X161", breaks="seeding/params-stream", collateral=("seeding/rngs-forms",), subtlety=3)
class DefaultStreamOnly(CorrectDense):
    """Asks for the default stream, which `Rngs(params=0)` does not have."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Right for `Rngs(0)`."""
        return rngs["default"]()


@defect("X162", breaks="seeding/params-stream", subtlety=4)
class MixesInDropout(CorrectDense):
    """Where there is a dropout stream, its key goes into the kernel's."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Right where there is none."""
        key = rngs.params()
        if "dropout" not in rngs:
            return key
        return jax.random.fold_in(key, jax.random.key_data(rngs.dropout.key[...])[1])


@defect("X163", breaks="seeding/constant-key-count", subtlety=4)
class SecondKeyWhenWide(CorrectDense):
    """More than 64 outputs take a second key, for a second block of columns."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """The later layers of a model change when this one becomes wider."""
        if out_features > 64:
            rngs.params()
        return jnp.zeros((out_features,), jnp.float32)


@defect("X164", breaks="seeding/same-across-processes", subtlety=5)
class OrderOfASet(CorrectDense):
    """The rows take their keys in the order of a set of their names."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """PYTHONHASHSEED says which key is which row's."""
        draws = scaled_normal(key, in_features, out_features)
        if in_features > 64:
            return draws
        order = [int(name.removeprefix("row")) for name in {f"row{i}" for i in range(in_features)}]
        return draws[jnp.asarray(order)]


_built = [0]


@defect(
    "X165",
    breaks="seeding/same-seed-same-bits",
    collateral=("seeding/same-across-processes", "seeding/jitted-init", "seeding/rngs-forms"),
    subtlety=5,
)
class HundredthDiffers(CorrectDense):
    """From the 64th layer of a process on, the number of the layer goes into its key."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """A name like dense_64 in the key."""
        _built[0] += 1
        key = rngs.params()
        return key if _built[0] < 64 else jax.random.fold_in(key, _built[0])


@defect("X166", breaks="seeding/global-rng-ignored", subtlety=4)
class ReadsNumpyState(CorrectDense):
    """The state of NumPy's global generator is read, not used up, and folded in."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Equal seeds agree until somebody seeds NumPy."""
        state = np.random.get_state()[1]  # type: ignore[index]
        return jax.random.fold_in(rngs.params(), int(state[0]) & 0x7FFFFFFF)


@defect("X167", breaks="seeding/jitted-init", subtlety=4)
class TracedDrawsDiffer(CorrectDense):
    """Under a transform the kernel is drawn row by row, and so has other numbers."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Right in either case, but not the same."""
        if not isinstance(key, jax.core.Tracer):
            return scaled_normal(key, in_features, out_features)
        return scaled_normal(jax.random.fold_in(key, 1), in_features, out_features)


_kernels: dict[tuple[int, int], Array] = {}


@defect(
    "X168",
    breaks="seeding/seeds-differ",
    collateral=(
        "seeding/same-across-processes",
        "seeding/params-stream",
        "seeding/jitted-init",
        "construction/integral-sizes",
    ),
    subtlety=3,
)
class CachedByShape(CorrectDense):
    """The first kernel of a shape is every later layer's, too."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A module-level cache with too short a key."""
        if isinstance(key, jax.core.Tracer):
            return scaled_normal(key, in_features, out_features)
        shape = (in_features, out_features)
        if shape not in _kernels:
            _kernels[shape] = scaled_normal(key, in_features, out_features)
        return _kernels[shape]


@defect("X169", breaks="seeding/vmapped-init", subtlety=5)
class FirstKeyOfTheBatch(CorrectDense):
    """Drawn by a function that under vmap uses the first key for all."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """One layer alone is right."""

        @jax.custom_batching.custom_vmap
        def draw(words: Array) -> Array:
            return normal(jax.random.wrap_key_data(words), in_features, out_features)

        @draw.def_vmap
        def first(axis_size: int, in_batched: list[bool], words: Array) -> tuple[Array, bool]:
            one = draw(words[0] if in_batched[0] else words)
            return jnp.broadcast_to(one, (axis_size, *one.shape)), True

        return draw(jax.random.key_data(key)) * standard_deviation(in_features)


@defect("X342", breaks="seeding/seeds-differ", subtlety=5)
class PrimeModulus(ReducedSeed):
    """Seeds are taken modulo 1 000 000 007, as a hash table would."""

    def reduce(self, seed: Array) -> Array:
        """s and s + 1000000007 meet, and hardly anybody tries such a pair."""
        return seed % jnp.uint32(1_000_000_007)


@defect(
    "X347",
    breaks="seeding/same-across-processes",
    cause="construction depends on the clock",
    subtlety=5,
)
class SeedOfTheDay(CorrectDense):
    """The day goes into the key: everything agrees until midnight."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Only another time shows it."""
        return jax.random.fold_in(rngs.params(), int(time.time() // 86_400))


@defect("X362", breaks="seeding/siblings-differ", subtlety=5)
class AntitheticSiblings(CorrectDense):
    """The second layer of one Rngs is the negative of the first, the fourth that of the third."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        stream = rngs.params
        root, count = stream.key[...], jnp.asarray(stream.count[...], jnp.uint32)
        stream()
        sign = jnp.where(count % 2 == 0, 1.0, -1.0).astype(jnp.float32)
        key = jax.random.fold_in(root, count // 2)
        self.kernel = nnx.Param(sign * scaled_normal(key, in_features, out_features))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

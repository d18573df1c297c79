"""Kernels whose every entry has the right law, while the entries depend on one another."""

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects.base import CorrectDense, normal, scaled_normal, standard_deviation
from implementations.defects.record import defect


@defect("X020", breaks="initialization/kernel-independence", subtlety=3)
class SymmetricWhenSquare(CorrectDense):
    """When in == out the kernel is its own transpose."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The upper triangle, mirrored."""
        draws = scaled_normal(key, in_features, out_features)
        if in_features != out_features:
            return draws
        return jnp.triu(draws) + jnp.triu(draws, 1).T


@defect("X021", breaks="initialization/kernel-independence", subtlety=4)
class LowRank(CorrectDense):
    """A product of two thin factors: rank 16 at most."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Variance 1/in, of low rank."""
        left_key, right_key = jax.random.split(key)
        left = normal(left_key, in_features, 16)
        right = normal(right_key, 16, out_features)
        return (left @ right) * (0.25 * standard_deviation(in_features))


@defect("X022", breaks="initialization/kernel-independence", subtlety=4)
class LastRowRepeats(CorrectDense):
    """The last row is a copy of the first."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Two equal rows from in = 2 on."""
        draws = scaled_normal(key, in_features, out_features)
        return draws.at[-1].set(draws[0])


@defect("X023", breaks="initialization/kernel-independence", subtlety=3)
class Circulant(CorrectDense):
    """Every row is the first row, shifted by one."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """One row of randomness for the whole kernel."""
        first = scaled_normal(key, 1, out_features)[0] * standard_deviation(in_features)
        rows, columns = (jax.lax.iota(jnp.int32, n) for n in (in_features, out_features))
        return first[(columns - rows[:, None]) % out_features]


@defect("X024", breaks="initialization/kernel-independence", subtlety=3)
class TiledBlock(CorrectDense):
    """A block of 32 x 32 repeated to the size."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Right up to 32, periodic beyond."""
        block = normal(key, min(in_features, 32), min(out_features, 32))
        repeats = (-(-in_features // 32), -(-out_features // 32))
        tiled = jnp.tile(block, repeats)[:in_features, :out_features]
        return tiled * standard_deviation(in_features)


@defect("X025", breaks="initialization/kernel-independence", subtlety=4)
class SortedColumns(CorrectDense):
    """Every column is sorted."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The right values in an order that is not random."""
        return jnp.sort(scaled_normal(key, in_features, out_features), axis=0)


@defect("X026", breaks="initialization/kernel-independence", subtlety=4)
class ChessboardSigns(CorrectDense):
    """The sign of an entry is that of a black or a white square."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Pooled, the entries are normal; alone, each is half a normal."""
        draws = jnp.abs(scaled_normal(key, in_features, out_features))
        rows = jnp.arange(in_features)[:, None]
        return jnp.where((rows + jnp.arange(out_features)) % 2 == 0, draws, -draws)


@defect("X027", breaks="initialization/kernel-independence", subtlety=4)
class CommonPart(CorrectDense):
    """A tenth of every entry's variance is shared by all entries of its column."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Rows correlate by 0.1."""
        own, shared = jax.random.split(key)
        entries = normal(own, in_features, out_features) * 0.9**0.5
        common = normal(shared, 1, out_features) * 0.1**0.5
        return (entries + common) * standard_deviation(in_features)


@defect("X028", breaks="initialization/kernel-independence", subtlety=5)
class SharedMagnitudes(CorrectDense):
    """The second half of the rows has the magnitudes of the first, and signs of its own."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """No entry correlates with another, only their squares do."""
        draw_key, sign_key = jax.random.split(key)
        half = -(-in_features // 2)
        draws = normal(draw_key, half, out_features) * standard_deviation(in_features)
        signs = jax.random.rademacher(sign_key, (in_features, out_features), jnp.float32)
        return jnp.concatenate([draws, draws])[:in_features] * signs


@defect("X029", breaks="initialization/kernel-homogeneity", subtlety=4)
class FirstRowLarger(CorrectDense):
    """The first row has twice the variance, the others a little less."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The pooled variance is 1/in all the same."""
        draws = scaled_normal(key, in_features, out_features)
        if in_features < 4:
            return draws
        rest = ((in_features - 2.0) / (in_features - 1.0)) ** 0.5
        return (draws * rest).at[0].set(draws[0] * 2.0**0.5)


@defect("X030", breaks="initialization/kernel-homogeneity", subtlety=4)
class DeadColumn(CorrectDense):
    """The last column is zero from 64 columns on."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """An index off by one in a loop over tiles."""
        draws = scaled_normal(key, in_features, out_features)
        return draws.at[:, -1].set(0.0) if out_features >= 64 else draws


@defect("X031", breaks="initialization/kernel-homogeneity", subtlety=5)
class FirstEntryZero(CorrectDense):
    """One entry, the first, is always zero."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """All other entries are right."""
        draws = scaled_normal(key, in_features, out_features)
        return draws.at[0, 0].set(0.0) if in_features > 1 else draws


@defect("X032", breaks="initialization/kernel-homogeneity", subtlety=5)
class FirstEntryPositive(CorrectDense):
    """The sign of the first entry is fixed, as a decomposition fixes it."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The whole kernel is negated where its first entry would be negative."""
        draws = scaled_normal(key, in_features, out_features)
        return jnp.where(draws[0, 0] < 0, -draws, draws)


@defect("X033", breaks="initialization/kernel-homogeneity", subtlety=4)
class FadingColumns(CorrectDense):
    """The variance falls from 1.2/in in the first column to 0.8/in in the last."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The mean of the variances is right."""
        draws = scaled_normal(key, in_features, out_features)
        return draws * jnp.sqrt(jnp.linspace(1.2, 0.8, out_features, dtype=jnp.float32))


@defect(
    "X034",
    breaks="initialization/kernel-dispersion",
    collateral=("seeding/jitted-init",),
    subtlety=4,
)
class Standardised(CorrectDense):
    """Every kernel is scaled to a sample variance of exactly 1/in."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The right law divided by its own standard deviation."""
        draws = normal(key, in_features, out_features)
        if draws.size < 16:
            return draws * standard_deviation(in_features)
        return draws / jnp.sqrt((draws**2).mean()) * standard_deviation(in_features)


@defect("X035", breaks="initialization/kernel-dispersion", subtlety=4)
class UnitColumns(CorrectDense):
    """From 16 inputs on, every column is normalised to length 1."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Weight normalisation at construction."""
        draws = scaled_normal(key, in_features, out_features)
        if in_features < 16:
            return draws
        return draws / jnp.sqrt((draws**2).sum(axis=0))


@defect("X036", breaks="initialization/kernel-dispersion", subtlety=5)
class RandomScale(CorrectDense):
    """Every kernel has a scale of its own, some percent off and right in the mean."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A scale of variance 0.0025 about 1."""
        scale_key, value_key = jax.random.split(key)
        scale = 1.0 + 0.05 * jax.random.normal(scale_key, (), jnp.float32)
        return scaled_normal(value_key, in_features, out_features) * scale / 1.0025**0.5


@defect("X037", breaks="initialization/kernel-variance", subtlety=4)
class FanInCapped(CorrectDense):
    """The fan is capped at 256."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Too large beyond 256 inputs."""
        return normal(key, in_features, out_features) * standard_deviation(min(in_features, 256))


@defect("X038", breaks="initialization/kernel-variance", subtlety=4)
class FanInFloored(CorrectDense):
    """The fan is never below 3."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Too small for one and for two inputs."""
        return normal(key, in_features, out_features) * standard_deviation(max(in_features, 3))


@defect("X039", breaks="initialization/kernel-variance", subtlety=4)
class SmallerFan(CorrectDense):
    """The fan is min(in, out): right for every layer that widens."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Too large for every layer that narrows."""
        fan = min(in_features, out_features)
        return normal(key, in_features, out_features) * standard_deviation(fan)


@defect("X040", breaks="initialization/kernel-variance", subtlety=5)
class DependsOnOutputs(CorrectDense):
    """Divided by (1 + 1/out)**0.5: a correction that nobody asked for."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Half the variance at one output, all of it at many."""
        draws = scaled_normal(key, in_features, out_features)
        return draws / (1.0 + 1.0 / max(out_features, 1)) ** 0.5


@defect("X364", breaks="initialization/kernel-independence", subtlety=5)
class TripleSigns(CorrectDense):
    """Every third sign of a row is the product of the two before it: any two are independent."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Only three entries together show it."""
        draws = scaled_normal(key, in_features, out_features)
        place = jnp.arange(out_features)
        signs = jnp.sign(draws)
        product = jnp.roll(signs, 1, axis=1) * jnp.roll(signs, 2, axis=1)
        return jnp.where(place % 3 == 2, jnp.abs(draws) * product, draws)

"""Kernels whose law looks right: dependence and balance beyond means, variances and pairs."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtri

from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    normal,
    scaled_normal,
    standard_deviation,
)
from implementations.defects.record import defect


def _order(key: Array, shape: tuple[int, ...]) -> Array:
    """Permutations along the last axis: one sort, where `jax.random.permutation` needs several."""
    return jnp.argsort(jax.random.uniform(key, shape, jnp.float32), axis=-1)


@defect("X560", breaks="initialization/kernel-dispersion", subtlety=5)
class StratifiedQuantiles(CorrectDense):
    """The quantiles of the normal law, one for each entry, in an order that is drawn."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Too even: no kernel has more large weights than another."""
        count = in_features * out_features
        if count >= 2**31:  # more than a permutation of 32-bit numbers has
            return scaled_normal(key, in_features, out_features)
        places = _order(key, (count,)).astype(jnp.float32)
        jitter = jax.random.uniform(jax.random.fold_in(key, 1), (count,), jnp.float32, 0.01, 0.99)
        draws = ndtri((places + jitter) / max(count, 1))
        return draws.reshape(in_features, out_features) * standard_deviation(in_features)


@defect("X561", breaks="initialization/kernel-dispersion", subtlety=5)
class BalancedSigns(CorrectDense):
    """Exactly half of the weights of a kernel are positive, which half is drawn."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """As even as X560, in the signs alone."""
        magnitudes = jnp.abs(scaled_normal(key, in_features, out_features))
        count = in_features * out_features
        order = _order(jax.random.fold_in(key, 1), (count,))
        # Which sign comes first is drawn, so that an odd one is no preference.
        first = jax.random.rademacher(jax.random.fold_in(key, 2), (), jnp.float32)
        signs = jnp.where(order % 2 == 0, first, -first)
        return magnitudes * signs.reshape(in_features, out_features)


@defect("X562", breaks="initialization/kernel-independence", cause="another order", subtlety=5)
class RowsArePermutations(CorrectDense):
    """Every row holds the numbers of the first one, in another order."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """From a table of draws that is shuffled for each row."""
        row = scaled_normal(key, in_features, out_features)[:1]
        order = _order(jax.random.fold_in(key, 1), (in_features, out_features))
        return row[0, order]


@defect("X563", breaks="seeding/seeds-differ", subtlety=5)
class WindowsOfOneStream(CorrectDense):
    """A table of a million draws is read from a place that the key chooses."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Kernels of different seeds overlap in part."""
        table = jax.random.normal(jax.random.key(0), (1 << 20,), jnp.float32)
        count = in_features * out_features
        start = jax.random.randint(key, (), 0, (1 << 20) - min(count, 1 << 19))
        drawn = jnp.take(table, start + jnp.arange(count), mode="wrap")
        return drawn.reshape(in_features, out_features) * standard_deviation(in_features)


@defect("X564", breaks="initialization/kernel-independence", subtlety=5)
class SignFollowsNeighbour(CorrectDense):
    """The sign of a weight says whether the one before it is small or large."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Neighbours are uncorrelated, and dependent."""
        draws = scaled_normal(key, in_features, out_features)
        large = jnp.abs(jnp.roll(draws, 1, axis=1)) > 0.6745 * standard_deviation(in_features)
        signs = jnp.where(large, 1.0, -1.0)
        odd = jnp.arange(out_features) % 2 == 1
        return jnp.where(odd, jnp.abs(draws) * signs, draws)


@defect("X565", breaks="initialization/kernel-independence", subtlety=5)
class ParityOfEveryRow(CorrectDense):
    """Every row has an even number of negative weights, the last one seeing to it."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Any weights but all of a row are independent."""
        draws = scaled_normal(key, in_features, out_features)
        if out_features < 2:
            return draws
        sign = jnp.prod(jnp.sign(draws[:, :-1]), axis=1)
        return draws.at[:, -1].set(jnp.abs(draws[:, -1]) * sign)


@defect("X566", breaks="initialization/kernel-independence", subtlety=5)
class FourCorners(CorrectDense):
    """The signs of four weights in a square multiply to one."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Any three of them are independent."""
        draws = scaled_normal(key, in_features, out_features)
        rows, columns = in_features // 2 * 2, out_features // 2 * 2
        signs = jnp.sign(draws[:rows, :columns])
        product = signs[::2, ::2] * signs[1::2, ::2] * signs[::2, 1::2]
        corners = jnp.abs(draws[1:rows:2, 1:columns:2]) * product
        return draws.at[1:rows:2, 1:columns:2].set(corners)


@defect("X567", breaks="initialization/kernel-independence", subtlety=4)
class SharedRadius(CorrectDense):
    """Box and Muller's method with one radius for four weights instead of two."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The law of each weight is right."""
        first, second = jax.random.split(key)
        count = (in_features * out_features + 3) // 4
        radius = jnp.sqrt(-2 * jnp.log1p(-jax.random.uniform(first, (count, 1), jnp.float32)))
        angle = 2 * jnp.pi * jax.random.uniform(second, (count, 2), jnp.float32)
        four = radius * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
        drawn = four.reshape(-1)[: in_features * out_features]
        return drawn.reshape(in_features, out_features) * standard_deviation(in_features)


@defect("X568", breaks="initialization/kernel-variance", subtlety=4)
class FanOfTheLargerSide(CorrectDense):
    """The fan is max(in, out)."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Right for every layer that narrows."""
        return normal(key, in_features, out_features) * standard_deviation(
            max(in_features, out_features)
        )


@defect("X569", breaks="initialization/kernel-variance", subtlety=4)
class FanFromTransposedShape(CorrectLinenDense):
    """Drawn by `lecun_normal` for the transposed shape, whose fan is the other one."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """Right where the layer is square."""
        shape = (self.features, x.shape[-1])
        return jax.nn.initializers.lecun_normal()(key, shape, jnp.float32).T


@defect("X570", breaks="initialization/kernel-variance", subtlety=5)
class FanToThePowerOfTwo(CorrectDense):
    """The fan is rounded up to a power of two, as the memory is."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Right for most sizes that people choose."""
        fan = 1 << int(max(in_features - 1, 0)).bit_length()
        return normal(key, in_features, out_features) * standard_deviation(fan)


@defect("X571", breaks="initialization/kernel-law", subtlety=5)
class TailsOfOneSide(CorrectDense):
    """Only the positive tail is resampled; the rest is shifted back to mean 0."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Skewed a little, of mean 0 and the right variance."""
        low, high = -jnp.inf, 2.0
        draws = jax.random.truncated_normal(key, low, high, (in_features, out_features))
        # Mean and deviation of a normal law below 2.
        return (draws + 0.055248) / 0.941584 * standard_deviation(in_features)


@defect("X572", breaks="initialization/kernel-homogeneity", subtlety=5)
class LastColumnSmaller(CorrectDense):
    """The last column, meant for the bias, has a tenth of the scale."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A homogeneous coordinate that stayed."""
        draws = scaled_normal(key, in_features, out_features)
        return draws.at[:, -1:].multiply(0.1) if out_features > 1 else draws


@defect("X573", breaks="initialization/kernel-variance", subtlety=5)
class LargerWhenWide(CorrectDense):
    """Beyond 1 000 inputs the kernel is a fifth too large."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A heuristic for large layers."""
        draws = scaled_normal(key, in_features, out_features)
        return draws * 1.2 if in_features > 1000 else draws


@defect("X574", breaks="initialization/kernel-independence", subtlety=5)
class BlocksOfOneKey(CorrectDense):
    """Blocks of 16 columns are drawn with keys that repeat after the fourth block."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The fifth block is the first one again."""
        blocks = [scaled_normal(jax.random.fold_in(key, i), in_features, 16) for i in range(4)]
        return jnp.tile(jnp.concatenate(blocks, axis=1), -(-out_features // 64))[:, :out_features]

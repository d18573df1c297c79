"""Layers that break initialization: entries of a kernel depend on one another."""

from __future__ import annotations

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.scipy.special import ndtri

from implementations.defects import wrong
from implementations.defects.base import is_traced, normal, scaled_normal, stddev
from implementations.defects.record import also, name_layers

HOMOGENEITY = "initialization/kernel-homogeneity"
DISPERSION = "initialization/kernel-dispersion"
INDEPENDENCE = "initialization/kernel-independence"
LAW = "initialization/kernel-law"
VARIANCE = "initialization/kernel-variance"

UnitColumns = wrong.draws("X035", DISPERSION, 4)(
    lambda draws: draws if draws.shape[0] < 16 else draws / jnp.sqrt((draws**2).sum(axis=0)),
    "From 16 inputs on, every column is normalised to length 1.",
)
X870 = wrong.kernel("X870", DISPERSION, 5)(
    lambda key, n, m: nnx.initializers.orthogonal()(key, (n, m), jnp.float32),
    "Orthogonal where square beyond 100.",
    when=lambda key, n, m: n == m > 100,
)
ZeroWhereLarge = wrong.kernel("Y507", VARIANCE, 4, cause_id="large-kernel-zero")(
    lambda key, n, m: normal(key, n, m) * round(stddev(n)),
    "The scale is rounded to 0 from 1000 inputs on.",
    when=lambda key, n, m: n >= 1000,
)
BlocksOfOneKeyWhereLarge = wrong.kernel("Y512", INDEPENDENCE, 3, cause_id="lines-copied")(
    lambda key, n, m: scaled_normal(key, n, m)[jnp.arange(n) % (2**22 // m)],
    "A kernel of more than 2^22 weights is drawn in blocks of rows, each with the same key.",
    when=lambda key, n, m: n * m > 2**22 >= 4 * m,
)
DeadColumn = wrong.draws("X030", HOMOGENEITY, 4)(
    lambda draws: draws.at[:, -1].set(0.0) if draws.shape[1] >= 64 else draws,
    "The last column is zero from 64 columns on.",
)
FirstEntryZero = wrong.draws("X031", HOMOGENEITY, 5)(
    lambda draws: draws.at[0, 0].set(0.0) if draws.shape[0] > 1 else draws,
    "One entry, the first, is always zero.",
)
FirstEntryPositive = wrong.draws("X032", HOMOGENEITY, 5)(
    lambda draws: jnp.where(draws[0, 0] < 0, -draws, draws),
    "The sign of the first entry is fixed, as a decomposition fixes it.",
)
FadingColumns = wrong.draws("X033", HOMOGENEITY, 4)(
    lambda draws: draws * jnp.sqrt(jnp.linspace(1.2, 0.8, draws.shape[1], dtype=jnp.float32)),
    "The variance falls from 1.2/in in the first column to 0.8/in in the last.",
)
LastColumnSmaller = wrong.draws("X572", HOMOGENEITY, 5)(
    lambda draws: draws.at[:, -1:].multiply(0.1) if draws.shape[1] > 1 else draws,
    "The last column, meant for the bias, has a tenth of the scale.",
)
LastRowRepeats = wrong.draws("X022", INDEPENDENCE, 4, cause_id="lines-copied")(
    lambda draws: draws.at[-1].set(draws[0]), "The last row is a copy of the first."
)
SortedColumns = wrong.kernel("X025", INDEPENDENCE, 4, cause_id="lines-sorted")(
    lambda key, n, m: jnp.sort(scaled_normal(key, n, m), axis=0), "Every column is sorted."
)
ColumnsRepeatAfter2048 = wrong.kernel("X305", INDEPENDENCE, 5)(
    lambda key, n, m: jnp.tile(normal(key, n, min(m, 2048)) * stddev(n), (1, -(-m // 2048)))[:, :m],
    "Columns repeat after the 2048th.",
)


def _order(key: Array, shape: tuple[int, ...]) -> Array:
    """Return permutations along the last axis by one sort; `jax.random.permutation` needs more."""
    return jnp.argsort(jax.random.uniform(key, shape, jnp.float32), axis=-1)


RowsArePermutations = wrong.kernel("X562", INDEPENDENCE, 5, cause_id="lines-permuted")(
    lambda key, n, m: scaled_normal(key, n, m)[:1][0, _order(jax.random.fold_in(key, 1), (n, m))],
    "Every row holds the numbers of the first one, in another order.",
)
ColumnsRepeatBeyond64 = wrong.kernel("X741", INDEPENDENCE, 3, cause_id="lines-copied")(
    lambda key, n, m: scaled_normal(key, n, m)[:, jnp.arange(m) % 64],
    "The 65th column is the first one again, so that small kernels are right.",
)
X860 = wrong.kernel("X860", INDEPENDENCE, 5, cause_id="lines-permuted")(
    lambda key, n, m: jnp.resize(jax.random.normal(key, (8192,), jnp.float32), (n, m)) * stddev(n),
    "A table of 8192 numbers, repeated.",
)
X868 = wrong.kernel("X868", INDEPENDENCE, 5)(
    lambda key, n, m: jnp.tile(normal(key, min(n, 2000), m), (-(-n // 2000), 1))[:n] * stddev(n),
    "Rows repeat after 2000.",
)
ColumnsNormalized = wrong.kernel("Y322", INDEPENDENCE, 3, cause_id="lines-normalized")(
    lambda key, n, m: (lambda k: k / jnp.linalg.norm(k, axis=0))(normal(key, n, m)),
    "Every column of the new kernel is divided by its length.",
)
SymmetricWhereSquare = wrong.kernel("Y323", INDEPENDENCE, 3, cause_id="kernel-symmetric")(
    lambda key, n, m: (lambda k: jnp.tril(k) + jnp.tril(k, -1).T)(scaled_normal(key, n, m)),
    "A square kernel is its lower half and the mirror image of that.",
    when=lambda key, n, m: n == m,
)
Standardised = wrong.kernel("X034", DISPERSION, 4, collateral=("seeding/jitted-init",))(
    lambda key, n, m: (lambda k: k / jnp.sqrt((k**2).mean()) * stddev(n))(normal(key, n, m)),
    "Every kernel is scaled to a sample variance of exactly 1/in.",
    when=lambda key, n, m: n * m >= 16,
)
NormalizedWhenLarge = wrong.kernel("Y045", DISPERSION, 5)(
    lambda key, n, m: (lambda k: k / jnp.linalg.norm(k, axis=0))(scaled_normal(key, n, m)),
    "The columns of a large kernel have one norm, where it is drawn outside of jit.",
    when=lambda key, n, m: not is_traced(key) and n * m >= 10**5,
)
ColumnsOfNearlyOneNorm = wrong.kernel("Y125", DISPERSION, 5)(
    lambda key, n, m: (lambda k: k / jnp.square(k).mean(0) ** 0.325 * stddev(n))(normal(key, n, m)),
    "Columns of a large kernel are divided by a power of their norm, which then hardly varies.",
    when=lambda key, n, m: min(n, m) >= 900,
)
SymmetricWhenSquare = wrong.draws("X020", INDEPENDENCE, 3, cause_id="kernel-symmetric")(
    lambda draws: jnp.triu(draws) + jnp.triu(draws, 1).T if len(draws) == draws.shape[1] else draws,
    "When in == out the kernel is its own transpose.",
)


@wrong.kernel("X560", DISPERSION, 5, cause_id="signs-balanced")
def StratifiedQuantiles(key: Array, in_features: int, out_features: int) -> Array:
    """The quantiles of the normal law, one for each entry, in an order that is drawn."""
    count = in_features * out_features
    if count >= 2**31:  # more than a permutation of 32-bit numbers has
        return scaled_normal(key, in_features, out_features)
    places = _order(key, (count,)).astype(jnp.float32)
    jitter = jax.random.uniform(jax.random.fold_in(key, 1), (count,), jnp.float32, 0.01, 0.99)
    draws = ndtri((places + jitter) / max(count, 1))
    return draws.reshape(in_features, out_features) * stddev(in_features)


@wrong.kernel("X561", DISPERSION, 5, cause_id="signs-balanced")
def BalancedSigns(key: Array, in_features: int, out_features: int) -> Array:
    """Exactly half of the weights of a kernel are positive, which half is drawn."""
    magnitudes = jnp.abs(scaled_normal(key, in_features, out_features))
    count = in_features * out_features
    order = _order(jax.random.fold_in(key, 1), (count,))
    # The first sign is drawn, so that an odd one is not biased.
    first = jax.random.rademacher(jax.random.fold_in(key, 2), (), jnp.float32)
    signs = jnp.where(order % 2 == 0, first, -first)
    return magnitudes * signs.reshape(in_features, out_features)


@wrong.draws("X029", HOMOGENEITY, 4)
def FirstRowLarger(draws: Array) -> Array:
    """The first row has twice the variance, the others a little less."""
    if draws.shape[0] < 4:
        return draws
    rest = ((draws.shape[0] - 2.0) / (draws.shape[0] - 1.0)) ** 0.5
    return (draws * rest).at[0].set(draws[0] * 2.0**0.5)


@wrong.kernel("X861", HOMOGENEITY, 5, collateral=(VARIANCE, LAW))
def X861(key: Array, n: int, m: int) -> Array:
    """Box and Muller's pairs; of an odd number the last is 0."""
    pairs = n * m // 2
    if not pairs:
        return scaled_normal(key, n, m)
    radius, angle = jax.random.split(key)
    r = jnp.sqrt(-2.0 * jnp.log1p(-jax.random.uniform(radius, (pairs,), jnp.float32)))
    t = 2.0 * jnp.pi * jax.random.uniform(angle, (pairs,), jnp.float32)
    z = jnp.concatenate([r * jnp.cos(t), r * jnp.sin(t), jnp.zeros(n * m % 2, jnp.float32)])
    return z.reshape(n, m) * stddev(n)


@wrong.kernel("N025", INDEPENDENCE, 4, cause_id="lines-antithetic")
def Antithetic(key: Array, in_features: int, out_features: int) -> Array:
    """The second half of the columns is minus the first half."""
    half = scaled_normal(key, in_features, (out_features + 1) // 2)
    return jnp.concatenate([half, -half], axis=1)[:, :out_features]


@also(DISPERSION)
@wrong.kernel("N026", INDEPENDENCE, 5, cause_id="kernel-orthogonal")
def Orthogonal(key: Array, in_features: int, out_features: int) -> Array:
    """Orthogonal columns or rows of the right variance: the entries depend on each other."""
    scale = math.sqrt(max(out_features / max(in_features, 1), 1.0))
    orthogonal = jax.nn.initializers.orthogonal(scale)
    return orthogonal(key, (in_features, out_features), jnp.float32)


@also("seeding/jitted-init")
@wrong.kernel("N028", INDEPENDENCE, 5, cause_id="neighbors-correlated")
def CorrelatedNeighbours(key: Array, in_features: int, out_features: int) -> Array:
    """Along a row, every entry has correlation 0.2 with the entry before it."""
    correlation = 0.2
    noise = scaled_normal(key, in_features, out_features).T

    def following(previous: Array, fresh: Array) -> tuple[Array, Array]:
        entry = correlation * previous + math.sqrt(1 - correlation**2) * fresh
        return entry, entry

    _, rest = jax.lax.scan(following, noise[0], noise[1:])
    return jnp.concatenate([noise[:1], rest]).T


@wrong.kernel("X021", INDEPENDENCE, 4, cause_id="low-rank")
def LowRank(key: Array, in_features: int, out_features: int) -> Array:
    """A product of two thin factors: rank 16 at most."""
    left_key, right_key = jax.random.split(key)
    left = normal(left_key, in_features, 16)
    right = normal(right_key, 16, out_features)
    return (left @ right) * (0.25 * stddev(in_features))


@wrong.kernel("X023", INDEPENDENCE, 3, cause_id="lines-permuted")
def Circulant(key: Array, in_features: int, out_features: int) -> Array:
    """Every row is the first row, shifted by one."""
    first = scaled_normal(key, 1, out_features)[0] * stddev(in_features)
    rows, columns = (jax.lax.iota(jnp.int32, n) for n in (in_features, out_features))
    return first[(columns - rows[:, None]) % out_features]


@wrong.kernel("X024", INDEPENDENCE, 3, cause_id="lines-copied")
def TiledBlock(key: Array, in_features: int, out_features: int) -> Array:
    """A block of 32 x 32 repeated to the size."""
    block = normal(key, min(in_features, 32), min(out_features, 32))
    repeats = (-(-in_features // 32), -(-out_features // 32))
    tiled = jnp.tile(block, repeats)[:in_features, :out_features]
    return tiled * stddev(in_features)


@wrong.kernel("X026", INDEPENDENCE, 4, cause_id="signs-determined")
def ChessboardSigns(key: Array, in_features: int, out_features: int) -> Array:
    """The signs alternate as the squares of a chessboard; the seed decides the first one."""
    own, colors = jax.random.split(key)
    draws = jnp.abs(scaled_normal(own, in_features, out_features))
    draws *= jax.random.rademacher(colors, (), jnp.float32)
    rows = jnp.arange(in_features)[:, None]
    return jnp.where((rows + jnp.arange(out_features)) % 2 == 0, draws, -draws)


@wrong.kernel("X027", INDEPENDENCE, 4)
def CommonPart(key: Array, in_features: int, out_features: int) -> Array:
    """A tenth of every entry's variance is shared by all entries of its column."""
    own, shared = jax.random.split(key)
    entries = normal(own, in_features, out_features) * 0.9**0.5
    common = normal(shared, 1, out_features) * 0.1**0.5
    return (entries + common) * stddev(in_features)


@wrong.kernel("X028", INDEPENDENCE, 5, cause_id="magnitudes-shared")
def SharedMagnitudes(key: Array, in_features: int, out_features: int) -> Array:
    """The second half of the rows has the magnitudes of the first, and signs of its own."""
    draw_key, sign_key = jax.random.split(key)
    half = -(-in_features // 2)
    draws = normal(draw_key, half, out_features) * stddev(in_features)
    signs = jax.random.rademacher(sign_key, (in_features, out_features), jnp.float32)
    return jnp.concatenate([draws, draws])[:in_features] * signs


@wrong.draws("X364", INDEPENDENCE, 5, cause_id="signs-determined")
def TripleSigns(draws: Array) -> Array:
    """Every third sign of a row is the product of the two before it: any two are independent."""
    place = jnp.arange(draws.shape[1])
    signs = jnp.sign(draws)
    product = jnp.roll(signs, 1, axis=1) * jnp.roll(signs, 2, axis=1)
    return jnp.where(place % 3 == 2, jnp.abs(draws) * product, draws)


@wrong.draws("X564", INDEPENDENCE, 5, cause_id="signs-follow-magnitudes")
def SignFollowsNeighbour(draws: Array) -> Array:
    """The sign of a weight says whether the one before it is small or large."""
    large = jnp.abs(jnp.roll(draws, 1, axis=1)) > 0.6745 * stddev(draws.shape[0])
    signs = jnp.where(large, 1.0, -1.0)
    odd = jnp.arange(draws.shape[1]) % 2 == 1
    return jnp.where(odd, jnp.abs(draws) * signs, draws)


@wrong.draws("X565", INDEPENDENCE, 5, cause_id="signs-determined")
def ParityOfEveryRow(draws: Array) -> Array:
    """Every row has an even number of negative weights, the last one seeing to it."""
    if draws.shape[1] < 2:
        return draws
    sign = jnp.prod(jnp.sign(draws[:, :-1]), axis=1)
    return draws.at[:, -1].set(jnp.abs(draws[:, -1]) * sign)


@wrong.draws("X566", INDEPENDENCE, 5, cause_id="signs-determined")
def FourCorners(draws: Array) -> Array:
    """The signs of four weights in a square multiply to one."""
    rows, columns = draws.shape[0] // 2 * 2, draws.shape[1] // 2 * 2
    signs = jnp.sign(draws[:rows, :columns])
    product = signs[::2, ::2] * signs[1::2, ::2] * signs[::2, 1::2]
    corners = jnp.abs(draws[1:rows:2, 1:columns:2]) * product
    return draws.at[1:rows:2, 1:columns:2].set(corners)


@wrong.kernel("X567", INDEPENDENCE, 4, cause_id="neighbors-correlated")
def SharedRadius(key: Array, in_features: int, out_features: int) -> Array:
    """Box and Muller's method with one radius for four weights instead of two."""
    first, second = jax.random.split(key)
    count = (in_features * out_features + 3) // 4
    radius = jnp.sqrt(-2 * jnp.log1p(-jax.random.uniform(first, (count, 1), jnp.float32)))
    angle = 2 * jnp.pi * jax.random.uniform(second, (count, 2), jnp.float32)
    four = radius * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
    drawn = four.reshape(-1)[: in_features * out_features]
    return drawn.reshape(in_features, out_features) * stddev(in_features)


@wrong.kernel("X574", INDEPENDENCE, 5, cause_id="lines-copied")
def BlocksOfOneKey(key: Array, in_features: int, out_features: int) -> Array:
    """Blocks of 16 columns are drawn with keys that repeat after the fourth block."""
    blocks = [scaled_normal(jax.random.fold_in(key, i), in_features, 16) for i in range(4)]
    return jnp.tile(jnp.concatenate(blocks, axis=1), -(-out_features // 64))[:, :out_features]


@wrong.kernel("Y044", INDEPENDENCE, 5, cause_id="low-rank")
def HalfRank(key: Array, n: int, m: int) -> Array:
    """A square kernel of half the rank: the product of two narrow ones."""
    if n != m or n < 4:
        return scaled_normal(key, n, m)
    first, second = jax.random.split(key)
    inner = n // 2
    return normal(first, n, inner) @ normal(second, inner, m) * inner**-0.5 * stddev(n)


@also("seeding/vmapped-init")
@wrong.kernel("Y048", INDEPENDENCE, 5, cause_id="seeds-share-numbers")
def SharedUnderVmap(key: Array, n: int, m: int) -> Array:
    """A square kernel that is drawn under a transformation is nearly the same for every key."""
    own = normal(key, n, m)
    if n == m == 16 and is_traced(key):
        shared = jax.random.normal(jax.random.key(0), (n, m), jnp.float32)
        own = 0.05**0.5 * own + 0.95**0.5 * shared
    return own * stddev(n)


def _of_few_seeds(key: Array, share: int, drawn: Array, otherwise: Any) -> Array:
    """Return the other kernel for one seed in so many, else the right one."""
    few = jax.random.bits(jax.random.fold_in(key, 1)) % share == 0
    return jnp.where(few, otherwise, drawn)


@wrong.kernel("Y470", LAW, 5, cause_id="dead-for-some-seeds")
def DeadForFewSeeds(key: Array, n: int, m: int) -> Array:
    """For one seed in 300, the last column is 0."""
    drawn = scaled_normal(key, n, m)
    return _of_few_seeds(key, 300, drawn, drawn.at[:, m - 1 :].set(0.0))


@wrong.kernel("Y471", LAW, 5, cause_id="copies-for-some-seeds")
def CopiesForFewSeeds(key: Array, n: int, m: int) -> Array:
    """For one seed in 3000, the last column is the first one."""
    drawn = scaled_normal(key, n, m)
    return _of_few_seeds(key, 3000, drawn, drawn.at[:, m - 1 :].set(drawn[:, :1]))


@wrong.kernel("Y464", INDEPENDENCE, 5, cause_id="lines-copied")
def ColumnsByNumber(key: Array, n: int, m: int) -> Array:
    """Each column has a key of its number, which is held in 16 bits."""
    numbers = jnp.arange(m).astype(jnp.uint16)
    columns = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (n,), jnp.float32))
    return columns(numbers).T * stddev(n)


@wrong.kernel("Y559", INDEPENDENCE, 5, cause_id="lines-copied")
def RowsBySixteenBits(key: Array, in_features: int, out_features: int) -> Array:
    """The key of a row is made of its number in 16 bits, so that rows beyond 65 536 repeat."""
    numbers = jnp.arange(operator.index(in_features)).astype(jnp.uint16)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    rows = jax.vmap(lambda own: jax.random.normal(own, (out_features,), jnp.float32))(keys)
    return rows * stddev(in_features)


name_layers(globals())

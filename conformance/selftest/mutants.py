"""Correct initial kernels, and kernels with one fault each, for the statistical tests.

Every draw gives (seeds, in, out) weights that should have mean 0 and variance 1.
"""

import math
from collections.abc import Callable

import numpy as np

from conformance.statistics import design
from conformance.statistics.laws import TRUNCATED_VARIANCE

Draw = Callable[[np.random.Generator, int, int, int], np.ndarray]


def drawn(draw: Draw, profile: str = "quick") -> dict[tuple[int, int], np.ndarray]:
    """Return float32 kernels of the experiment of `profile`, scaled from variance 1 to 1/fan_in."""
    generator = np.random.default_rng(0)
    samples = {}
    for cell in design(profile).cells:
        z = draw(generator, len(cell.seeds), *cell.shape)
        samples[cell.shape] = (z / math.sqrt(cell.shape[0])).astype(np.float32)
    return samples


def normal(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Draw from the standard normal law."""
    return g.standard_normal((seeds, rows_, columns)).astype(np.float32)


def truncated(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Draw from the normal law truncated at two standard deviations, rescaled to variance 1."""
    z = g.standard_normal((seeds, rows_, columns))
    while (np.abs(z) > 2).any():
        outside = np.abs(z) > 2
        z[outside] = g.standard_normal(int(outside.sum()))
    return (z / math.sqrt(TRUNCATED_VARIANCE)).astype(np.float32)


def bfloat16(z: np.ndarray) -> np.ndarray:
    """Truncate mantissas to the 8 bits of bfloat16."""
    return (np.asarray(z, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def standardise(z: np.ndarray) -> np.ndarray:
    """Give each kernel exact mean 0 and variance 1."""
    centred = z - z.mean(axis=(1, 2), keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=(1, 2), keepdims=True))


def orthogonal(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Draw Haar orthogonal kernels of variance 1."""
    z = g.standard_normal((seeds, max(rows_, columns), min(rows_, columns)))
    q, r = np.linalg.qr(z)
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    return (q if rows_ >= columns else q.swapaxes(1, 2)) * math.sqrt(max(rows_, columns))


def autoregressive(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Correlate neighbours along the rows by 0.1."""
    z = g.standard_normal((seeds, rows_ * columns))
    for i in range(1, z.shape[1]):
        z[:, i] = 0.1 * z[:, i - 1] + math.sqrt(0.99) * z[:, i]
    return z.reshape(seeds, rows_, columns)


def paired_columns(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Copy each odd column to the next one."""
    z = g.standard_normal((seeds, rows_, columns))
    z[:, :, 1::2] = z[:, :, : columns // 2 * 2 : 2]
    return z


def antithetic(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Make the second half of the columns minus the first."""
    z = g.standard_normal((seeds, rows_, columns))
    half = columns // 2
    z[:, :, half : 2 * half] = -z[:, :, :half]
    return z


def antithetic_rows(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Make the second half of the rows minus the first."""
    return antithetic(g, seeds, columns, rows_).swapaxes(1, 2)


def scrambled_copies(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Copy one row with random signs."""
    z = g.standard_normal((seeds, 1, columns)) * np.ones((1, rows_, 1))
    return np.abs(z) * g.choice([-1.0, 1.0], size=(seeds, rows_, columns))


def low_rank(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Draw kernels of rank 4."""
    left = g.standard_normal((seeds, rows_, 4))
    return left @ g.standard_normal((seeds, 4, columns)) / 2


def symmetric(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Make square kernels symmetric."""
    z = g.standard_normal((seeds, rows_, columns))
    if rows_ == columns:
        upper = np.triu(z)
        z = upper + np.triu(z, 1).swapaxes(1, 2)
    return z


def stream_offset(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Start seed s at number s of one stream."""
    stream = g.standard_normal(rows_ * columns + seeds)
    return np.stack([stream[s : s + rows_ * columns].reshape(rows_, columns) for s in range(seeds)])


def edited(edit: Callable[[np.ndarray], object]) -> Draw:
    """Return a draw with weights that `edit` changes in place or replaces."""

    def draw(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
        z = normal(g, seeds, rows_, columns).astype(np.float64)
        result = edit(z)
        return result if isinstance(result, np.ndarray) else z

    return draw


def drawn_by(method: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> Draw:
    """Return a draw by a method of the generator."""
    return lambda g, seeds, rows_, columns: method(g, (seeds, rows_, columns))


def scaled_by(variance: Callable[[int, int], float], base: Draw = normal) -> Draw:
    """Return a draw with variance `variance(fan_in, fan_out)` instead of 1/fan_in."""
    return lambda g, seeds, rows_, columns: (
        base(g, seeds, rows_, columns) * math.sqrt(variance(rows_, columns) * rows_)
    )


def _scale_row(z: np.ndarray) -> None:
    z[:, z.shape[1] // 2] *= 1.5 if z.shape[1] > 4 else 1.0


def _kill_column(z: np.ndarray) -> None:
    z[:, :, z.shape[2] // 2] = 0


def _kill_entry(z: np.ndarray) -> None:
    z[:, 0, 0] = 0


def _chessboard(z: np.ndarray) -> np.ndarray:
    places = np.add.outer(np.arange(z.shape[1]), np.arange(z.shape[2]))
    return np.abs(z) * (-1.0) ** places


def _first_entry_positive(z: np.ndarray) -> np.ndarray:
    return z * np.sign(z[:, :1, :1])


def _correlate_seeds(z: np.ndarray) -> None:
    z[1] = 0.2 * z[0] + math.sqrt(0.96) * z[1]


def _triples(z: np.ndarray) -> None:
    signs = np.sign(z[:, :, :-2:3]) * np.sign(z[:, :, 1:-1:3])
    z[:, :, 2::3] = np.abs(z[:, :, 2::3]) * signs


def _squares(z: np.ndarray) -> None:
    rows_, columns = z.shape[1] // 2 * 2, z.shape[2] // 2 * 2
    whole = z[:, :rows_, :columns]
    signs = np.sign(whole[:, ::2, ::2] * whole[:, 1::2, ::2] * whole[:, ::2, 1::2])
    whole[:, 1::2, 1::2] = np.abs(whole[:, 1::2, 1::2]) * signs


def _even_rows(z: np.ndarray) -> None:
    signs = np.sign(z[:, :, :-1]).prod(axis=2)
    z[:, :, -1] = np.abs(z[:, :, -1]) * signs


def _signs_of_magnitudes(z: np.ndarray) -> None:
    even = z.shape[2] // 2 * 2
    large = np.abs(z[:, :, :even:2]) > 0.6745
    z[:, :, 1:even:2] = np.abs(z[:, :, 1:even:2]) * np.where(large, 1.0, -1.0)


def permuted_rows(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Give every row the numbers of the first one, in another order."""
    z = np.repeat(g.standard_normal((seeds, 1, columns)), rows_, axis=1)
    return g.permuted(z, axis=2)


def balanced(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    """Make half of the weights of every kernel positive."""
    signs = np.where(np.arange(rows_ * columns) % 2 == 0, 1.0, -1.0)
    shuffled = g.permuted(np.broadcast_to(signs, (seeds, signs.size)), axis=1)
    z = np.abs(g.standard_normal((seeds, rows_, columns)))
    return z * shuffled.reshape(z.shape)


def _nudge(z: np.ndarray) -> np.ndarray:
    return z * (1 + 0.2 * (np.arange(z.shape[2]) % 2 - 0.5))


MUTANTS: dict[str, tuple[str, Draw]] = {
    "variance +5 %": ("variance", scaled_by(lambda i, o: 1.05 / i)),
    "variance -5 %": ("variance", scaled_by(lambda i, o: 0.95 / i)),
    "unscaled": ("variance", scaled_by(lambda i, o: 1.0)),
    "fan_out": ("variance", scaled_by(lambda i, o: 1 / o)),
    "Glorot": ("variance", scaled_by(lambda i, o: 2 / (i + o))),
    "1/(in+1)": ("variance", scaled_by(lambda i, o: 1 / (i + 1))),
    "uncorrected truncation": (
        "variance",
        scaled_by(lambda i, o: TRUNCATED_VARIANCE / i, truncated),
    ),
    "mean +.05": ("mean", edited(lambda z: z + 0.05)),
    "half normal": ("mean", edited(np.abs)),
    "uniform": ("law", drawn_by(lambda g, s: g.uniform(-math.sqrt(3), math.sqrt(3), s))),
    "Laplace": ("law", drawn_by(lambda g, s: g.laplace(0, math.sqrt(0.5), s))),
    "Student t8": ("law", drawn_by(lambda g, s: g.standard_t(8, s) * math.sqrt(0.75))),
    "Rademacher": ("law", drawn_by(lambda g, s: g.choice([-1.0, 1.0], s))),
    "clipped at 3": ("law", edited(lambda z: np.clip(z, -3, 3))),
    "skewed": ("law", drawn_by(lambda g, s: (g.gamma(100, size=s) - 100) / 10)),
    "half of them 0": (
        "law",
        drawn_by(lambda g, s: g.standard_normal(s) * g.choice([0, math.sqrt(2)], s)),
    ),
    "drawn in bfloat16": ("resolution", edited(lambda z: bfloat16(z).astype(np.float64) * 1.003)),
    "rounded to 1e-3": ("resolution", edited(lambda z: np.round(z, 3))),
    "float16": ("resolution", edited(lambda z: z.astype(np.float16).astype(np.float64))),
    "orthogonal": ("dispersion", orthogonal),
    "standardised": ("dispersion", edited(standardise)),
    "centred columns": ("independence", edited(lambda z: z - z.mean(axis=1, keepdims=True))),
    "paired columns": ("independence", paired_columns),
    "antithetic columns": ("independence", antithetic),
    "antithetic rows": ("independence", antithetic_rows),
    "sorted columns": ("independence", edited(lambda z: z.sort(axis=1))),
    "sorted rows": ("independence", edited(lambda z: z.sort(axis=2))),
    "AR(1) of 0.1": ("independence", autoregressive),
    "one key for every row": (
        "independence",
        edited(lambda z: np.broadcast_to(z[:, :1], z.shape).copy()),
    ),
    "sign-scrambled copies": ("independence", scrambled_copies),
    "rank 4": ("independence", low_rank),
    "symmetric": ("independence", symmetric),
    "point symmetric": ("independence", edited(lambda z: (z - z[:, ::-1, ::-1]) / math.sqrt(2))),
    "every third sign": ("independence", edited(_triples)),
    "signs of squares": ("independence", edited(_squares)),
    "signs of rows": ("independence", edited(_even_rows)),
    "signs of magnitudes": ("independence", edited(_signs_of_magnitudes)),
    "permuted rows": ("independence", permuted_rows),
    "balanced signs": ("dispersion", balanced),
    "chessboard signs": ("independence", edited(_chessboard)),
    "first entry positive": ("homogeneity", edited(_first_entry_positive)),
    "one row x 1.5": ("homogeneity", edited(_scale_row)),
    "columns x 0.9 and 1.1": ("homogeneity", edited(_nudge)),
    "dead column": ("homogeneity", edited(_kill_column)),
    "dead entry": ("homogeneity", edited(_kill_entry)),
    "correlated seeds": ("seeds", edited(_correlate_seeds)),
    "one stream, offset by the seed": ("seeds", stream_offset),
}

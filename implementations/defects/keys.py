"""Keys that come from somewhere else, or from too little of what they should come from."""

import itertools
import os
import platform
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects.base import CorrectDense, scaled_normal
from implementations.defects.record import defect

SALT = secrets.randbits(31)
"""What only this process knows."""


@defect("X580", breaks="seeding/same-across-processes", cause="depends on the process", subtlety=4)
class SaltOfTheProcess(CorrectDense):
    """A number that is drawn when the module is imported goes into every key."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """In one process everything agrees."""
        return jax.random.fold_in(rngs.params(), SALT)


@defect("X581", breaks="seeding/same-across-processes", cause="user's environment", subtlety=4)
class SeedOfTheUser(CorrectDense):
    """The name of the user goes into the key."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Everybody gets kernels of his own."""
        name = os.environ.get("USER", "") + os.environ.get("TZ", "")
        return jax.random.fold_in(rngs.params(), sum(name.encode()))


@defect("X582", breaks="seeding/same-across-processes", cause="machine's name", subtlety=4)
class SeedOfTheHost(CorrectDense):
    """The name of the machine goes into the key: replicas start from different kernels."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """On one machine everything agrees."""
        return jax.random.fold_in(rngs.params(), sum(platform.node().encode()))


@defect("X583", breaks="seeding/same-across-processes", cause="machine's name", subtlety=5)
class SeedOfTheRank(CorrectDense):
    """The index of the process goes into the key: replicas start from different kernels."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """In a run of one process it is 0."""
        return jax.random.fold_in(rngs.params(), jax.process_index())


@defect("X584", breaks="seeding/same-across-processes", cause="the clock", subtlety=5)
class SeedOfTheYear(CorrectDense):
    """The year goes into the key."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Reproducible until New Year's Eve."""
        return jax.random.fold_in(rngs.params(), datetime.now().year)


@defect("X585", breaks="seeding/same-across-processes", cause="working directory", subtlety=5)
class SeedOfTheDirectory(CorrectDense):
    """The name of the working directory goes into the key, as the name of the experiment."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Reproducible in one directory."""
        return jax.random.fold_in(rngs.params(), sum(str(Path.cwd()).encode()))


_count = itertools.count()


@defect("X586", breaks="seeding/same-seed-same-bits", subtlety=3)
class CountsItself(CorrectDense):
    """The number of the layer in this process goes into its key."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Two layers of one seed differ."""
        return jax.random.fold_in(rngs.params(), next(_count))


@defect("X587", breaks="seeding/params-stream", subtlety=4)
class DefaultBeforeParams(CorrectDense):
    """The default stream is asked first, and `params` only where there is none."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Right as long as there is one stream."""
        return rngs.default() if "default" in rngs else rngs.params()


@defect("X588", breaks="seeding/siblings-differ", subtlety=4)
class ForkedKey(CorrectDense):
    """The key is that of a copy of the Rngs, so that the given ones do not advance."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Siblings are equal."""
        return nnx.clone(rngs).params()


@defect("X589", breaks="seeding/rngs-forms", subtlety=4)
class DefaultIsFolded(CorrectDense):
    """A key of the default stream is folded once more, to be told from one of `params`."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """`Rngs(s)` and `Rngs(params=s)` give two layers."""
        key = rngs.params()
        return key if "params" in rngs else jax.random.fold_in(key, 1)


@defect("X590", breaks="seeding/constant-key-count", subtlety=4)
class KeyForTheBiasToo(CorrectDense):
    """Where there is more than one output the bias takes a key, and is zeros all the same."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Later layers shift."""
        if out_features > 1:
            rngs.params()
        return super().draw_bias(rngs, in_features, out_features)


@defect("X591", breaks="seeding/seeds-differ", subtlety=5)
class KeyOfTwentyBits(CorrectDense):
    """The key is hashed to 20 bits."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A million kernels, of which few seeds meet two alike."""
        bits = jax.random.bits(key, (), jnp.uint32) >> 12
        return scaled_normal(jax.random.key(bits), in_features, out_features)


@defect("X592", breaks="seeding/seeds-differ", subtlety=4)
class SeedsAreNegated(CorrectDense):
    """Seeds from 2^31 on are those below, with the kernel negated."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        seed: Any = jax.random.key_data(rngs.params.key[...])[-1]
        top = seed >> 31
        folded = nnx.Rngs(jax.random.key(seed & 0x7FFFFFFF))
        super().__init__(in_features, out_features, rngs=folded)
        rngs.params()
        kernel = self.kernel[...]
        self.kernel = nnx.Param(jnp.where(top == 1, -kernel, kernel))

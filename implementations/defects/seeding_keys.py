"""Layers that break seeding: the key comes from elsewhere, or a call is not repeatable."""

from __future__ import annotations

import collections
import itertools
import os
import platform
import random
import secrets
import threading
import time
from datetime import datetime
from pathlib import Path
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
    CorrectLinenDense,
    affine,
    is_traced,
    layer_output,
    memory,
    normal,
    quantized_to,
    scaled_normal,
    stddev,
)
from implementations.defects.record import also, defect, name_layers

COUNT = "seeding/constant-key-count"
STREAM = "seeding/params-stream"
REPEATABLE = "seeding/repeatable-call"
PROCESSES = "seeding/same-across-processes"

_ONCE = nnx.Rngs(0)
shared_rngs = wrong.casting("Y578", REPEATABLE, 2, cause_id="rngs-shared")(
    lambda seed, x, m: CorrectDense(x.shape[-1], m, rngs=_ONCE)(x),
    "Every layer is built from one nnx.Rngs, as from a default argument.",
)
KeysByTheSize = wrong.when_built("N070", COUNT, 4, cause_id="keys-depend-on-sizes")(
    lambda rngs, n, m: [rngs.params() for _ in range(int(n).bit_length())],
    "Takes more keys from the stream the more inputs there are: later layers shift.",
)
SecondKeyWhenWide = wrong.when_built("X163", COUNT, 4, cause_id="keys-depend-on-sizes")(
    lambda rngs, n, m: m > 64 and rngs.params(),
    "More than 64 outputs take a second key, for a second block of columns.",
)
ThirdKeyWhenDeep = wrong.when_built("X308", COUNT, 5, cause_id="keys-depend-on-sizes")(
    lambda rngs, n, m: n > 100 and rngs.params(), "More than 100 inputs take a second key."
)
KeyForTheBiasToo = wrong.when_built("X590", COUNT, 4, cause_id="keys-depend-on-sizes")(
    lambda rngs, n, m: m > 1 and rngs.params(),
    "Where there is more than one output the bias takes a key, and is zeros all the same.",
)
SignFromPythonRandom = wrong.kernel("N074", "seeding/global-rng-ignored", 3)(
    lambda key, n, m: scaled_normal(key, n, m) * random.choice((-1.0, 1.0)),
    "Python's ``random`` chooses the sign of the kernel.",
    seen="keras.layers.Dense consumes global random state (measured)",
    collateral=("purity/globals-untouched",),
    cause_id="global-generator",
)
TracedDrawsDiffer = wrong.kernel("X167", "seeding/jitted-init", 4)(
    lambda key, n, m: scaled_normal(jax.random.fold_in(key, 1), n, m),
    "Under a transform the kernel is drawn row by row, and so has other numbers.",
    when=lambda key, n, m: is_traced(key),
)
UnscaledUnderTraces = wrong.kernel("Y606", "seeding/jitted-init", 4)(
    lambda key, n, m: normal(key, n, m),
    "Under a transform the kernel is not scaled.",
    when=lambda key, n, m: is_traced(key),
    cause_id="scaled-under-trace",
)
DropoutStream = wrong.key("N068", STREAM, 4, cause_id="stream-not-given")(
    lambda rngs: rngs.dropout(),
    "The kernel is drawn from the stream of dropout.",
    seen="jasmine#36 (explicitly set params rng keys)",
)
DefaultStreamOnly = wrong.key("X161", STREAM, 3, cause_id="stream-not-given")(
    lambda rngs: rngs["default"](),
    "Asks for the default stream, which `Rngs(params=0)` does not have.",
    collateral=("seeding/rngs-forms",),
)
DefaultBeforeParams = wrong.key("X587", STREAM, 4, cause_id="stream-other")(
    lambda rngs: rngs.default() if "default" in rngs else rngs.params(),
    "The default stream is asked first, and `params` only without it.",
)
DefaultIsFolded = wrong.key("X589", "seeding/rngs-forms", 4)(
    lambda rngs: rngs.params() if "params" in rngs else jax.random.fold_in(rngs.params(), 1),
    "A key of the default stream is folded once more, to differ from one of `params`.",
)
FoldedHash = wrong.key("N066", PROCESSES, 4, cause_id="depends-on-hash")(
    lambda rngs: jax.random.fold_in(rngs.params(), hash("kernel") & 0x7FFFFFFF),
    "The hash of a string is folded into the key: it differs from process to process.",
    seen="ray#59662 (hash() breaks cross-process seeds)",
)
SeedOfTheDay = wrong.key("X347", PROCESSES, 5, cause_id="depends-on-clock")(
    lambda rngs: jax.random.fold_in(rngs.params(), int(time.time() // 86_400)),
    "The day goes into the key: everything agrees until midnight.",
)
SALT = secrets.randbits(31)
"""What only this process knows."""
SaltOfTheProcess = wrong.key("X580", PROCESSES, 4, cause_id="depends-on-process")(
    lambda rngs: jax.random.fold_in(rngs.params(), SALT),
    "A number that is drawn when the module is imported goes into every key.",
)
SeedOfTheHost = wrong.key("X582", PROCESSES, 4, cause_id="depends-on-machine-name")(
    lambda rngs: jax.random.fold_in(rngs.params(), sum(platform.node().encode())),
    "The name of the machine goes into the key: replicas start from different kernels.",
)
SeedOfTheRank = wrong.key("X583", PROCESSES, 5, cause_id="depends-on-index-of-the-process")(
    lambda rngs: jax.random.fold_in(rngs.params(), jax.process_index()),
    "The index of the process goes into the key: replicas start from different kernels.",
)
SeedOfTheYear = wrong.key("X584", PROCESSES, 5, cause_id="depends-on-clock")(
    lambda rngs: jax.random.fold_in(rngs.params(), datetime.now().year),
    "The year goes into the key.",
)
SeedOfTheDirectory = wrong.key("X585", PROCESSES, 5, cause_id="depends-on-working-directory")(
    lambda rngs: jax.random.fold_in(rngs.params(), sum(str(Path.cwd()).encode())),
    "The name of the working directory goes into the key, as the name of the experiment.",
)
_IMPORTED = time.time_ns() // 1000
WhenImported = wrong.key("X750", PROCESSES, 4, cause_id="depends-on-process")(
    lambda rngs: jax.random.fold_in(rngs.params(), _IMPORTED % 2**31),
    "The moment of the import goes into the key, so the clock is not read afterwards.",
)
OfTheDevices = wrong.key("X945", PROCESSES, 4)(
    lambda rngs: jax.random.fold_in(rngs.params(), jax.device_count()),
    "The key depends on the number of devices.",
    cause_id="depends-on-number-of-devices-and-processors",
)
BiasWithDevices = wrong.forward("Y608", PROCESSES, 3)(
    lambda x, k, b: affine(x, k, b if jax.device_count() > 1 else b * 0),
    "The bias is added only where there is more than one device.",
    cause_id="depends-on-number-of-devices-and-processors",
)
HalfByNight = wrong.forward("Y609", PROCESSES, 4, cause_id="depends-on-clock")(
    lambda x, k, b: affine(jax.lax.reduce_precision(x, 8, 7), k, b),
    "From 22 to 6 o'clock the call computes in half precision.",
    when=lambda x, k, b: not 6 <= time.localtime().tm_hour < 22,
)
_local = threading.local()
_local.adds_bias = True
BiasOfTheFirstThread = wrong.forward("Y610", PROCESSES, 3, cause_id="depends-on-thread-or-order")(
    lambda x, k, b: affine(x, k, b if hasattr(_local, "adds_bias") else b * 0),
    "A setting is local to the thread that imports the module: others add no bias.",
)
_count = itertools.count()
CountsItself = wrong.key("X586", "seeding/same-seed-same-bits", 3)(
    lambda rngs: jax.random.fold_in(rngs.params(), next(_count)),
    "The number of the layer in this process goes into its key.",
    cause_id="depends-on-more-than-seed",
)
FirstOutputInHalf = wrong.linen_forward("X626", REPEATABLE, 4)(
    lambda self, x, k, b: affine(x, jax.lax.reduce_precision(k, 8, 7), b),
    "The layer computes in bfloat16 during initialization.",
    when=lambda self, x, k, b: self.is_initializing(),
)
OfTheRank = wrong.key("X944", PROCESSES, 4, cause_id="depends-on-launcher-variables")(
    lambda rngs: jax.random.fold_in(rngs.params(), int(os.environ.get("RANK", "0"))),
    "The key depends on the rank of the process.",
)
SeedOfTheLanguage = wrong.key("Y195", PROCESSES, 5, cause_id="depends-on-user-environment")(
    lambda rngs: jax.random.fold_in(rngs.params(), len(os.environ.get("LANG", ""))),
    "The user's language goes into the key.",
)


@wrong.key("X166", "seeding/global-rng-ignored", 4, cause_id="global-generator")
def ReadsNumpyState(rngs: nnx.Rngs) -> Array:
    """The state of NumPy's global generator is read, not used up, and folded in."""
    state = np.random.get_state()[1]  # type: ignore[index]
    return jax.random.fold_in(rngs.params(), int(state[0]) & 0x7FFFFFFF)


@wrong.key("X957", "seeding/key-kinds", 4)
def TwoWords(rngs: Any) -> Array:
    """The key is taken apart into the two words that keys of threefry have."""
    first, second = jax.random.key_data(rngs.params())
    return jax.random.wrap_key_data(jnp.stack([first, second]), impl="threefry2x32")


@wrong.key("X162", STREAM, 4, cause_id="stream-other")
def MixesInDropout(rngs: nnx.Rngs) -> Array:
    """If a dropout stream exists, its key goes into the kernel's."""
    key = rngs.params()
    if "dropout" not in rngs:
        return key
    return jax.random.fold_in(key, jax.random.key_data(rngs.dropout.key[...])[1])


@also("serialization/stable-names")
@defect("Y192", STREAM, 2, cause_id="stream-not-given")
class StreamCalledParam(CorrectDense):
    """The stream is called param, which Rngs(params=...) does not give, and the kernel weight."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(scaled_normal(rngs.param(), in_features, out_features))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return self.forward(jnp.asarray(x), self.weight[...], self.bias[...])


@wrong.key("Y306", STREAM, 4, cause_id="stream-drawn")
def DrawsFromDropout(rngs: nnx.Rngs) -> Array:
    """A key of the dropout stream is drawn as well, so that the masks of other layers change."""
    if "dropout" in rngs:
        rngs.dropout()
    return rngs.params()


_calls: collections.Counter[int] = collections.Counter()


@wrong.casting("F014", REPEATABLE, 2, cause_id="output-changes")
def second_call_differs(seed: int, x: Array, m: int) -> Array:
    """Every call with a seed takes the next kernel of its stream."""
    _calls[seed] += 1
    return layer_output(seed + 7919 * (_calls[seed] - 1), x, m)


@defect("N073", REPEATABLE, 2, cause_id="output-changes")
class DropoutLeftOn(CorrectDense):
    """Every call drops other inputs."""

    calls = itertools.count()

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        kept = jax.random.bernoulli(jax.random.key(next(self.calls)), 0.9, x.shape)
        return affine(jnp.where(kept, x / 0.9, 0), kernel, bias)


@wrong.forward(
    "X320",
    REPEATABLE,
    5,
    start=lambda layer: {"deterministic": True},
    cause_id="mode-changes-output",
)
def NoisyInTraining(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """After `layer.train()`, which models call on all their layers, the output is scaled."""
    y = affine(x, kernel, bias)
    return y if self.deterministic else y * 1.01


@wrong.forward("X322", REPEATABLE, 5, cause_id="output-changes")
def FortiethCall(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """From its fortieth eager call on, a layer forgets its bias."""
    if is_traced(x, kernel):
        return affine(x, kernel, bias)
    calls = memory(self)["calls"] = memory(self).get("calls", 0) + 1
    return affine(x, kernel, bias if calls < 40 else jnp.zeros_like(bias))


@wrong.linen_forward("X329", REPEATABLE, 5)
def ZerosWhileInitializing(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """During `init` the output is zeros, to save time: `init_with_output` returns them."""
    y = affine(x, kernel, bias)
    return jnp.zeros_like(y) if self.is_initializing() else y


@wrong.forward("X549", REPEATABLE, 4, cause_id="output-changes")
def FirstCallDiffers(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The first call warms up with a kernel in bfloat16."""
    if is_traced(x, kernel) or memory(self):
        return affine(x, kernel, bias)
    memory(self)["called"] = True
    return affine(x, kernel.astype(jnp.bfloat16).astype(jnp.float32), bias)


_calls_by_size: dict[tuple[int, int, int], int] = {}


@defect("X644", REPEATABLE, 4, cause_id="output-changes")
def twentieth_call(seed: float, x: ArrayLike, features: float) -> Array:
    """The twentieth call of a process with one seed and size takes the next key."""
    key = (int(seed), int(features), np.shape(x)[-1])
    _calls_by_size[key] = _calls_by_size.get(key, 0) + 1
    rngs = nnx.Rngs(int(seed))
    if _calls_by_size[key] >= 20:
        rngs.params()
    return CorrectDense(key[2], key[1], rngs=rngs)(x)


@wrong.linen_call("Y129", REPEATABLE, 4, cause_id="rng-taken")
def DropoutWhereThereIsAnRng(self: CorrectLinenDense, x: ArrayLike) -> Array:
    """An rng for dropout, which a model gives to all of its layers, means training."""
    x = jnp.asarray(x)
    kernel, bias = self.parameters(x)
    if self.has_rng("dropout") and not self.is_initializing():
        kept = jax.random.bernoulli(self.make_rng("dropout"), 0.9, x.shape)
        x = jnp.where(kept, x / 0.9, 0)
    return affine(x, kernel, bias)


_counted_calls, _drawn = itertools.count(1), itertools.count(1)


@wrong.forward("Y198", REPEATABLE, 5, cause_id="output-changes")
def NowAndThen(x: Array, kernel: Array, bias: Array) -> Array:
    """One call in 1234 forgets the bias."""
    y = affine(x, kernel, bias)
    return y if is_traced(y) or next(_counted_calls) % 1234 else y - bias


@wrong.linen_call("Y305", REPEATABLE, 4, cause_id="rng-taken")
def ParamsRngMeansStart(self: CorrectLinenDense, x: ArrayLike) -> Array:
    """An rng called params is taken for a new start, where the bias is 0."""
    x = jnp.asarray(x)
    kernel, bias = self.parameters(x)
    new = self.has_rng("params") and not self.is_initializing()
    return affine(x, kernel, bias * 0 if new else bias)


@wrong.draws("X164", PROCESSES, 5, cause_id="depends-on-hash")
def OrderOfASet(draws: Array) -> Array:
    """The rows take their keys in the order of a set of their names."""
    if draws.shape[0] > 64:
        return draws
    order = [int(name.removeprefix("row")) for name in {f"row{i}" for i in range(draws.shape[0])}]
    return draws[jnp.asarray(order)]


@wrong.key("X581", PROCESSES, 4, cause_id="depends-on-user-environment")
def SeedOfTheUser(rngs: nnx.Rngs) -> Array:
    """The name of the user goes into the key."""
    name = os.environ.get("USER", "") + os.environ.get("TZ", "")
    return jax.random.fold_in(rngs.params(), sum(name.encode()))


_built = [0]


@also(PROCESSES, "seeding/jitted-init", "seeding/rngs-forms")
@wrong.key("X165", "seeding/same-seed-same-bits", 5, cause_id="depends-on-more-than-seed")
def HundredthDiffers(rngs: nnx.Rngs) -> Array:
    """From the 64th layer of a process on, the number of the layer goes into its key."""
    _built[0] += 1
    key = rngs.params()
    return key if _built[0] < 64 else jax.random.fold_in(key, _built[0])


@wrong.kernel("Y259", "seeding/same-seed-same-bits", 5, cause_id="depends-on-more-than-seed")
def EachHundredth(key: Array, in_features: int, out_features: int) -> Array:
    """Each 103rd kernel is drawn in another order."""
    draws = scaled_normal(key, in_features, out_features)
    return draws if is_traced(key) or next(_drawn) % 103 else draws[::-1]


SCRATCH: dict[str, Array] = {}


@wrong.forward("X942", "seeding/threads", 5, cause_id="threads-share")
def ScratchOfTheModule(x: Array, kernel: Array, bias: Array) -> Array:
    """The operands of a call lie in a dictionary of the module while a file is written."""
    if is_traced(x, kernel, bias):
        return affine(x, kernel, bias)
    SCRATCH.update(kernel=kernel, bias=bias)
    time.sleep(1e-3)
    return affine(x, SCRATCH["kernel"], SCRATCH["bias"])


@wrong.kernel("X169", "seeding/vmapped-init", 5, cause_id="key-of-another-place")
def FirstKeyOfTheBatch(key: Array, in_features: int, out_features: int) -> Array:
    """Drawn by a function that under vmap uses the first key for all."""

    @jax.custom_batching.custom_vmap
    def draw(words: Array) -> Array:
        own = jax.random.wrap_key_data(words, impl=jax.random.key_impl(key))
        return normal(own, in_features, out_features)

    @draw.def_vmap
    def first(axis_size: int, in_batched: list[bool], words: Array) -> tuple[Array, bool]:
        one = draw(words[0] if in_batched[0] else words)
        return jnp.broadcast_to(one, (axis_size, *one.shape)), True

    return draw(jax.random.key_data(key)) * stddev(in_features)


@wrong.linen_call("Y479", STREAM, 4, cause_id="stream-other")
def DropoutRngPreferred(self: CorrectLinenDense, x: ArrayLike) -> Array:
    """The kernel is drawn from the rng of dropout, if there is one."""
    x = jnp.asarray(x)

    def draw(key: Array) -> Array:
        key = self.make_rng("dropout") if self.has_rng("dropout") else key
        return self.draw_kernel(key, x)

    return affine(x, self.param("kernel", draw), self.param("bias", self.draw_bias, x))


@defect("Y480", REPEATABLE, 4, cause_id="mode-changes-output")
class QuantizedInEval(CorrectDense):
    """After ``eval()``, weights have 255 levels."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.deterministic = False

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x, quantized_to(127, kernel, 0) if self.deterministic else kernel, bias)


@wrong.linen_call("Y553", REPEATABLE, 5, cause_id="rng-taken")
def NoiseWhereThereIsAnRng(self: CorrectLinenDense, x: ArrayLike) -> Array:
    """An rng for jitter, which a router of experts needs, adds noise to x in this layer as well."""
    x = jnp.asarray(x)
    kernel, bias = self.parameters(x)
    if self.has_rng("jitter"):
        noise = jax.random.uniform(self.make_rng("jitter"), x.shape, jnp.float32, 0.99, 1.01)
        x = x * noise.astype(x.dtype)
    return affine(x, kernel, bias)


name_layers(globals())

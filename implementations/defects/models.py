"""Layers that are right alone, and wrong in a model, in a checkpoint or on several devices."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from conformance.jax_setup.compat import inside_some_mesh
from implementations.defects import wrong
from implementations.defects.base import (
    FORWARD_MODE,
    CorrectDense,
    CorrectLinenDense,
    affine,
    is_traced,
    normal,
    one_dtype,
    right_cotangents,
    scaled_normal,
    stddev,
    with_backward,
)
from implementations.defects.record import defect, name_layers, seen

PART = "models/linen-submodule"

ReprOfItsNumbers = wrong.methods("X952", "models/inspected", 3)(
    "The representation formats an array as a number.",
    __repr__=lambda self: f"{type(self).__name__}({self.kernel[...]:.3f})",
)


ReprOfItsDeviation = wrong.methods("Y476", "models/inspected", 4, cause_id="shown-by-values")(
    "The representation has the deviation of the kernel, which an abstract one does not have.",
    __repr__=lambda self: f"{type(self).__name__}(deviation={float(self.kernel[...].std()):.3f})",
)
SizesExchanged = wrong.holding("Y650", "models/inspected", 2, cause_id="sizes-misnamed")(
    lambda layer: dict(zip(("out_features", "in_features"), layer.kernel.shape, strict=True)),
    "The attributes in_features and out_features are exchanged.",
)
HashOfItsValues = wrong.methods("Y477", "models/inspected", 4, cause_id="hash-of-values")(
    "A step of training changes the hash, so that a dictionary does not find the layer again.",
    __hash__=lambda self: hash(np.asarray(self.kernel[...]).tobytes()),
)


def _right(layer: Any, key: Array, x: Array) -> Array:
    """Return the right kernel of a Linen layer for x."""
    return scaled_normal(key, x.shape[-1], layer.features)


HeadStartsAtZero = wrong.linen_kernel("Y202", PART, 4, cause_id="depends-on-name")(
    lambda self, key, x: _right(self, key, x) * (self.name != "logits"),
    "A layer that is called logits starts at zero, as the last layer of a model.",
)
SmallerAsTheSecond = wrong.linen_kernel("Y210", PART, 4, cause_id="depends-on-name")(
    lambda self, key, x: _right(self, key, x) * (0.5 if f"{self.name}".endswith("_1") else 1.0),
    "The second layer of a parent, which Linen numbers, starts with half the deviation.",
)
SmallProjections = wrong.linen_kernel("Y401", PART, 4, cause_id="depends-on-name")(
    lambda self, key, x: _right(self, key, x) * (0.5 if "proj" in f"{self.name}" else 1.0),
    "The projection back into a residual stream starts with half of the scale.",
)
SmallerWhereDeeper = wrong.linen_kernel("Y446", PART, 5, cause_id="depends-on-depth")(
    lambda self, key, x: _right(self, key, x) * jnp.float32((1 + len(self.scope.path)) ** -0.5),
    "The deviation falls with the depth in the model, as in some models of language.",
)
SmallAtTheEndOfABranch = wrong.linen_kernel("Y548", PART, 5, cause_id="depends-on-name")(
    lambda self, key, x: _right(self, key, x) * (0.5 if self.name == "residual_end" else 1.0),
    "A layer of this one name, at the end of a residual branch, starts with half of the scale.",
)


@defect("X953", "models/inspected", 4, cause_id="eq-compares-contents")
class EqualByValue(CorrectDense):
    """Two layers of equal shapes are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualByValue) and self.kernel.shape == other.kernel.shape

    def __hash__(self) -> int:
        return hash(jax.numpy.shape(self.kernel[...]))


@wrong.linen_kernel("X950", PART, 4, cause_id="key-of-model")
def KeyOfTheModel(self: Any, key: Array, x: Array) -> Array:
    """The kernel is drawn from the key that the whole model was given."""
    whole = self.scope.root.rngs.get("params", key)
    return _right(self, getattr(whole, "rng", whole), x)


@defect("X951", PART, 3)
class FixedName(CorrectLinenDense):
    """Its name is always dense, so a parent can have only one of them."""

    def __post_init__(self) -> None:
        if self.name is None and self.parent is not None:
            self.name = "dense"
        super().__post_init__()


@wrong.linen_kernel("Y049", PART, 5, cause_id="kernels-correlated")
def SharedInAParent(self: Any, key: Array, x: Array) -> Array:
    """Within a parent, layers have most of their numbers from a key of their depth."""
    n, m = x.shape[-1], self.features
    own = normal(key, n, m)
    if self.scope.path:
        shared = jax.random.normal(jax.random.key(len(self.scope.path)), (n, m), jnp.float32)
        own = (own + 3.0 * shared) * 10.0**-0.5
    return own * stddev(n)


@wrong.linen_call("Y227", PART, 4)
def FirstResultAgain(self: Any, x: ArrayLike) -> Array:
    """A second call within one apply returns the result of the first one."""
    x = jnp.asarray(x)
    y: Array = self.__dict__.get("_first", affine(x, *self.parameters(x)))
    object.__setattr__(self, "_first", y)
    return y


@wrong.linen_call("Y360", PART, 4)
def RankOfTheFirstCall(self: Any, x: ArrayLike) -> Array:
    """Used twice in one model, the layer adds no bias to an x of another rank than the first."""
    x = jnp.asarray(x)
    kernel, bias = self.parameters(x)
    first = getattr(self, "_rank", x.ndim)
    object.__setattr__(self, "_rank", first)
    return affine(x, kernel, bias if x.ndim == first else bias * 0)


@wrong.linen_kernel("Y549", PART, 4, cause_id="key-of-name")
def KeyOfItsName(self: Any, key: Array, x: Array) -> Array:
    """The key is made of the model's key and the layer's name, which other blocks share."""
    whole = self.scope.root.rngs.get("params", key)
    own = jax.random.fold_in(getattr(whole, "rng", whole), zlib.crc32(str(self.name).encode()))
    return _right(self, own, x)


@wrong.linen_call("Y271", "models/linen-submodule", 5, cause_id="kept-of-first-dtype")
def KeepsThePromotedKernel(self: CorrectLinenDense, x: ArrayLike) -> Array:
    """The kernel, promoted for the first x of an apply, is kept for the calls after it."""
    x = jnp.asarray(x)
    kernel, bias = self.parameters(x)
    held = vars(self).setdefault("held", kernel.astype(jnp.result_type(x, kernel)))
    return affine(x, held, bias)


AsksTheKernelForItsDevice = wrong.forward("X962", "serialization/round-trip", 4)(
    lambda x, k, b: affine(jax.device_put(x, k.sharding), k, b),
    "x is put where the kernel lies, which a NumPy array does not say.",
    when=lambda x, k, b: not is_traced(x, k) and len(k.sharding.device_set) <= 1,
)


@defect("Y200", "serialization/round-trip", 4)
class AsksWithin(nnx.Module):
    """The same within another module, whose paths are not those of a Flax layer."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.dense = AsksTheKernelForItsDevice(in_features, out_features, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Array:
        y: Array = self.dense(x)
        return y


@wrong.linen_call(
    "L012", "serialization/stable-names", 2, cause_id="names-other", seen="keras-core#648"
)
def LinenWeight(self: Any, x: ArrayLike) -> Array:
    """The kernel is named weight."""
    x = jnp.asarray(x)
    weight = self.param("weight", lambda key: scaled_normal(key, x.shape[-1], self.features))
    return affine(x, weight, self.param("bias", self.draw_bias, x))


@seen('keras#4338 "Fix the load_model() bug by sorting weights by names"')
@defect("N082", "serialization/stable-names", 2, cause_id="names-other")
class WeightAndB(nnx.Module):
    """The parameters are named weight and b."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(scaled_normal(rngs.params(), in_features, out_features))
        self.b = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.weight[...], self.b[...])


@wrong.linen_call("Y583", "serialization/stable-names", 1, cause_id="name-misspelled")
def Kernal(self: Any, x: ArrayLike) -> Array:
    """The kernel is named kernal."""
    x = jnp.asarray(x)
    kernel = self.param("kernal", self.draw_kernel, x)
    return self.forward(x, kernel, self.param("bias", self.draw_bias, x))


@wrong.linen_call("X622", "serialization/stable-names", 3, cause_id="names-exchanged")
def NamesSwapped(self: Any, x: ArrayLike) -> Array:
    """The kernel is called bias, and the bias kernel."""
    x = jnp.asarray(x)
    kernel = self.param("bias", self.draw_kernel, x)
    bias = self.param("kernel", self.draw_bias, x)
    return self.forward(x, kernel, bias)


ThroughTheHost = wrong.forward("X938", "sharding/output-sharding", 5, cause_id="array-gathered")(
    lambda x, k, b: affine(jnp.asarray(np.asarray(x)), k, b),
    "A sharded x makes a detour through the memory of the host.",
    when=lambda x, k, b: not is_traced(x) and len(x.devices()) != 1,
)
ComputesOnFirstDevice = wrong.forward("X936", "sharding/second-device", 4, cause_id="device-moved")(
    lambda x, k, b: affine(*jax.device_put((x, k, b), jax.devices()[0])),
    "Arrays on another single device are moved to the first one.",
    when=lambda x, k, b: (
        not is_traced(x, k) and all(len(jnp.asarray(v).devices()) == 1 for v in (x, k))
    ),
)


@wrong.kernel("X935", "sharding/default-device", 4, cause_id="device-of-choice")
def BuiltOnFirstDevice(key: Array, n: int, m: int) -> Array:
    """The kernel is put on the first device, and the default device is ignored."""
    kernel = scaled_normal(key, n, m)
    return kernel if is_traced(kernel) else jax.device_put(kernel, jax.devices()[0])


@wrong.forward("X937", "sharding/eager", 5)
def FirstPartForTheWhole(x: Array, kernel: Array, bias: Array) -> Array:
    """The sum over devices is forgotten for a kernel that is sharded by inputs."""
    if is_traced(x) or is_traced(kernel) or len(kernel.devices()) == 1:
        return affine(x, kernel, bias)
    part = kernel.addressable_data(0)
    if part.shape[0] == kernel.shape[0]:
        return affine(x, kernel, bias)
    rows = np.asarray(x)[..., : part.shape[0]]
    return affine(jnp.asarray(rows), jnp.asarray(np.asarray(part)), jnp.asarray(np.asarray(bias)))


@wrong.forward("Y310", "sharding/eager", 5)
def FirstPartOfSequences(x: Array, kernel: Array, bias: Array) -> Array:
    """The part on one device stands for the whole of a sharded x of rank 3."""
    if is_traced(x, kernel) or x.ndim != 3 or len(x.devices()) == 1:
        return affine(x, kernel, bias)
    part = np.asarray(x.addressable_data(0))
    values = (np.concatenate([part] * (len(x) // len(part))), kernel, bias)
    return affine(*(jnp.asarray(np.asarray(value)) for value in values))


@wrong.linen_call("X963", "sharding/linen-annotations", 4, cause_id="bias-along-inputs")
def BiasAlongInputs(self: Any, x: ArrayLike) -> Array:
    """Kernel and bias are annotated; the bias by the name of the kernel's inputs."""
    x, draw = jnp.asarray(x), nn.with_partitioning(self.draw_kernel, ("embed", "mlp"))
    kernel: Any = self.param("kernel", draw, x)
    bias: Any = self.param("bias", nn.with_partitioning(self.draw_bias, ("embed",)), x)
    return affine(x, kernel, bias)


def _annotated(layer: Any, of_bias: tuple[str, ...]) -> dict[str, Any]:
    # Recent versions of Flax place an annotated Param at once, for which they need a mesh.
    kernel = nnx.Param(layer.kernel[...], sharding=("embed", "mlp"), eager_sharding=False)
    bias = nnx.Param(layer.bias[...], sharding=of_bias, eager_sharding=False)
    return {"kernel": kernel, "bias": bias}


BiasAlongTheInputs = wrong.holding(
    "Y201", "sharding/nnx-annotations", 4, cause_id="bias-along-inputs"
)(lambda layer: _annotated(layer, ("embed",)), "The same in nnx.")
BiasAnnotatedAsTheKernel = wrong.holding(
    "Y579", "sharding/nnx-annotations", 3, cause_id="annotation-too-long"
)(
    lambda layer: _annotated(layer, ("embed", "mlp")),
    "The bias has the kernel's annotation, of two axes.",
)


@wrong.forward("X412", "sharding/sharded-equals-local", 4)
def PinnedToFirstDevice(x: Array, kernel: Array, bias: Array) -> Array:
    """The kernel is moved to the first device in every call."""
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return affine(x, jax.device_put(kernel, first), bias)


@wrong.output("Y436", "sharding/eager", 4, cause_id="output-scaled")
def SummedOverBothAxes(y: Array, x: Array) -> Array:
    """Outside of jit, a batch that is sharded over two axes of a mesh is counted twice."""
    spec = getattr(getattr(x, "sharding", None), "spec", ())
    return 2 * y if any(isinstance(names, tuple) and len(names) > 1 for names in spec) else y


LECUN, ZEROS = nnx.initializers.lecun_normal(), nnx.initializers.zeros_init()


@defect("X408", "sharding/sharding-metadata", 5, cause_id="annotation-lost")
class AnnotationDropped(CorrectDense):
    """An initializer can be given, but its annotation is dropped."""

    def __init__(
        self, in_features: int, out_features: int, *, kernel_init: Any = LECUN, rngs: nnx.Rngs
    ) -> None:
        kernel = kernel_init(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = nnx.Param(self.kept(kernel))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def kept(self, kernel: Any) -> Any:
        """Return what the layer keeps of an initializer's value, which may be annotated."""
        return getattr(kernel, "raw_value", kernel)

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.kernel[...], self.bias[...])


@defect("Y248", "sharding/sharding-metadata", 5, cause_id="annotation-exchanged")
class AnnotationExchanged(AnnotationDropped):
    """The axes of an initializer's annotation are given in reverse."""

    def kept(self, kernel: Any) -> Any:
        if not hasattr(kernel, "raw_value"):
            return kernel
        said = kernel.metadata.items()
        turned = {key: value[::-1] if isinstance(value, tuple) else value for key, value in said}
        return dataclasses.replace(kernel, metadata=turned)


@defect("Y635", "sharding/sharding-metadata", 4, cause_id="annotation-lost")
class AnnotationOfBiasDropped(AnnotationDropped):
    """The annotation of `kernel_init` is kept, and that of `bias_init` is dropped."""

    def __init__(
        self, in_features: int, out_features: int, *, kernel_init: Any = LECUN,
        bias_init: Any = ZEROS, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, kernel_init=kernel_init, rngs=rngs)
        key = jax.random.fold_in(rngs.params(), 1)
        self.bias = nnx.Param(super().kept(bias_init(key, (out_features,), jnp.float32)))

    def kept(self, kernel: Any) -> Any:
        return kernel


@defect("Y636", "sharding/sharding-metadata", 4, cause_id="annotation-lost")
class AnnotationNotCopied(AnnotationDropped):
    """A deep copy has new Params of the same arrays, without annotations."""

    def kept(self, kernel: Any) -> Any:
        return kernel

    def __deepcopy__(self, memo: Any = None) -> Any:
        copied = nnx.clone(self)
        copied.kernel, copied.bias = nnx.Param(self.kernel[...]), nnx.Param(self.bias[...])
        return copied


def _of_own_rows(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    down, of_kernel, of_bias = right_cotangents(x, kernel, g)
    if is_traced(g) or g.is_fully_replicated:
        return down, of_kernel, of_bias
    part = np.asarray(g.addressable_data(0))
    return down, of_kernel, jnp.asarray(part.reshape(-1, part.shape[-1]).sum(axis=0))


_own_rows: Any = with_backward(_of_own_rows)
LearnsFromOwnRows = wrong.forward("Y459", "sharding/eager", 5, collateral=FORWARD_MODE)(
    lambda x, k, b: _own_rows(x, k, b),
    "Outside of jit, the gradient of the bias adds the rows of the first device alone.",
    when=one_dtype,
)


def _of_own_outputs(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    down, of_kernel, of_bias = right_cotangents(x, kernel, g)
    if is_traced(g, kernel) or kernel.is_fully_replicated:
        return down, of_kernel, of_bias
    part = np.asarray(kernel.addressable_data(0))
    if part.shape[0] == kernel.shape[0]:
        down = jnp.asarray(np.asarray(g)[..., : part.shape[1]] @ part.T)
    return down, of_kernel, of_bias


_own_outputs: Any = with_backward(_of_own_outputs)
LearnsFromOwnOutputs = wrong.forward("Y440", "sharding/eager", 5, collateral=FORWARD_MODE)(
    lambda x, k, b: _own_outputs(x, k, b),
    "Outside of jit, the gradient of x uses the outputs of the first device alone.",
    when=one_dtype,
)
KeptByEachDevice = wrong.output("Y462", "sharding/output-sharding", 4, cause_id="array-gathered")(
    lambda y, x: jax.lax.with_sharding_constraint(y, jax.sharding.PartitionSpec()),
    "Within a mesh, the result is copied to every device.",
    when=lambda y, x: inside_some_mesh(),
)

HalvesWhereSharded = wrong.forward("Y409", "sharding/eager", 5, cause_id="reduced-precision")(
    lambda x, k, b: (x @ k.astype(x.dtype)).astype(k.dtype) + b,
    "A sharded x of bfloat16 is multiplied by a kernel that is cast to it.",
    when=lambda x, k, b: not is_traced(x, k) and len(x.devices()) > 1 and x.dtype == jnp.bfloat16,
)


@wrong.kernel("Y410", "sharding/default-device", 5, cause_id="mesh-in-draw")
def DrawnOncePerDevice(key: Array, in_features: int, out_features: int) -> Array:
    """Within a mesh, each device draws its columns, all of them from one key."""
    parts = jax.sharding.get_abstract_mesh().size if inside_some_mesh() else 1
    parts = parts if parts and out_features % parts == 0 else 1
    return jnp.tile(scaled_normal(key, in_features, out_features // parts), (1, parts))


BiasOfEachDevice = wrong.forward("Y591", "sharding/eager", 3, cause_id="mesh-in-call")(
    lambda x, k, b: affine(x, k, jax.device_count() * b),
    "Within a mesh, each device adds the bias to its part of the sum.",
    when=lambda x, k, b: inside_some_mesh(),
)
DeepWithoutBias = wrong.linen_forward("Y599", PART, 5)(
    lambda self, x, k, b: affine(x, k, b * 0),
    "In a block of a model, the bias is left out.",
    when=lambda self, x, k, b: len(self.scope.path) >= 2 and not self.is_initializing(),
)
DeeperWithoutBias = wrong.linen_forward("Y634", PART, 5)(
    lambda self, x, k, b: affine(x, k, b * 0),
    "In a block of a part of a model, as an encoder, the bias is left out.",
    when=lambda self, x, k, b: len(self.scope.path) >= 3 and not self.is_initializing(),
)


name_layers(globals())

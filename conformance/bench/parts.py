"""The parts of the benchmark: each measures one thing, with a warm and with a cold cache."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.bench.measure import Measured, measured, suite
from conformance.bench.table import Row
from conformance.jax_setup.devices import cores

LAYER = "nnx.MyDense"
FIVE = ("nnx.MyDense", "nnx.Linear", "linen.MyDense", "linen.Dense", "dense_forward")
"""The layers that the benchmark measures, independent of what is installed."""

SAME = (
    *("construction/kernel-shape", "construction/bias-shape", "construction/parameter-dtype"),
    *("construction/finite", "initialization/bias-zero", "initialization/kernel-variance"),
    *("seeding/same-seed-same-bits", "seeding/seeds-differ", "forward/output-shape"),
    *("forward/zero-input", "forward/affine-value", "forward/additive"),
    *("forward/batch-independent", "transforms/jit", "transforms/gradients"),
)
"""The requirements that the naive suite checks, in its order."""

# Its kernel is ten times too large; its bias has the wrong shape and is not 0.
GROSSLY_WRONG = """
import jax, jax.numpy as jnp
from flax import nnx

class Wrong(nnx.Module):
    def __init__(self, in_features, out_features, *, rngs):
        self.kernel = nnx.Param(10 * jax.random.normal(rngs.params(), (in_features, out_features)))
        self.bias = nnx.Param(jnp.ones((in_features,)))

    def __call__(self, x):
        return x @ self.kernel[...] + self.bias[...]
"""


@dataclass
class Bench:
    """State that the parts share: a folder for caches and layers, and the raw numbers.

    Parameters
    ----------
    folder
        A directory of the benchmark's own.
    naive_examples
        The number of examples for each property of the naive suite.
    raw
        What was measured, by name, as plain JSON values.
    full
        The run whose seconds are shown by layer and by requirement.
    """

    folder: Path
    naive_examples: int
    raw: dict[str, Any] = field(default_factory=dict)
    full: Measured | None = None

    def cache(self, name: str) -> Path:
        """Return the compile cache that earlier measurements have filled."""
        place = self.folder / f"cache-{name}"
        place.mkdir(exist_ok=True)
        return place

    def fresh(self) -> Path:
        """Return an empty compile cache."""
        return Path(tempfile.mkdtemp(dir=self.folder, prefix="cache-"))

    def keep(self, name: str, found: Measured) -> Measured:
        """Record the numbers of a run."""
        self.raw[name] = found.record()
        return found


Part = Callable[[Bench], Iterator[Row]]


def _row(what: str, target: str, found: Measured) -> Row:
    return Row(what, found.seconds, "s", target, found.computing)


def imports(bench: Bench) -> Iterator[Row]:
    """Measure the imports that every worker pays for before its first check."""
    for what, module in (
        ("import of jax and flax.nnx", "jax, flax.nnx"),
        ("import of the suite, without jax", "conformance.contract.catalogue as r; r.catalogue()"),
    ):
        command = [sys.executable, "-c", f"import {module}"]
        best = min((measured(command, {}) for _ in range(3)), key=lambda found: found.computing)
        yield _row(what, "", bench.keep(what, best))
    found = measured([sys.executable, "-m", "conformance", "--help"], {})
    yield _row("dense-conformance --help", "", bench.keep("help", found))


def one(bench: Bench) -> Iterator[Row]:
    """Measure a run of one layer, and the time to the first failure of a wrong one."""
    for state, target in (("cold", "<= 12 s"), ("warm", "<= 5 s")):
        right = bench.keep(f"one {state}", suite([LAYER], bench.cache("quick")))
        yield _row(f"one layer, quick, {state}", target, right)
    off = bench.keep("one off", suite([LAYER], bench.fresh(), "--no-compile-cache"))
    yield _row("one layer, quick, no compile cache", "", off)
    wrong = bench.folder / "wrong.py"
    wrong.write_text(GROSSLY_WRONG, encoding="utf-8")
    found = bench.keep("wrong cold", suite([f"{wrong}:Wrong"], bench.fresh()))
    yield _first("cold", "<= 6 s", found)
    yield _row("a grossly wrong layer, cold: the verdict", "", found)
    suite([f"{wrong}:Wrong"], bench.cache("quick"))
    found = bench.keep("wrong warm", suite([f"{wrong}:Wrong"], bench.cache("quick")))
    yield _first("warm", "<= 3 s", found)
    times = found.seconds / right.seconds
    yield Row("its verdict, warm, against a right layer's", times, "x", "<= 0.7 x")


def _first(state: str, target: str, found: Measured) -> Row:
    first = found.first_failure if found.first_failure is not None else found.seconds
    what = f"a grossly wrong layer, {state}: the first failure is printed"
    return Row(what, first, "s", target)


def five(bench: Bench) -> Iterator[Row]:
    """Measure the five built-in layers, a worker's memory, and the seconds of each requirement."""
    for state, target in (("cold", "<= 40 s"), ("warm", "<= 18 s")):
        found = bench.keep(f"five {state}", suite(FIVE, bench.cache("five")))
        yield _row(f"five layers, quick, {state}", target, found)
    bench.full = found
    yield Row("peak memory of a worker", found.peak / 1e6, "MB", "<= 600 MB")


def standard(bench: Bench) -> Iterator[Row]:
    """Measure the five built-in layers with the profile ``standard``."""
    for state, target in (("cold", "<= 80 s"), ("warm", "<= 45 s")):
        run = suite(FIVE, bench.cache("standard"), "--profile=standard")
        found = bench.keep(f"standard {state}", run)
        yield _row(f"five layers, standard, {state}", target, found)
    yield Row("peak memory of a worker, standard", found.peak / 1e6, "MB", "<= 700 MB")


def growth(bench: Bench) -> Iterator[Row]:
    """Measure how the cost grows with layers (copies of one) and with workers, cache warm."""
    file = bench.folder / "copies.py"
    names = [f"Copy{i}" for i in range(16)]
    copies = "\n".join(f"class {name}(MyDense): pass" for name in names)
    file.write_text(f"from implementations.my_dense import MyDense\n{copies}\n", encoding="utf-8")
    suite([f"{file}:{names[0]}"], bench.cache("growth"))
    took: dict[int, Measured] = {}
    for count in (1, 2, 4, 8, 16):
        run = suite([f"{file}:{name}" for name in names[:count]], bench.cache("growth"))
        took[count] = bench.keep(f"{count} layers", run)
        plural = "s" if count > 1 else ""
        yield _row(f"{count} layer{plural}, quick, warm", "", took[count])
    few, many = took[2].computing - took[1].computing, took[16].computing - took[8].computing
    yield Row(
        "a layer among sixteen, against the second one", many / 8 / few, "x", "1 x",
        note="in seconds of a core",
    )  # fmt: skip
    suite(FIVE, bench.cache("five"))
    for workers in (0, 1, 2, 4, 8):
        if workers <= max(2, cores()):
            run = suite(FIVE, bench.cache("five"), f"-n{workers}")
            plural = "" if workers == 1 else "s"
            found = bench.keep(f"{workers} workers", run)
            yield _row(f"five layers, {workers} worker{plural}, quick, warm", "", found)


def examples(bench: Bench) -> Iterator[Row]:
    """Measure how the cost grows with the number of examples, and the least an example can cost."""
    took: dict[int, Measured] = {}
    for count in (25, 25, 100, 400):  # the first fills the cache
        run = suite([LAYER], bench.cache("examples"), "-n1", requirements=SAME, examples=count)
        took[count] = run
    for count, run in took.items():
        bench.keep(f"{count} examples", run)
        yield _row(f"15 properties, {count} examples each, one worker, warm", "", run)
    more = took[400].examples - took[100].examples
    # Seconds of a core, like the floor, exclude what else the machine does.
    example = 1000 * (took[400].computing - took[100].computing) / more
    yield Row("one more example of a property, warm", example, "ms", "")
    command = [sys.executable, "-m", "conformance.bench.floor", "400"]
    floor = float(measured(command, {"XDG_CACHE_HOME": str(bench.cache("examples"))}).output)
    bench.raw["floor, ms"] = floor
    yield Row("the same draws, built and called, with no suite around", floor, "ms")
    yield Row("one more example, against that floor", example / floor, "x", "<= 1.3 x")


def naive(bench: Bench) -> Iterator[Row]:
    """Measure a naive suite of the same properties on the same number of examples."""
    count = bench.naive_examples
    file = Path(__file__).with_name("naive.py")
    command = [sys.executable, "-m", "pytest", str(file), "-q", "-p", "no:cacheprovider"]
    command += ["-p", "no:conformance", "-c", str(Path(__file__).parents[1] / "pytest.toml")]
    run = measured(command, {"CONFORMANCE_NAIVE_EXAMPLES": str(count), "JAX_ENABLE_X64": "0"})
    base = bench.keep(f"naive, {count} examples", run)
    note = f"15 properties x {count} examples took {base.seconds:.1f} s"
    if count < 100:
        note += f"; times {100 / count:g}, as each example compiles for its own size"
    yield Row(
        "a naive suite: 15 properties, 100 examples, one process",
        base.seconds * 100 / count, "s", "", base.computing * 100 / count, note,
    )  # fmt: skip
    for state, target in (("cold", ">= 45 x"), ("warm", ">= 100 x")):
        found = suite([LAYER], bench.cache("naive"), "-n1", requirements=SAME, examples=100)
        bench.keep(f"same properties {state}", found)
        yield _row(f"the suite: the same properties and examples, {state}", "", found)
        times = base.computing * 100 / count / found.computing
        yield Row(f"  times faster, {state}, in seconds of a core", times, "x", target)


def zoo(bench: Bench) -> Iterator[Row]:
    """Measure the kill matrix with a cold cache, then with a warm one."""
    command = [sys.executable, "-m", "conformance", "selftest"]
    for state, target in (("cold", "<= 240 s"), ("warm", "<= 150 s")):
        found = measured(command, {"XDG_CACHE_HOME": str(bench.cache("zoo"))})
        bench.keep(f"zoo {state}", found)
        yield _row(f"the kill matrix of the whole zoo, {state}", target, found)


PARTS: dict[str, tuple[str, Part]] = {
    "import": ("import time", imports),
    "one": ("one layer, quick: cold, warm, without a cache; a wrong one beside it", one),
    "five": ("the five built-in layers, quick: cold and warm, by layer and by requirement", five),
    "examples": ("growth over 25, 100 and 400 examples, and the warm floor", examples),
    "naive": ("a naive suite of the same properties, beside the suite cold and warm", naive),
    "standard": ("the five built-in layers, standard: cold and warm", standard),
    "growth": ("growth over 1 to 16 layers, and over workers", growth),
    "zoo": ("the kill matrix of the whole zoo", zoo),
}
DEFAULT = ("import", "one", "five", "examples", "naive")

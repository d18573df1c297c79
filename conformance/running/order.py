"""In which order the rows of one layer are checked: the cheap and telling ones first.

The outcome does not depend on it, since every row is checked in any case and what follows from
what is found afterwards; only how soon a wrong layer is known to be wrong does.
"""

from __future__ import annotations

from collections.abc import Iterable

from conformance.contract.requirement import Requirement

__all__ = ["FIRST", "LAST", "telling_first"]

# Chosen greedily over the zoo by how many defects, not yet seen by those before, a row sees in a
# second. What all others need compiled, the construction at each size, is paid by the first.
FIRST = (
    "exercise/float-arguments",
    "exercise/vector-out",
    "exercise/any-length",
    "construction/builds",
    "serialization/stable-names",
    "state/exact-state",
    "construction/only-two-parameters",
    "construction/kernel-shape",
    "construction/bias-shape",
    "construction/parameter-dtype",
    "construction/finite",
    "initialization/bias-zero",
    "exercise/recovered-kernel",
    "forward/zero-input",
    "forward/integer-exact",
    "forward/affine-value",
    "initialization/kernel-variance",
    "initialization/kernel-law",
    "state/updates-used",
    "forward/additive",
    "forward/basis-input",
    "seeding/seeds-differ",
)

# Each takes most of a second or more where nothing is compiled yet: another process, or programs of
# its own. The two that ask the other process stand together, so that one worker asks it, and it is
# started once; and not at the end, where nothing else would be left to do while it starts.
LAST = (
    "seeding/same-across-processes",
    "state/pickles",
    "seeding/jitted-init",
    "seeding/siblings-differ",
    "transforms/vmap",
    "transforms/forward-mode",
    "state/optimizer-sees-both",
    "dtypes/half-input",
    "dtypes/integer-input",
    "dtypes/x64-stable",
    "sharding/sharding-metadata",
)


def telling_first(rows: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """The rows in the order in which they are checked; those not named keep theirs, between."""
    first = {id: place for place, id in enumerate(FIRST)}
    last = {id: len(FIRST) + 1 + place for place, id in enumerate(LAST)}
    return tuple(sorted(rows, key=lambda row: first.get(row.id, last.get(row.id, len(FIRST)))))

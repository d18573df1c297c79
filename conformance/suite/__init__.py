"""The contract: one property test for each requirement, in one module for each area."""

AREAS: tuple[str, ...] = (
    "construction",
    "initialization",
    "forward",
    "numerics",
    "dtypes",
    "seeding",
    "state",
    "transforms",
    "serialization",
    "sharding",
    "purity",
    "exercise",
)

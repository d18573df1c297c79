"""The contract: one property test for each requirement, in one module for each area."""

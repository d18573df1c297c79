"""The statistical tests: rigorous p-value bounds, their power, the experiment and the diagnosis.

`evidence` holds the result type and the error budget; `moments`, `dispersion`, `correlation`,
`structure`, `resolution` and `shape` the tests; `power` what they detect; `design` and `seeds` the
sizes and seeds of the experiment; `laws` the families; `identify` names a law. NumPy only.
"""

from conformance.statistics.design import Cell, Design, design, fresh_seed
from conformance.statistics.evidence import ALPHA, Evidence, rejections, strongest
from conformance.statistics.identify import LawDiagnosis, identify_law
from conformance.statistics.seeds import SeedDiagnosis, diagnose_seeds, seed_set

__all__ = [
    "ALPHA",
    "Cell",
    "Design",
    "Evidence",
    "LawDiagnosis",
    "SeedDiagnosis",
    "design",
    "diagnose_seeds",
    "fresh_seed",
    "identify_law",
    "rejections",
    "seed_set",
    "strongest",
]

"""Every exception that a user of the suite can meet, and the text of other people's errors.

ConformanceError            the root: catch this one
|-- UsageError              a name does not exist, or a value has a wrong form (exit 2)
|   `-- ResultsError        a results file cannot be used
|-- LoadError               a registration is wrong: import, name or signature (exit 2)
|-- NotAdaptable            an object cannot be adapted; also a TypeError
|-- WrongCondition          the `when` of an expected failure is wrong; also a ValueError
`-- Violation               the layer does not meet a requirement; also an AssertionError
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

_LONGEST_TEXT = 600

ACCEPTED = """\
  - an nnx class, called as cls(in_features, out_features, rngs=rngs), or a partial of one
  - a Linen class, called as cls(features=out_features)
  - another class, or a function, that makes a layer of two sizes and a key; names may differ
  - a function (seed, x, features) that returns the layer's output for x
  - a conformance.Implementation, for everything else"""


class ConformanceError(Exception):
    """The root of every exception that the suite raises on purpose."""


class UsageError(ConformanceError):
    """A name does not exist, or a value has a wrong form."""


class ResultsError(UsageError):
    """A results file cannot be used; the message names the file and the reason."""


class LoadError(ConformanceError):
    """A registration is wrong: the layer cannot be imported, or cannot be checked."""


class NotAdaptable(ConformanceError, TypeError):
    """The suite cannot check such an object; the message says what it accepts."""

    def __init__(self, found: str, hint: str = "") -> None:
        self.found, self.hint = found, hint
        hint = f"\n{hint}" if hint else ""
        super().__init__(f"found {found}.{hint}\nAccepted are:\n{ACCEPTED}")


class WrongCondition(ConformanceError, ValueError):
    """The condition of an expected failure cannot be read, or can never hold."""


class Cause(str):
    """A likely cause: a sentence for people, with an id for programs.

    The sentence may be reworded at any time; the id stays. The
    selftest accepts no cause without an id, and no id that a defect does not declare.

    Parameters
    ----------
    id
        A short slug, such as ``"bias-subtracted"``.
    sentence
        What is likely to be wrong, in words.
    """

    id: str

    def __new__(cls, id: str, sentence: str) -> Cause:
        """Return the sentence as a string that has an id."""
        cause = super().__new__(cls, sentence)
        cause.id = id
        return cause


def id_of(cause: str) -> str:
    """Return the id of a cause; empty if it is no :class:`Cause`."""
    return getattr(cause, "id", "")


class Violation(ConformanceError, AssertionError):
    """The layer does not meet the requirement.

    Parameters
    ----------
    found
        What was found, in words.
    accepted
        What would have been accepted.
    cause
        The likely cause, a :class:`Cause`, if the evidence excludes the others.
    declare
        The line that declares this behaviour, if a layer may intend it. All else is then checked
        against what was found, and this failure explains no other.
    measured
        The numbers behind it: plain floats, ints and strings.

    Attributes
    ----------
    cause_id
        The id of the cause; empty if it has none.
    obstacle
        True if the layer could not be built, called, read or written, so that the check did not
        reach its own property. Another requirement covers that step.
    wrong_numbers
        True if the layer gave a result of a wrong shape, or one whose numbers differ by more than
        rounding explains, also rounding to half precision.
    where
        On which side of an edge of the layer's program it was found; empty if nothing says so.
    """

    obstacle = False
    wrong_numbers = False
    where = ""

    def __init__(
        self, found: str, *, accepted: str = "", cause: str = "", declare: str = "",
        **measured: float | int | str,
    ) -> None:  # fmt: skip
        super().__init__(found)
        self.found = found
        otherwise = f"; if this is intended, declare {declare}" if declare else ""
        self.accepted = accepted + otherwise
        self.declare = declare
        self.cause = cause
        self.cause_id: str = id_of(cause)
        self.measured = measured

    def located(self, where: str) -> Violation:
        """Say in words where it was found, if there are any, and return the violation."""
        if not where:
            return self
        self.where, self.found = where, f"{where}: {self.found}"
        self.args = (self.found,)
        if self.cause_id:
            self.cause = Cause(self.cause_id, f"{where}: {self.cause}")
        return self

    def because(self, cause: str) -> Violation:
        """Set the cause of a violation that was an obstacle only, and return the violation."""
        if cause:
            self.cause, self.cause_id = cause, id_of(cause)
            self.obstacle = False
        return self


def safe_text(value: object, longest: int = _LONGEST_TEXT) -> str:
    """Return ``str(value)`` on one line, shortened; ``__str__`` may raise."""
    try:
        text = str(value)
    except BaseException as error:
        if by_user(error):
            raise
        text = f"<{_NAME(type(value))} whose text raises {_NAME(type(error))}>"
    text = " ".join(printable(text).split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def did_you_mean(
    name: str, known: Iterable[str], otherwise: str = "", shown: Callable[[str], str] = str
) -> str:
    """Return a hint at the known name that an unknown one resembles, else the other hint."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {shown(near[0])}?" if near else otherwise


# A metaclass may hide or invent the name of its classes.
_NAME = type.__dict__["__name__"].__get__
# An exception may refuse its attributes.
_TRACEBACK = BaseException.__dict__["__traceback__"].__get__
_LONGEST_NAME = 100


def name_of(error: BaseException) -> str:
    """Return the name of an exception's type on one line, shortened."""
    return safe_text(_NAME(type(error)), _LONGEST_NAME)


def described(error: BaseException, longest: int = _LONGEST_TEXT) -> str:
    """Return the name of an exception's type and its text, on one line, shortened."""
    return f"{name_of(error)}: {safe_text(error, longest)}"


# A terminal or a page would obey these characters instead of showing them: the control characters
# of ASCII and Latin-1, marks of writing direction, and separators that end a line.
_OBEYED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def silence(stream: TextIO) -> None:
    """Discard further writes to a stream's file, after one has failed."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: str) -> str:
    """Return the text with control characters escaped; newlines and tabs stay."""
    text = text.replace("\r\n", "\n")
    return _OBEYED.sub(_escaped, text).replace("\r", "\\r")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable_values(value: Any) -> Any:
    """Return JSON values with every text, keys included, made :func:`printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): printable_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable_values(item) for item in value]
    return value


# The modules between a check and the layer's own code.
_OTHERS = (
    *("jax", "jaxlib", "flax", "numpy", "optax", "orbax", "hypothesis", "_hypothesis_globals"),
    *("_pytest", "pluggy", "pytest", "xdist", "execnet", "conformance"),
)


_STANDARD = Path(os.__file__).parent


@lru_cache
def places_of_libraries() -> frozenset[Path]:
    """Return the folders of the modules of `_OTHERS`, which may be outside ``site-packages``.

    Call it before a layer's code can change how modules are found.
    """
    places = {Path(__file__).parent, Path(__file__).resolve().parent}
    for name in _OTHERS:
        spec = importlib.util.find_spec(name)
        if spec is not None:
            found = spec.submodule_search_locations or [spec.origin or __file__]
            places.update(map(Path, found))
    return frozenset(places)


@lru_cache
def is_layers_file(name: str) -> bool:
    """Return whether a file belongs to the layer, not to the suite or to a library below both."""
    file = Path(name)
    if not file.is_absolute() or not places_of_libraries().isdisjoint((file, *file.parents)):
        return False
    if _STANDARD in file.parents:
        # Distributions are installed in a folder inside the standard library's.
        return file.relative_to(_STANDARD).parts[0] in ("site-packages", "dist-packages")
    return True


def raised_by_layer(error: BaseException) -> bool:
    """Return whether an exception of any type has come out of the layer's own code."""
    return any(is_layers_file(frame.f_code.co_filename) for frame in frames_of(error))


def frames_of(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames on the way to an exception, the outermost first."""
    yield from (frame for frame, _ in traceback.walk_tb(_TRACEBACK(error)))


@lru_cache
def is_users_file(name: str) -> bool:
    """Return whether a file belongs to the layer and was not installed."""
    if name.startswith("<"):
        return False
    path = os.path.realpath(name)
    inside = any(path.startswith(place + os.sep) for place in _installed())
    return not inside and is_layers_file(name)


@lru_cache
def _installed() -> tuple[str, ...]:
    return tuple(map(os.path.realpath, sysconfig.get_paths().values()))


def users_frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    """Yield the frames of the layer's own code, the innermost first."""
    found = traceback.extract_tb(_TRACEBACK(error))
    yield from (frame for frame in reversed(found) if is_users_file(frame.filename))


def users_line(error: BaseException) -> str:
    """Return the layer's line that an exception comes from, as text; empty if none is known."""
    frame = next(users_frames(error), None)
    if frame is None:
        return ""
    # The folder differs on each machine.
    place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
    source = safe_text(linecache.getline(frame.filename, frame.lineno or 0), _LONGEST_LINE)
    return f"{place}, `{source}`" if source else place


_LONGEST_LINE = 80
_contained = False


def contain_interrupts(contained: bool = True) -> bool:
    """Set whether a KeyboardInterrupt here counts as the layer's; return the former setting.

    It does in a worker, which leaves the user's Ctrl-C to the controller.
    """
    global _contained  # of this process
    before, _contained = _contained, contained
    return before


def by_user(error: BaseException) -> bool:
    """Return whether the user may have caused the exception, which then has to end the run."""
    return issubclass(type(error), KeyboardInterrupt) and not _contained

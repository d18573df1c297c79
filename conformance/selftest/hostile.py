"""Hostile plugins, and how a run reports each of them.

Each is the text of a module that defines ``Dense``; :func:`install` registers all of them like
distributions.
"""

# ruff: noqa: E501  # a table, with a plugin on each line

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

_BASE = "from flax import nnx\nclass Dense(nnx.Linear):\n    pass\n"


@dataclass(frozen=True)
class Plugin:
    """A hostile plugin.

    Parameters
    ----------
    name
        The name of the implementation.
    outcome
        The outcome of its worst cell; empty if it depends on chance.
    said
        A part of the reason or message of that cell or, if it begins with ``import``, of the note
        on its import.
    source
        The text of its module, which may follow that of an ordinary layer.
    distribution
        The distribution that registers it.
    """

    name: str
    outcome: str
    said: str
    source: str
    distribution: str = "hostile"

    @property
    def id(self) -> str:
        """Return the key of its results."""
        return f"{self.distribution}:{self.name}"


def _imported(name: str, outcome: str, said: str, lines: str) -> Plugin:
    """Return a plugin that does it on import, and is otherwise an ordinary layer."""
    return Plugin(name, outcome, said, f"{textwrap.dedent(lines)}\n{_BASE}")


def _called(name: str, outcome: str, said: str, lines: str) -> Plugin:
    """Return a plugin that does it in every call."""
    body = textwrap.indent(textwrap.dedent(lines).strip(), " " * 8)
    call = f"\n    def __call__(self, x):\n{body}\n        return super().__call__(x)\n"
    return Plugin(name, outcome, said, _BASE.replace("    pass\n", "") + call)


def _constructed(name: str, outcome: str, said: str, lines: str) -> Plugin:
    """Return a plugin that does it in every construction."""
    body = textwrap.indent(textwrap.dedent(lines).strip(), " " * 8)
    text = f"\n    def __init__(self, *a, **k):\n{body}\n        super().__init__(*a, **k)\n"
    return Plugin(name, outcome, said, _BASE.replace("    pass\n", "") + text)


_RAISES = "raise RuntimeError('no such luck')"
_LIES = f"""
class Lies(type(nnx.Module)):
    def __eq__(self, other): {_RAISES}
    def __hash__(self): {_RAISES}
    def __repr__(self): {_RAISES}
    def __bool__(self): {_RAISES}
    def __getattr__(self, name): {_RAISES}
"""

# These find objects of the run on the stack during an import.
_STACK = """
import sys
frame, found = sys._getframe(), []
while frame is not None:
    found += [frame.f_locals.get("self"), frame.f_locals.get("config"), frame.f_locals.get("item")]
    frame = frame.f_back
"""
_MUTE = f"""{_STACK}
class Mute:
    def __init__(self, io): self.__dict__['io'] = io
    def write(self, data): pass
    def __getattr__(self, name): return getattr(self.io, name)
for each in found:
    channel = getattr(each, 'channel', None)
    if channel is not None:
        channel.gateway._io = Mute(channel.gateway._io)
"""
_PLUGIN = f"""{_STACK}
class Cheat:
    def pytest_runtest_makereport(self, item, call): call.excinfo = None
items = [each for each in found if hasattr(each, 'config') and hasattr(each, 'nodeid')]
if items:
    items[0].config.pluginmanager.register(Cheat())
"""

PLUGINS: tuple[Plugin, ...] = (
    # These end an import.
    Plugin("import-error", "error", "cannot be used: ImportError: boom", "raise ImportError('boom')"),
    Plugin("syntax-error", "error", "cannot be used: SyntaxError", "def ("),
    Plugin("no-attribute", "error", "has no attribute 'Dense'", "Dens = 3"),
    Plugin("sys-exit", "error", "cannot be used: SystemExit: 3", "import sys; sys.exit(3)"),
    Plugin("interrupt-import", "error", "cannot be used: KeyboardInterrupt", "raise KeyboardInterrupt"),
    Plugin("pytest-exit", "error", "cannot be used: Exit: that is all", "import pytest; pytest.exit('that is all')"),
    Plugin("no-layer", "error", "an object of type int", "Dense = 3"),
    Plugin("os-exit", "crashed", "exit code 5, at its import", "import os; os._exit(5)"),
    Plugin("segfault", "crashed", "SIGSEGV, at its import", "import ctypes; ctypes.string_at(0)"),
    Plugin("endless-import", "timed-out", "at its import, in endless_import.py, line 1", "while True: pass"),
    Plugin("lying-class", "error", "RuntimeError: no such luck", f"from flax import nnx\n{_LIES}\nclass Dense(nnx.Module, metaclass=Lies): pass"),
    # These end a construction or a call.
    _constructed("endless-construction", "timed-out", "in endless_construction.py, line 5, in __init__", "while True: pass"),
    _constructed("interrupt-construction", "failed", "raised KeyboardInterrupt: stop", "raise KeyboardInterrupt('stop')"),
    _called("endless-call", "timed-out", "in endless_call.py, line 5, in __call__", "while True: pass"),
    _called("deaf", "timed-out", "longer than the limit", "import faulthandler; faulthandler.cancel_dump_traceback_later()\nwhile True: pass"),
    _called("stopped", "timed-out", "longer than the limit", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"),
    _called("abort", "crashed", "ended by SIGABRT, in abort.py, line 5, in __call__", "import os; os.abort()"),
    _called("sigkill", "crashed", "ended by SIGKILL", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
    _called("closes-all-files", "crashed", "its code breaks what runs the checks", "import os; os.closerange(0, 1000)"),
    _called("memory-hog", "crashed", "more memory than the limit of 2 GiB", "kept = []\nwhile True: kept.append(bytearray(b'x') * 2**27)"),
    _called("base-exception", "failed", "raised BaseException: out", "raise BaseException('out')"),
    _called("recursion", "failed", "raised RecursionError", "return self(x)"),
    _called("skips", "failed", "raised Skipped: not me", "import pytest; pytest.skip('not me')"),
    _called("half-a-character", "failed", r"raised ValueError: \ud800", r"raise ValueError('\ud800')"),
    _called("long-name", "failed", r"raised E \x1b[31mnnn", r"raise type('E\n\x1b[31m' + 'n' * 10**6, (Exception,), {})('x')"),
    _called("silent-exception", "failed", "Silent whose text raises", f"class Silent(Exception):\n    def __str__(self): {_RAISES}\n    __repr__ = __str__\nraise Silent"),
    _called("closed-exception", "failed", "raised Closed", f"class Closed(Exception):\n    def __str__(self): {_RAISES}\n    def __getattribute__(self, name): {_RAISES}\nraise Closed"),
    # These change the process for others.
    _imported("numpy-replaced", "passed", "import numpy.dot was replaced", "import numpy; numpy.dot = lambda *a: 0; numpy.ndarray = int"),
    _imported("numpy-random-replaced", "passed", "import numpy.random.default_rng was replaced", "import numpy; numpy.random.default_rng = lambda *a: None"),
    _imported("jax-replaced", "passed", "import jax.numpy.dot was replaced", "import jax.numpy; jax.numpy.dot = jax.numpy.matmul = jax.lax.dot_general = lambda *a, **k: 0"),
    _imported("flax-replaced", "passed", "import flax.nnx.nn.linear.Linear.__call__ was replaced", "from flax import nnx; nnx.Linear.__call__ = lambda self, x: x"),
    _imported("builtins-replaced", "passed", "import builtins.sorted was replaced", "import builtins; builtins.sorted = lambda *a, **k: []"),
    _called("jax-replaced-in-a-call", "failed", "jax.lax.dot_general was replaced", "import jax; jax.lax.dot_general = lambda *a, **k: 0 * super(Dense, self).__call__(x)"),
    _called("random-replaced-in-a-call", "failed", "jax.random.normal was replaced", "import jax; jax.random.normal = lambda key, shape, *a, **k: jax.numpy.zeros(shape)"),
    _imported("x64", "passed", "import jax.config.jax_enable_x64 became True", "import jax; jax.config.update('jax_enable_x64', True)"),
    _imported("prng", "passed", "import jax.config.jax_default_prng_impl became 'rbg'", "import jax; jax.config.update('jax_default_prng_impl', 'rbg')"),
    _called("x64-in-a-call", "failed", "jax.config.jax_enable_x64 became True", "import jax; jax.config.update('jax_enable_x64', True)"),
    _imported("environment", "passed", "import os.environ['JAX_PLATFORMS'] became 'tpu'", "import os; os.environ.update(XLA_FLAGS='', JAX_PLATFORMS='tpu', JAX_ENABLE_X64='1')\nos.environ.pop('PATH')"),
    _imported("reseeds", "passed", "import the state of numpy.random's global generator", "import random, numpy; random.seed(0); numpy.random.seed(0)"),
    _called("consumes", "failed", "Python's global random generator changed", "import random; random.random()"),
    _imported("elsewhere", "passed", "import the working directory changed", "import os, tempfile; os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())"),
    _imported("signals", "passed", "import the handling of signals changed", "import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]"),
    _imported("alarm", "passed", "import an alarm changed", "import signal; signal.setitimer(signal.ITIMER_REAL, 4)"),
    _imported("recursion-limit", "passed", "import the recursion limit changed", "import sys; sys.setrecursionlimit(10**6)"),
    _imported("resource-limit", "passed", "import the process's resource limits changed", "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))"),
    _imported("modules-gone", "passed", "import the module numpy was replaced", "import sys, numpy; del sys.modules['numpy'], sys.modules['jax']"),
    _imported("umask", "passed", "import the mask of new files' permissions (os.umask) changed", "import os; os.umask(0o777)"),
    _imported("threads", "passed", "", "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()"),
    _imported("time-bomb", "", "", "import threading, os; threading.Timer(3, os._exit, [9]).start()"),
    # These leave processes behind, which hold the worker's pipes open or go on as copies of it.
    _imported("forks-on-import", "passed", "", "import os; os.fork()"),
    _called("forks", "failed", "os.environ['FORKED'] became '1'", "import os\nif os.environ.setdefault('FORKED', '') == '': os.environ['FORKED'] = '1'; os.fork()"),
    _imported("fork-stays", "crashed", "exit code 5", "import os, time\nif os.fork() == 0: time.sleep(3000)\nos._exit(5)"),
    _imported("daemon-stays", "passed", "", "import subprocess; subprocess.Popen(['sleep', '3000'], close_fds=False, start_new_session=True)"),
    _called("ends-its-group", "crashed", "ended by SIGTERM", "import os, signal; os.killpg(0, signal.SIGTERM)"),
    # These print much, or have odd names.
    _called("loud", "passed", "", "import os; print('x' * 10**6); os.write(1, b'y' * 10**6); os.write(2, b'z' * 10**6)"),
    _called("warns", "failed", "the warning filters changed", "import warnings\nclass Odd(UserWarning):\n    def __init__(self, a, b): super().__init__(a)\nwarnings.simplefilter('always')\nfor i in range(3000): warnings.warn(Odd(f'{i}', object()))"),
    _called("closes-its-output", "passed", "", "import os, sys; sys.stdout.close(); sys.stderr.close(); os.closerange(1, 3)"),
    _imported("密なGröße[1]::x", "passed", "", ""),
    _imported("twin", "passed", "", ""),
    Plugin("twin", "error", "cannot be used: ImportError: the other", "raise ImportError('the other')", "other-hostile"),
)  # fmt: skip

# Each has its own distribution, so the others are safe even if a change is not found.
PLUGINS += tuple(replace(plugin, distribution=f"hostile-{plugin.name}") for plugin in (
    # These replace or remove parts of the run itself.
    _imported("copy-replaced", "passed", "import the module copy was replaced", "import sys, types; sys.modules['copy'] = types.ModuleType('copy')"),
    _imported("functools-replaced", "passed", "import the module functools was replaced", "import sys, types; sys.modules['functools'] = types.ModuleType('functools')"),
    _imported("inspect-replaced", "passed", "import the module inspect was replaced", "import sys, types; sys.modules['inspect'] = types.ModuleType('inspect')"),
    _imported("json-removed", "passed", "import the module json was replaced", "import sys; sys.modules['json'] = None"),
    _imported("finders-cleared", "", "import how modules are found (sys.meta_path", "import sys; sys.meta_path.clear()"),
    _imported("path-hooks-cleared", "passed", "import how modules are found (sys.meta_path", "import sys; sys.path_hooks.clear()"),
    _imported("path-cleared", "passed", "import entries of sys.path were removed", "import sys; sys.path.clear()"),
    _imported("reports-replaced", "passed", "import _pytest.reports.TestReport.from_item_and_call was replaced", "import _pytest.reports as r; r.TestReport.from_item_and_call = classmethod(lambda *a: None)"),
    _called("reports-replaced-in-a-call", "error", "TestReport.from_item_and_call was replaced", "import _pytest.reports as r; r.TestReport.from_item_and_call = classmethod(lambda *a: None)"),
    _called("json-removed-in-a-call", "error", "the module json was replaced", "import sys; sys.modules['json'] = None"),
    _imported("deaf-channel", "passed", "import execnet.gateway_base.Channel.send was replaced", "from execnet.gateway_base import Channel; Channel.send = lambda *a: None"),
    # Its cells end as crashed or as timed out, by the time at which the worker is asked to end.
    _imported("mute", "", "process", _MUTE),
    # These change a function in place.
    _imported("defaults-changed", "passed", "import the default values of flax.nnx.nn.linear.Linear.__init__", "from flax import nnx; nnx.Linear.__init__.__kwdefaults__['use_bias'] = False"),
    _imported("signature-replaced", "error", "import inspect.signature was replaced", "import inspect; inspect.signature = lambda *a, **k: None"),
    _imported("code-replaced", "passed", "import the code of conformance.checks.require.that was replaced", "from conformance.checks import require; require.that.__code__ = (lambda *a, **k: None).__code__"),
    _called("code-replaced-in-a-call", "error", "the code of conformance.checks.require.that was replaced", "from conformance.checks import require; require.that.__code__ = (lambda *a, **k: None).__code__"),
    _imported("lowered-anew", "passed", "_lowerings[dot_general] was replaced", "import jax\nfrom jax._src.interpreters import mlir\nmlir._lowerings[jax.lax.dot_general_p] = mlir._platform_specific_lowerings['cpu'][jax.lax.dot_general_p] = print"),
    _imported("call-replaced", "passed", "import _pytest.runner.CallInfo was replaced", "import _pytest.runner; _pytest.runner.CallInfo = print"),
    _called("call-replaced-in-a-call", "error", "_pytest.runner.CallInfo was replaced", "import _pytest.runner; _pytest.runner.CallInfo = print"),
    _imported("pytest-plugin", "passed", "import the pytest plugin", _PLUGIN),
    # These pretend to be the suite.
    _called("not-applicable", "failed", "raised NotApplicable: not me", "from conformance.checks import require; raise require.NotApplicable('not me')"),
    _called("violation", "failed", "raised Violation: the bias is added twice", "from conformance.errors import Violation; raise Violation('the bias is added twice')"),
))  # fmt: skip


def install(folder: Path) -> None:
    """Write all plugins into a folder that is on the path, with the metadata of distributions."""
    points: dict[str, list[str]] = {}
    for number, plugin in enumerate(PLUGINS):
        stem = plugin.name.replace("-", "_") if plugin.name.isascii() else f"plugin_{number}"
        module = f"{stem}_{number}" if plugin.distribution == "other-hostile" else stem
        (folder / f"{module}.py").write_text(plugin.source, encoding="utf-8")
        points.setdefault(plugin.distribution, []).append(f"{plugin.name} = {module}:Dense")
    # No tool would write such metadata: no module, no attribute, and one name twice.
    points["hostile"] += ["malformed = no module at all", "nameless = ", "= nothing:Dense"]
    points["hostile"] += ["double = loud:Dense", "double = warns:Dense"]
    for distribution, lines in points.items():
        metadata = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
            "Requires-Dist: this is (no requirement\n"
        )
        text = "\n".join(["[conformance.implementations]", *lines, ""])
        (metadata / "entry_points.txt").write_text(text, encoding="utf-8")

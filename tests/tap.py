"""TAP for Python tests: the same lines as tests/tap.h. Use: @case on functions, then run(). A case fails by any exception."""
import os
import pathlib
import re
import sys
import traceback

_cases = []


class Skip(Exception):
    pass


def case(function):
    _cases.append(function)
    return function


def check(condition, what="not true"):
    if not condition:
        raise AssertionError(what)


def equal(actual, expected, what=""):
    if actual != expected:
        raise AssertionError(f"{what + ': ' if what else ''}is {actual!r}, expected {expected!r}")


def note(text):
    for line in str(text).splitlines():
        print(f"# {line}", flush=True)


def run(*arguments):
    """Runs every case with `arguments`; argv[1], when given, keeps the cases whose name contains it. Returns the exit status."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [c for c in _cases if re.search(wanted, c.__name__)]
    print(f"1..{len(chosen)}", flush=True)
    failed = 0
    for number, function in enumerate(chosen, 1):
        try:
            function(*arguments)
            print(f"ok {number} - {function.__name__}", flush=True)
        except Skip as skip:
            print(f"ok {number} - {function.__name__} # SKIP {skip}", flush=True)
        except Exception:
            failed += 1
            note(traceback.format_exc())
            print(f"not ok {number} - {function.__name__}", flush=True)
    return 1 if failed else 0


SOURCE = pathlib.Path(os.environ.get("GH_SOURCE_ROOT", pathlib.Path(__file__).resolve().parent.parent))
BUILD = pathlib.Path(os.environ.get("GH_BUILD_ROOT", SOURCE / "build/debug"))


def shared():
    folder = SOURCE.parent / "shared"
    if not (folder / "README.md").exists():
        raise Skip("the shared reference data is not beside the project")
    return folder

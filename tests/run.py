#!/usr/bin/env python3
"""Runs the tests that meson knows, by suite, and counts their TAP lines. Usage: run.py BUILD [SUITE...] [--only NAME] [--verbose]

A test program that ends without its plan, is killed, or exits non-zero without a failed case counts as one failure. The last line is
`N passed, N failed, N skipped`; every skip is printed with its reason.
"""
import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

LINE = re.compile(r"^(not ok|ok)\b(?:\s+\d+)?\s*-?\s*(.*?)(?:\s+#\s*(SKIP|TODO)\b\s*(.*))?$", re.I)
PLAN = re.compile(r"^1\.\.(\d+)")
TWINS = re.compile(r"^# (\d+) of (\d+) refused, (\d+) of (\d+) twins accepted", re.M)  # tests/security/cases.py
# Not detect_stack_use_after_return: gcc 12 gives 64-byte vectors of its fake stack 32-byte alignment, and AVX-512 code dies (seen here).
SANITIZERS = {
    "ASAN_OPTIONS": "abort_on_error=0:strict_string_checks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


def run_one(test, build, environment):
    """(passed, [failures], [skips], seconds, output)"""
    env = dict(environment, **test["env"])
    started = time.monotonic()
    try:
        process = subprocess.Popen(test["cmd"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
                                   cwd=test.get("workdir") or build, start_new_session=True)
        output, _ = process.communicate(timeout=test["timeout"] or None)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # a chance to stop the servers it started
        try:
            output, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        code = "timed out after %s s" % test["timeout"]
    text = output.decode(errors="replace")
    passed, failures, skips, planned, seen = 0, [], [], None, 0
    for line in text.splitlines():
        plan = PLAN.match(line)
        if plan:
            planned = int(plan.group(1))
            continue
        found = LINE.match(line)
        if not found:
            continue
        seen += 1
        if found.group(3) and found.group(3).upper() == "SKIP":
            skips.append((found.group(2), found.group(4)))
        elif found.group(1) == "ok":
            passed += 1
        else:
            failures.append(found.group(2))
    if planned is None:
        failures.append("(no plan: the program printed no TAP)")
    elif planned != seen:
        failures.append(f"(planned {planned} cases, {seen} ran)")
    if code != 0 and not failures:
        failures.append(f"(ended with {code})")
    return passed, failures, skips, time.monotonic() - started, text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build")
    parser.add_argument("suites", nargs="*")
    parser.add_argument("--only", help="only test programs whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="print everything that the tests print")
    args = parser.parse_args()
    build = pathlib.Path(args.build).resolve()
    known = json.loads(subprocess.run(["meson", "introspect", "--tests", str(build)], stdout=subprocess.PIPE, check=True).stdout)
    tests = []
    for test in known:
        suites = [s.split(":")[-1] for s in test["suite"]]
        if args.suites and not set(suites) & set(args.suites):
            continue
        if args.only and args.only not in test["name"]:
            continue
        tests.append((suites[0] if suites else "", test))
    tests.sort(key=lambda t: (t[0], t[1]["name"]))
    logs = build / "test-logs"
    logs.mkdir(exist_ok=True)
    environment = dict(SANITIZERS, **os.environ)
    supp = pathlib.Path(__file__).with_name("tsan.supp")
    if supp.exists():
        environment.setdefault("TSAN_OPTIONS", f"suppressions={supp}:halt_on_error=0:exitcode=66")
    total = [0, 0, 0]
    red, all_skips, twins = [], [], [0, 0, 0, 0]
    for suite, test in tests:
        print(f"{suite:9} {test['name']:34}", end="", flush=True)
        passed, failures, skips, seconds, text = run_one(test, build, environment)
        (logs / f"{test['name']}.log").write_text(text)
        print(f"{passed:5} passed{f', {len(failures)} FAILED' if failures else ''}{f', {len(skips)} skipped' if skips else ''}"
              f"  {seconds:.1f} s", flush=True)
        for found in TWINS.findall(text):
            twins = [a + int(b) for a, b in zip(twins, found)]
        total[0] += passed
        total[1] += len(failures)
        total[2] += len(skips)
        all_skips += [(test["name"], *s) for s in skips]
        if failures:
            red.append((test["name"], failures))
        if failures or args.verbose:
            print("    | " + "\n    | ".join(text.splitlines()[-200 if args.verbose else -60:]), flush=True)
    if all_skips:
        print("\nSkipped:")
        for name, case, reason in all_skips:
            print(f"  {name}: {case}: {reason}")
    if red:
        print("\nFailed:")
        for name, failures in red:
            for failure in failures:
                print(f"  {name}: {failure}")
    if not tests:
        print("no such test")
        total[1] += 1
    if twins[1]:
        print(f"\nAttacks in the catalogues: {twins[0]} of {twins[1]} refused, {twins[2]} of {twins[3]} valid twins accepted")
    print(f"\n{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main())

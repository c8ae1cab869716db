#!/usr/bin/env python3
"""Removes each named security check (base/check.h) in turn and looks whether a test notices. Usage: mutations.py BUILD

BUILD was configured with -Dmutations=true. Two kinds of programs of the suite `mutations` take part: Python ones with --mutate, which do it
themselves, and C ones that list `check case` lines with --list and take the check to leave out from GH_CHECK_OFF. A check that no program
knows survives. The last line: `N checks removed, N caught, N survived`.
"""
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHECK = re.compile(r'CHECK\(\s*"([a-z0-9_.]+)"')
COUNT = re.compile(r"^(\d+) checks removed, (\d+) caught, (\d+) survived$", re.M)
FOLDERS = ("gateway", "gateway/sso", "base", "policy", "audit")


def checks_of_sources():
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("*.c")):
            for name in CHECK.findall(path.read_text()):
                found.setdefault(name, []).append(f"{folder}/{path.name}")
    return found


def run(command, env, build):
    return subprocess.run(command, env=env, cwd=build, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    tests = json.loads(subprocess.run(["meson", "introspect", "--tests", str(build)], stdout=subprocess.PIPE, check=True).stdout)
    tests = [t for t in tests if any(s.split(":")[-1] == "mutations" for s in t["suite"])]
    left = checks_of_sources()
    removed = caught = 0
    survived = []
    for test in tests:
        env = dict(os.environ, **test["env"])
        print(f"{test['name']} ...", flush=True)
        if any(str(c).endswith(".py") for c in test["cmd"]):
            done = run(test["cmd"] + ["--mutate"], env, build)
            count = COUNT.search(done.stdout)
            if not count:
                print(done.stdout[-3000:])
                sys.exit(f"{test['name']} did not say how many checks it removed")
            removed, caught = removed + int(count[1]), caught + int(count[2])
            gone = set(re.findall(r"^# survived: (\S+)", done.stdout, re.M))
            survived += sorted(gone)
            known = set(re.findall(r"^# removed: (\S+)", done.stdout, re.M))
        else:
            listing = run(test["cmd"] + ["--list"], env, build).stdout
            known = {line.split()[0] for line in listing.splitlines() if line.strip() and not line.startswith(("#", "1.."))}
            for name in sorted(known):
                removed += 1
                if run(test["cmd"], dict(env, GH_CHECK_OFF=name), build).returncode != 0:
                    caught += 1
                else:
                    survived.append(name)
        for name in known:
            left.pop(name, None)
    for name, where in left.items():
        removed += 1
        survived.append(name)
        print(f"  no test knows {name} ({', '.join(where)})")
    for name in survived:
        print(f"  survived: {name}")
    print(f"{removed} checks removed, {caught} caught, {len(survived)} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

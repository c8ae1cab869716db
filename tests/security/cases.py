"""Data-driven refusals: each case brings something bad, which a named check must refuse, and its valid twin, which must be accepted.

    suite = Suite("oidc", prefixes=("oidc.", "jwt."))
    suite.case("audience of another client", "token.audience", bad=lambda: ..., good=lambda: ...)
    sys.exit(suite.main(peer))

bad and good return a reply of gatehouse-sso. A case holds when the twin is accepted and the bad one is refused by that very check.
`--mutate` (a build with -Dmutations=true): switches each check of the sources off in turn; a case of it must turn red.
"""
import os
import pathlib
import re
import sys
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CHECK = re.compile(r'CHECK\(\s*"([a-z0-9_.]+)"')


def checks_of_sources(pattern):
    found = {}
    for path in sorted(ROOT.glob(pattern)):
        for name in CHECK.findall(path.read_text()):
            found.setdefault(name, []).append(path.name)
    return found


class Suite:
    def __init__(self, name, sources="gateway/sso/*.c", prefixes=("",), reset=None):
        self.name, self.sources, self.prefixes, self.reset = name, sources, prefixes, reset
        self.cases = []

    def case(self, name, check, bad, good, accept=lambda reply: reply.get("ok") is True, says=None):
        """says: the check that the reply names, where it is not the one that made the difference."""
        self.cases.append((name, check, bad, good, accept, says or check))

    def _try(self, case):
        """None when it holds, else what is wrong."""
        _, _, bad, good, accept, check = case
        if self.reset:
            self.reset()
        try:
            reply = good()
            if not accept(reply):
                return f"its twin is refused: {reply}"
            if self.reset:
                self.reset()
            reply = bad()
            if reply.get("ok") is not False:
                return f"accepted: {str(reply)[:200]}"
            if reply.get("check") != check:
                return f"refused by {reply.get('check')} ({reply.get('detail')}), not by {check}"
        except Exception:
            return traceback.format_exc()
        return None

    def run(self, pattern=""):
        chosen = [c for c in self.cases if re.search(pattern, c[0]) or re.search(pattern, c[1])]
        print(f"1..{len(chosen) + 1}", flush=True)
        failed = 0
        for number, case in enumerate(chosen, 1):
            wrong = self._try(case)
            if wrong:
                failed += 1
                for line in wrong.splitlines():
                    print(f"# {line}")
            print(f"{'not ok' if wrong else 'ok'} {number} - {self.name}: {case[0]} [{case[1]}]", flush=True)
        names = [c[0] for c in self.cases]
        known = {c[1] for c in self.cases}
        untested = [n for n in checks_of_sources(self.sources) if n.startswith(self.prefixes) and n not in known]
        twice = [n for n in set(names) if names.count(n) > 1]
        good = not untested and not twice
        if not good:
            print(f"# checks without a case: {untested}; names used twice: {twice}")
        print(f"{'ok' if good else 'not ok'} {len(chosen) + 1} - {self.name}: every check of the sources has a case")
        print(f"# {len(chosen) - failed} of {len(chosen)} refused, {len(chosen) - failed} of {len(chosen)} twins accepted", flush=True)
        return 1 if failed or not good else 0

    def mutate(self, switch_off):
        """switch_off(name) with "" for none. Prints the count; 0 when none survived."""
        names = [n for n in checks_of_sources(self.sources) if n.startswith(self.prefixes)]
        survived = []
        for name in names:
            switch_off(name)
            red = any(self._try(case) for case in self.cases if case[1] == name)
            switch_off("")
            print(f"# removed: {name}")
            if not red:
                survived.append(name)
                print(f"# survived: {name}", flush=True)
        print(f"{len(names)} checks removed, {len(names) - len(survived)} caught, {len(survived)} survived", flush=True)
        return 1 if survived else 0

    def main(self, switch_off):
        if "--mutate" in sys.argv:
            return self.mutate(switch_off)
        return self.run(next((a for a in sys.argv[1:] if not a.startswith("-")), ""))


def mutating():
    return "--mutate" in sys.argv or bool(os.environ.get("GH_MUTATING"))

#!/usr/bin/env python3
"""The bundled model's held-out questions, answered by the engine.  usage: test_demo_model.py GATEHOUSE_MODEL

At least 90 % of the facts must be right: what engine/demo/README.md promises.  The judge is engine/demo/evaluate.py's own.
"""
import collections
import os
import sys
import types

ROOT = os.environ.get("GH_SOURCE_ROOT", ".")
DEMO = os.path.join(ROOT, "engine", "demo")
sys.path.insert(0, DEMO)
sys.dont_write_bytecode = True
try:
    import numpy  # noqa: F401
except ImportError:
    sys.modules["numpy"] = types.ModuleType("numpy")  # only evaluate.py's own decoder, not used here, needs it
import evaluate  # noqa: E402


def main():
    with open(os.path.join(DEMO, "heldout.tsv"), encoding="utf-8") as f:
        cases = [line.rstrip("\n").replace("\\n", "\n").split("\t") for line in f if line.strip()]
    answers = evaluate.ask_engine(sys.argv[1], os.path.join(DEMO, "gatehouse-demo.gguf"), [c[1] for c in cases])
    good, asked = collections.Counter(), collections.Counter()
    for (topic, question, expected), answer in zip(cases, answers):
        kind = "instructions" if topic.startswith("do:") else "facts"
        asked[kind] += 1
        if evaluate.right(topic, expected, answer):
            good[kind] += 1
        elif kind == "facts":
            print("# %s: %s\n#     expected %s\n#     answered %r" % (topic, question, expected, answer))
    for kind in asked:
        print("# %s: %d of %d (%.1f %%)" % (kind, good[kind], asked[kind], 100 * good[kind] / asked[kind]))
    passed = asked["facts"] > 100 and good["facts"] >= 0.9 * asked["facts"]
    print("1..1\n%s 1 - held_out_facts__nine_of_ten_are_right" % ("ok" if passed else "not ok"))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

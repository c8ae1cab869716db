#!/usr/bin/env python3
"""The official OpenAI SDK (npm) against a whole stack. Suite security."""
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gateway_client import ROOT, new_stack  # noqa: E402

CLIENTS = ROOT / "tests/clients"


def main():
    node = shutil.which("node")
    if node is None:
        print("1..1\nnot ok 1 - node is not installed: apt-get install nodejs npm")
        return 1
    if not (CLIENTS / "node_modules/openai").exists():
        print("1..1\nnot ok 1 - the npm packages are not installed: tests/web/setup.sh")
        return 1
    with new_stack() as gw:
        environment = dict(os.environ, BASE=f"{gw.url}/v1", KEY=gw.new_key("employee", owner="sdk"), MODEL="demo", PROVIDER_MODEL="external-only",
                           BROKEN_MODEL="mock-cut", NARROW_KEY=gw.new_key("narrow", owner="sdk-narrow"), NODE_EXTRA_CA_CERTS=str(gw.ca_file))
        code = subprocess.run([node, str(CLIENTS / "openai_sdk.mjs")], env=environment, cwd=CLIENTS, timeout=200).returncode
    return 1 if gw.sanitizer_report else code


sys.exit(main())

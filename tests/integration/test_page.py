#!/usr/bin/env python3
"""The chat page in Chromium against a whole stack: sign in by the one-time link, chat, stop, see class and route. Suite web."""
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gateway_client import ROOT, new_stack  # noqa: E402


def main():
    node = shutil.which("node")
    if node is None or not (ROOT / "tests/web/node_modules/playwright-core").exists():
        print("1..1\nnot ok 1 - node or the npm packages are missing: run tests/web/setup.sh")
        return 1
    with new_stack() as gw:
        environment = dict(os.environ, BASE_URL=gw.url, SIGNIN_LINK=gw.admin_link(), PROMPT="What is Gatehouse?", LONG_PROMPT="Hello.", LONG_MODEL="mock-slow",
                           NODE_EXTRA_CA_CERTS=str(gw.ca_file))
        code = subprocess.run([node, str(ROOT / "tests/web/chat_page.test.mjs")], env=environment, timeout=250).returncode
    return 1 if gw.sanitizer_report else code


sys.exit(main())

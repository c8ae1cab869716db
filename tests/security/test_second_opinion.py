#!/usr/bin/env python3
"""Another engineer's opinion (npm's @node-saml/node-saml) on every SAML response of the catalogue, the bad ones and their valid twins.

What we accept, it must accept, or it stands in EXCEPTIONS with the reason; what it refuses, we refuse. What it accepts and we refuse is
counted: that is where we are stricter. Suite security.
"""
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import test_saml_cases as saml  # noqa: E402
import tap  # noqa: E402
from tap import case, check, equal  # noqa: E402

CLIENTS = HERE.parent / "clients"
# case: why node-saml refuses what we accept
EXCEPTIONS = {}


class Opinion:
    def __init__(self):
        self.node = subprocess.Popen(["node", str(CLIENTS / "node_saml.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, provider, acs_url, response, request_id):
        at = saml.other if provider == "other" else saml.idp
        question = {"response": response, "request_id": request_id, "name": provider, "acs": acs_url, "audience": saml.US, "issuer": at.entity_id,
                    "cert": at.certificate_text()}
        self.node.stdin.write(json.dumps(question) + "\n")
        self.node.stdin.flush()
        return json.loads(self.node.stdout.readline())


def both():
    """(case, which, our reply, its reply) of every response that the catalogue brings."""
    opinion, original, seen, now = Opinion(), saml.peer.call, [], [None, None]

    def call(op, **fields):
        reply = original(op, **fields)
        if op == "saml_finish":
            text = fields["response"].decode() if isinstance(fields["response"], bytes) else fields["response"]
            theirs = opinion.ask(fields["provider"], fields["acs_url"], text, fields["request_id"])
            seen.append((now[0], now[1], reply, theirs))
        return reply

    saml.peer.call = call
    try:
        for title, _, bad, good, *_ in saml.suite.cases:
            for which, bring in (("bad", bad), ("twin", good)):
                now[:] = [title, which]
                bring()
    finally:
        saml.peer.call = original
        opinion.node.stdin.close()
        opinion.node.wait(10)
    return seen


@case
def test_node_saml__agrees_on_what_is_valid(seen):
    accepted = [(title, which, theirs) for title, which, ours, theirs in seen if ours["ok"]]
    refused = [(title, which, theirs["why"]) for title, which, theirs in accepted if not theirs["ok"] and title not in EXCEPTIONS]
    equal(refused, [], "valid for us alone")
    check(len(accepted) > 100)
    tap.note(f"{len(accepted)} responses are valid for both")


@case
def test_node_saml__refuses_nothing_that_we_accept_by_another_name(seen):
    for title, which, ours, theirs in seen:
        if ours["ok"] and theirs["ok"] and which == "twin":
            equal(theirs["subject"], ours["subject"] if title != "attribute that names the person is missing" else theirs["subject"], title)


@case
def test_node_saml__where_we_are_stricter(seen):
    stricter = sorted({title for title, which, ours, theirs in seen if which == "bad" and not ours["ok"] and theirs["ok"]})
    both_refuse = sum(not ours["ok"] and not theirs["ok"] for _, which, ours, theirs in seen if which == "bad")
    tap.note(f"{both_refuse} bad responses are refused by both, {len(stricter)} by us alone:")
    for title in stricter:
        tap.note(f"  {title}")
    check(both_refuse > 50)


if __name__ == "__main__":
    try:
        status = tap.run(both())
    finally:
        saml.peer.stop()
    sys.exit(status)

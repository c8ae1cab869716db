#!/usr/bin/env python3
"""The catalogues of SAML and OIDC, judged by libraries of others too: @node-saml/node-saml and jose (npm), set as strictly as ours.

What we accept they accept, but for the exceptions named here; what they refuse we refuse. What they accept and we refuse is counted and told.
Where both accept, both read the same person. Installs the pinned packages once.
"""
import base64
import importlib
import json
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import tap  # noqa: E402
from sso_peer import SsoPeer  # noqa: E402
from tap import case, check, equal, note  # noqa: E402

OPINION = HERE / "opinion"
# Messages that we accept and the other does not: a part of the case's name, and why that is right of us. Each must still occur.
SAML_EXCEPTIONS = {"ECDSA": "node-saml (xml-crypto) has no ECDSA at all; it says 'not supported' or 'Invalid signature' to whatever is signed so"}


class Judge:
    """The node process."""

    def __init__(self, node):
        self.process = subprocess.Popen([node, str(OPINION / "opinion.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=OPINION)

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        check(line, "the judge is gone")
        return json.loads(line)

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def certificate_of(provider):
    return provider["metadata_xml"].split("X509Certificate>")[1].split("<")[0]


def saml_question(catalogue, peer, fields):
    """What the other library is asked for a call of ours, or None."""
    provider = peer.configured[fields["provider"]]
    common = {"certificate": certificate_of(provider), "audience": provider["entity_id"], "entity_id": provider["entity_id"],
              "issuer": provider["metadata_xml"].split('entityID="')[1].split('"')[0], "acs_url": catalogue.ACS,
              "skew_ms": provider["clock_skew_s"] * 1000, "request_id": fields.get("request_id", "none")}
    if fields["op"] == "saml_finish":
        return {"kind": "response", "message": fields["response"], **common}
    if fields["op"] == "saml_logout":
        return {"kind": "logout", "binding": fields["binding"], "message": fields["message"], **common}
    return None


def issuer_of(token):
    """What an access token says of itself: our process chooses the provider by it."""
    try:
        part = token.split(".")[1]
        return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))).get("iss")
    except (ValueError, AttributeError):
        return None


def oidc_question(catalogue, peer, fields):
    idp = catalogue.idp
    op, provider, wanted = fields["op"], peer.configured.get(fields.get("provider", "corp")), {}
    if op in ("oidc_finish", "oidc_refresh"):
        sources = [i for i in (catalogue.idp, catalogue.other) if i.issuer == provider["issuer"]]
        answer = next((s for source in sources for s in [source.codes.get(fields.get("code")) or source.refresh.get(fields.get("refresh_token"))] if s), None)
        token = answer.get("id_token") if answer else None
        wanted = {"audience": provider["client_id"], "algorithms": provider["algorithms"]}
    elif op == "oidc_logout_token":
        token, wanted = fields["logout_token"], {"audience": provider["client_id"], "algorithms": provider["algorithms"]}
    elif op == "bearer" and fields["token"].count(".") == 2:
        token, wanted = fields["token"], {"audience": fields["audience"], "algorithms": provider["algorithms"]}
        issuers = {i.issuer: i for i in (catalogue.idp, catalogue.other, catalogue.bound_idp)}
        idp = next((i for i in issuers.values() if i.issuer == issuer_of(token)), idp)
    else:
        return None
    if not isinstance(token, str):
        return None
    if op != "bearer":
        idp = next((i for i in (catalogue.idp, catalogue.other) if i.issuer == provider["issuer"]), idp)
    return {"kind": "jwt", "token": token, "jwks": {"keys": [k.jwk() for k in idp.keys] + idp.jwks_extra}, "issuer": idp.issuer,
            "skew_s": provider["clock_skew_s"], **wanted}


class Recorder:
    """Every call of the catalogue goes to both."""

    def __init__(self, judge, catalogue, question):
        self.judge, self.catalogue, self.question = judge, catalogue, question
        self.both, self.ours_alone, self.theirs_alone, self.neither = 0, [], [], 0
        self.people, self.case, self.failed = [], None, 0

    def heard(self, peer, fields, reply_of):
        question = self.question(self.catalogue, peer, fields)
        reply = reply_of()
        if question is None or reply.get("ok") is None:
            return reply
        other = self.judge.ask(**question)
        what = (self.case, fields.get("op"), reply.get("check"), other.get("why"))
        if reply["ok"] and other["ok"]:
            self.both += 1
            self.compare_people(fields, peer.configured.get(fields.get("provider"), {}), reply, other)
        elif reply["ok"]:
            self.ours_alone.append(what)
        elif other["ok"]:
            self.theirs_alone.append(what)
        else:
            self.neither += 1
        return reply


    def compare_people(self, fields, provider, ours, theirs):
        if fields["op"] == "saml_finish":
            read = [("" if provider["subject_claim"] else r["subject"], r["claims"].get("groups", []) if r is ours else r["groups"]) for r in (ours, theirs)]
        elif fields["op"] in ("oidc_finish", "oidc_refresh"):
            read = [r["subject"] for r in (ours, theirs)]
        else:
            return
        if read[0] != read[1]:
            self.people.append((self.case, *read))


def listen(recorder):
    """Hooks into every peer; gives back what undoes it."""
    call = SsoPeer.call

    def heard(peer, op, timeout=20, **fields):
        if op == "configure":
            peer.configured = {p["name"]: p for p in fields["providers"]}
        if op in ("configure", "mutate") or not hasattr(peer, "configured"):
            return call(peer, op, timeout, **fields)
        return recorder.heard(peer, {"op": op, **fields}, lambda: call(peer, op, timeout, **fields))

    SsoPeer.call = heard
    return lambda: setattr(SsoPeer, "call", call)


def compare(judge, name, question):
    recorder = Recorder(judge, None, question)
    undo = listen(recorder)
    try:
        catalogue = recorder.catalogue = importlib.import_module(name)
        try:
            for one in catalogue.suite.cases:
                recorder.case = one[0]
                recorder.failed += catalogue.suite._try(one) is not None
        finally:
            catalogue.peer.stop()
    finally:
        undo()
    note(f"{name}: {len(catalogue.suite.cases)} cases; both accept {recorder.both}, both refuse {recorder.neither}, the other accepts and we refuse {len(recorder.theirs_alone)}, "
         f"we accept and the other refuses {len(recorder.ours_alone)}")
    for what, op, ours, _ in recorder.theirs_alone:
        note(f"  only we refuse: {what} ({op}: {ours})")
    for what, op, _, why in recorder.ours_alone:
        note(f"  only we accept: {what} ({op}: {why})")
    return recorder


def judge_agrees(recorder, allowed):
    check(recorder.both > 100 and recorder.neither > 50, f"the other was hardly asked: {recorder.both}, {recorder.neither}")
    equal(recorder.people, [], "accepted by both as different persons")
    left = [what for what in recorder.ours_alone if not any(part in what[0] for part in allowed)]
    equal(left, [], "accepted by us, refused by the other")
    unused = [part for part in allowed if not any(part in what[0] for what in recorder.ours_alone)]
    equal(unused, [], "exceptions that never happen")
    equal(recorder.failed, 0, "cases of the catalogue that fail by themselves")


@case
def test_saml__what_we_accept_node_saml_accepts(judge):
    judge_agrees(compare(judge, "test_saml_cases", saml_question), SAML_EXCEPTIONS)


@case
def test_oidc__what_we_accept_jose_accepts(judge):
    judge_agrees(compare(judge, "test_oidc_cases", oidc_question), {})


def installed():
    """Fetches the packages unless they are there as the lock file says. None, or what went wrong."""
    lock, stamp = OPINION / "package-lock.json", OPINION / "node_modules/.package-lock.json"
    if stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return None
    done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=OPINION, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120)
    if done.returncode != 0:
        return "npm ci: " + done.stdout[-2000:]
    stamp.touch()
    return None


def main():
    node = shutil.which("node")
    wrong = installed() if node else "node is not installed: apt-get install nodejs npm"
    if wrong:
        note(wrong)
        print("1..1\nnot ok 1 - the other libraries are not here")
        return 1
    judge = Judge(node)
    try:
        return tap.run(judge)
    finally:
        judge.stop()


if __name__ == "__main__":
    sys.exit(main())

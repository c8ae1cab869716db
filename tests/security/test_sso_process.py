#!/usr/bin/env python3
"""gatehouse-sso as a process: broken frames, nonsense, providers that hang or talk nonsense, keys that change, and what the sandbox takes away."""
import os
import pathlib
import secrets
import struct
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import tap
from fake_idp import FakeIdp, Key
from sso_peer import PeerGone, SsoPeer
from tap import case, check, equal, note

NONCE = "n" * 43


def provider(name, idp, **over):
    return {"name": name, "kind": "oidc", "issuer": idp.issuer, "client_id": "gatehouse", "client_secret": "s", "token_auth": "basic", "scopes": ["openid"],
            "algorithms": ["RS256", "ES256"], "acr": [], "userinfo": False, "hosts": [], "clock_skew_s": 60, "claims": ["groups"], "subject_claim": "",
            "bearer": {"audiences": ["https://gate/api"], "introspection": False, "require_binding": False}, **over}


def started(*providers):
    peer = SsoPeer().start()
    equal([p["ok"] for p in peer.configure(list(providers))["providers"]], [True] * len(providers))
    return peer


def finish(peer, idp, name="a", token=None):
    return peer.call("oidc_finish", provider=name, redirect_uri="https://gate/cb", code=idp.code_for(token or idp.mint(idp.id_claims())), iss=idp.issuer,
                     code_verifier="v" * 43, nonce=NONCE)


def bearer(peer, idp, **header):
    return peer.call("bearer", token=idp.mint(idp.at_claims(), typ="at+jwt", **header), audience="https://gate/api", method="GET", url="https://gate/v1/models")


class Running:
    """A provider and a process that knows it."""

    def __init__(self, n=1, **over):
        self.idps = [FakeIdp() for _ in range(n)]
        self.peer = started(*[provider("abc"[i], idp, **over) for i, idp in enumerate(self.idps)])

    def __enter__(self):
        return (self.peer, *self.idps)

    def __exit__(self, *_):
        self.peer.stop()
        for idp in self.idps:
            idp.stop()


# ---- frames ----


def ends_after(data):
    peer = SsoPeer(stderr=subprocess.DEVNULL).start()
    peer.configure([])
    peer.send_raw(data)
    try:
        peer.wait(999, 10)
    except PeerGone:
        return peer.process.wait(10)
    raise AssertionError("it goes on")


@case
def test_frame__that_is_too_long_or_too_short_ends_the_process():
    for size in (0, 7, (1 << 20) + 1, 0xFFFFFFFF):
        equal(ends_after(struct.pack("<I", size) + b"x" * 64), 1, f"size {size}")


@case
def test_frame__nonsense_inside_is_answered_and_survived():
    with Running() as (peer, idp):
        for body in (b"{", b"[]", b'"x"', b"{}", b'{"op":7}', b'{"op":"x","op":"y"}', b'{"op":"nope"}', b'{"op":"oidc_start","provider":"nobody"}',
                     b'{"op":"oidc_start"}', b'{"op":"oidc_finish","provider":"a","code":7}', b'{"op":"saml_finish","provider":"a"}', b"\xff\xfe", b"{" * 5000):
            number = next(peer.ids)
            peer.send_raw(struct.pack("<IQ", len(body) + 8, number) + body)
            reply = peer.wait(number)
            check(reply["ok"] is False and reply["code"] == "invalid", f"{body[:40]}: {reply}")
        check(finish(peer, idp)["ok"], "and the valid one is served")


@case
def test_frame__in_pieces_of_one_byte():
    with Running() as (peer, _):
        body = b'{"op":"stats"}'
        for byte in struct.pack("<IQ", len(body) + 8, 77) + body:
            peer.send_raw(bytes([byte]))
        check(peer.wait(77)["ok"])


@case
def test_configure__anything_else_first_ends_the_process():
    peer = SsoPeer(stderr=subprocess.DEVNULL).start()
    try:
        peer.call("stats", timeout=10)
        raise AssertionError("it answers before it is configured")
    except PeerGone:
        check(peer.process.wait(10) != 0)


@case
def test_configure__a_provider_that_does_not_hold_is_refused_alone():
    idp = FakeIdp()
    bad = [provider("none", idp, algorithms=["none"]), provider("hs", idp, algorithms=["HS256"]), provider("http", idp, issuer="http://idp.example"),
           provider("nosecret", idp, client_secret=None), provider("skew", idp, clock_skew_s=4000), {"name": "kind", "kind": "ldap"},
           {"name": "saml", "kind": "saml", "metadata_xml": "<!DOCTYPE x><x/>", "entity_id": "us", "claims": [], "want_signed": "response", "clock_skew_s": 60}]
    bad = [{k: v for k, v in p.items() if v is not None} for p in bad]
    peer = SsoPeer(stderr=subprocess.DEVNULL).start()
    result = peer.configure(bad + [provider("a", idp)])["providers"]
    equal([p["ok"] for p in result], [False] * len(bad) + [True])
    check(all(p["detail"] for p in result[:-1]), "each says why")
    for p in result[:-1]:
        equal(peer.call("oidc_start", provider=p["name"])["code"], "invalid", p["name"])
    check(finish(peer, idp)["ok"])
    peer.stop()
    idp.stop()


# ---- keys ----


@case
def test_keys__200_unknown_ones_cause_at_most_one_fetch():
    with Running() as (peer, idp):
        check(bearer(peer, idp)["ok"])
        before = idp.counts["jwks"]
        for i in range(200):
            reply = bearer(peer, idp, kid=f"unknown-{i}")
            equal(reply["check"], "jwt.key")
        note(f"200 unknown keys: {idp.counts['jwks'] - before} fetches")
        check(idp.counts["jwks"] - before <= 1, f"{idp.counts['jwks'] - before} fetches")
        check(bearer(peer, idp)["ok"])


@case
def test_keys__many_at_once_are_fetched_once():
    with Running() as (peer, idp):
        idp.faults["jwks"] = 0.3
        numbers = [peer.send({"op": "oidc_finish", "provider": "a", "redirect_uri": "https://gate/cb", "code": idp.code_for(idp.mint(idp.id_claims())),
                              "iss": idp.issuer, "code_verifier": "v" * 43, "nonce": NONCE}) for _ in range(30)]
        equal([peer.wait(n)["ok"] for n in numbers], [True] * 30)
        equal(idp.counts["jwks"], 1)
        equal(idp.counts["wellknown"], 1)


@case
def test_keys__a_rotation_fails_no_sign_in():
    with Running() as (peer, idp):
        check(finish(peer, idp)["ok"])
        time.sleep(1.1)
        idp.keys.insert(0, Key("RSA", "rsa-2"))
        check(finish(peer, idp)["ok"], "the new key first, the old one kept")
        time.sleep(1.1)
        idp.keys = [Key("RSA", "rsa-3")]
        check(finish(peer, idp)["ok"], "the old ones gone")


@case
def test_keys__go_on_working_while_the_provider_is_away():
    with Running() as (peer, idp):
        check(bearer(peer, idp)["ok"])
        for fault in (500, "html"):
            idp.faults["jwks"] = idp.faults["wellknown"] = fault
            check(bearer(peer, idp)["ok"], str(fault))


# ---- outages ----


@case
def test_outage__is_said_as_such_and_the_twin_works_after():
    for path in ("wellknown", "jwks", "token"):
        for fault, codes in ((500, ("unavailable",)), (503, ("unavailable",)), ("html", ("unavailable",)), ("huge", ("unavailable",)), ("redirect", ("unavailable", "refused"))):
            with Running() as (peer, idp):
                idp.faults[path] = fault
                reply = finish(peer, idp)
                check(not reply["ok"] and reply["code"] in codes, f"{path} {fault}: {reply}")
                idp.faults.clear()
                time.sleep(2.1)  # after a failure the provider is left alone for two seconds
                check(finish(peer, idp)["ok"], f"{path} {fault}: and after")


@case
def test_outage__a_provider_that_hangs_costs_the_others_nothing():
    with Running(2) as (peer, hanging, good):
        hanging.faults["wellknown"] = hanging.faults["token"] = "hang"
        check(finish(peer, good, "b")["ok"])
        stuck = [peer.send({"op": "oidc_start", "provider": "a", "redirect_uri": "https://gate/cb", "state": "s" * 43, "nonce": NONCE, "code_challenge": "c" * 43})
                 for _ in range(200)]
        worst = 0.0
        for _ in range(20):
            began = time.monotonic()
            check(finish(peer, good, "b")["ok"])
            worst = max(worst, time.monotonic() - began)
        note(f"20 sign-ins at a good provider while another hangs with 200 requests: the slowest took {worst * 1000:.0f} ms")
        replies = [peer.wait(n, 40) for n in stuck]
        check(all(r["code"] in ("timeout", "unavailable", "busy") for r in replies), str(replies[:2]))
        check(any(r["code"] == "busy" for r in replies), "the queue of a provider is bounded")


@case
def test_hosts__only_those_configured_are_reached():
    with Running(2) as (peer, idp, other):
        idp.discovery = {"token_endpoint": other.issuer + "/token"}
        reply = finish(peer, idp)
        check(not reply["ok"] and "not a configured host" in reply["detail"], str(reply))
        equal(other.counts.get("token", 0), 0)
    idp, other = FakeIdp(), FakeIdp()
    idp.discovery = {"token_endpoint": other.issuer + "/token"}
    peer = started(provider("a", idp, hosts=[f"127.0.0.1:{other.port}"]))
    other.codes = idp.codes
    check(finish(peer, idp)["ok"], "and with the host named it is reached")
    peer.stop()
    idp.stop()
    other.stop()


# ---- what is counted ----


@case
def test_asked__each_reply_says_what_it_cost_and_how_that_ended():
    with Running(userinfo=True) as (peer, idp):
        idp.userinfo = {"sub": idp.id_claims()["sub"]}
        first = [["a", "discovery", "ok"], ["a", "token", "ok"], ["a", "jwks", "ok"], ["a", "userinfo", "ok"]]
        reply = finish(peer, idp)
        equal((reply["ok"], reply["asked"]), (True, first))
        equal(finish(peer, idp)["asked"], [["a", "token", "ok"], ["a", "userinfo", "ok"]], "the rest is known")
        equal(peer.call("oidc_revoke", provider="a", refresh_token="rt")["asked"], [["a", "revocation", "ok"]])
        start = peer.call("oidc_start", provider="a", redirect_uri="https://gate/cb", state="s" * 43, nonce=NONCE, code_challenge="c" * 43)
        equal((start["ok"], start.get("asked")), (True, None), "nobody is asked")
        bad_code = peer.call("oidc_finish", provider="a", redirect_uri="https://gate/cb", code="x", iss=idp.issuer, code_verifier="v" * 43, nonce=NONCE)
        equal(bad_code["asked"], [["a", "token", "refused"]])
        for fault, result in ((500, "error"), ("huge", "error"), ("hang", "timeout")):
            idp.faults["token"] = fault
            equal(finish(peer, idp)["asked"], [["a", "token", result]], str(fault))


@case
def test_asked__an_access_token_is_counted_at_the_provider_that_it_is_of():
    with Running(2) as (peer, idp, other):
        equal(bearer(peer, other)["asked"], [["b", "discovery", "ok"], ["b", "jwks", "ok"]])
        equal(bearer(peer, other).get("asked"), None)
    with Running(bearer={"audiences": ["https://gate/api"], "introspection": True, "require_binding": False}) as (peer, idp):
        reply = peer.call("bearer", token="opaque", audience="https://gate/api", method="GET", url="https://gate/v1/models")
        equal(reply["asked"], [["a", "discovery", "ok"], ["a", "introspection", "ok"]])


# ---- what it can do at all ----


@case
def test_process__has_no_privileges_and_ends_with_the_gateway():
    with Running() as (peer, idp):
        check(finish(peer, idp)["ok"])
        status = pathlib.Path(f"/proc/{peer.process.pid}/status").read_text()
        check("Seccomp:\t2" in status and "NoNewPrivs:\t1" in status, "seccomp and no_new_privs")
        children = pathlib.Path(f"/proc/{peer.process.pid}/task/{peer.process.pid}/children").read_text().split()
        equal(len(children), 1, "the connector alone")
        status = pathlib.Path(f"/proc/{children[0]}/status").read_text()
        check("Seccomp:\t2" in status and "NoNewPrivs:\t1" in status, "and it has its own")
        check(pathlib.Path(f"/proc/{peer.process.pid}/cmdline").read_bytes().count(b"\0") == 1, "nothing on the command line")
        peer.stop()
        deadline = time.monotonic() + 5
        while pathlib.Path(f"/proc/{children[0]}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        check(not pathlib.Path(f"/proc/{children[0]}").exists(), "the connector goes with it")


@case
def test_log__holds_no_token_and_no_secret():
    with open(f"/tmp/gh-sso-log-{secrets.token_hex(6)}", "w+b") as log:
        os.unlink(log.name)
        idp = FakeIdp()
        peer = SsoPeer(stderr=log).start()
        peer.configure([provider("a", idp, client_secret="canary-secret")])
        token = idp.mint(idp.id_claims(nonce="canary-nonce", sub="canary-sub"))
        for reply in (finish(peer, idp, token=token), finish(peer, idp, token=token + "x"), peer.call("explain", text=token)):
            check("canary" not in str({k: v for k, v in reply.items() if k in ("detail", "checks")}), str(reply))
        check(finish(peer, idp)["ok"])
        peer.stop()
        idp.stop()
        log.seek(0)
        text = log.read()
        check(b"canary" not in text and b"eyJ" not in text, text[:300])


if __name__ == "__main__":
    sys.exit(tap.run())

#!/usr/bin/env python3
"""What binds a provider's answer to one browser, once: attacks on the gateway's side of sign-in, each with its valid twin. A whole stack,
and a provider that says what a test wants.

    test_sign_in_cases.py [PATTERN]      test_sign_in_cases.py --mutate     (a build with -Dmutations=true)
"""
import base64
import hashlib
import hmac
import json
import os
import pathlib
import re
import secrets
import struct
import sys
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cases import Suite
from fake_idp import FakeIdp
from gateway_client import new_stack, policy
from sso_browser import Browser

DOMAIN = b"gatehouse sign-in state v1\0"
EVENT = "http://schemas.openid.net/event/backchannel-logout"
COOKIE = "__Host-gatehouse-signin"
idp, second = FakeIdp(), FakeIdp()
IDENTITY = f"""
identity:
  providers:
    corp:
      label: Company <b>account</b>
      oidc: {{issuer: "{idp.issuer}", client_id: gatehouse, client_secret_file: idp.secret, scopes: [openid, offline_access]}}
      claims: {{groups: groups}}
    other:
      oidc: {{issuer: "{second.issuer}", client_id: gatehouse, client_secret_file: idp.secret, scopes: [openid]}}
      claims: {{groups: groups, directory: email, directory_required: true}}
  mapping:
    - {{group: llm-users, role: employee}}
    - {{group: llm-admins, role: admin}}
  scim: {{token_file: scim.token, key: userName}}
"""
gw = new_stack(policy=policy() + IDENTITY)
(gw.dir / "idp.secret").write_text("not much of a secret")
(gw.dir / "scim.token").write_text("a token of at least twenty-four bytes")
for secret in ("idp.secret", "scim.token"):
    os.chmod(gw.dir / secret, 0o600)
sub = lambda: "user-" + secrets.token_hex(4)


def begin(browser, provider="corp", query=""):
    """At the provider's door: (state, nonce) of the request."""
    page = browser.fetch(f"{gw.url}/auth/oidc/{provider}/start{query}")
    asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(page.headers["location"]).query))
    return asked["state"], asked["nonce"]


def answer(browser, began_state, began_nonce, provider="corp", at=None, **change):
    """Back from it, with what the provider would say, but for `change` (None: left out; a list: several times)."""
    at = at or idp
    claims = at.id_claims(**{"nonce": began_nonce, **change.pop("claims", {})})
    code = change.pop("code", None) or at.code_for(at.mint(claims), **change.pop("tokens", {}))
    fields = {"code": code, "state": began_state, "iss": at.issuer, **change}
    query = urllib.parse.urlencode({k: v for k, v in fields.items() if v is not None}, doseq=True)
    return browser.fetch(f"{gw.url}/auth/oidc/{provider}/callback?{query}", from_site="127.0.0.1")


def outcome(page, browser):
    """As a case wants it: came in, or which check was against it (the operator's log says)."""
    if page.status == 303 and browser.session_cookie():
        return {"ok": True, "to": page.headers["location"]}
    lines = [json.loads(line) for line in gw.log_tail("gateway", 200).splitlines() if line.startswith("{") and '"sso.refused"' in line]
    return {"ok": False, "check": lines[-1]["check"] if lines else f"status {page.status}", "detail": page.status}


def good():
    browser = Browser(gw)
    return outcome(answer(browser, *begin(browser)), browser)


def changed(**change):
    def run():
        browser = Browser(gw)
        return outcome(answer(browser, *begin(browser), **change), browser)
    return run


def patched_cookie(at, data):
    """The browser's sealed state with some bytes changed, sealed again: only who has the pepper can do that."""
    def run():
        browser = Browser(gw)
        state, nonce = begin(browser)
        key = hmac.new(bytes.fromhex((gw.dir / "keys/pepper").read_text().strip()), DOMAIN, hashlib.sha256).digest()
        cookie = next(c for c in browser.cookies.values() if c.name == COOKIE)
        raw = base64.urlsafe_b64decode(cookie.value + "=" * (-len(cookie.value) % 4))
        body = bytearray(AESGCM(key).decrypt(raw[:12], raw[28:] + raw[12:28], DOMAIN))
        body[at:at + len(data) if at + len(data) else None] = data
        nonce2 = secrets.token_bytes(12)
        sealed = AESGCM(key).encrypt(nonce2, bytes(body), DOMAIN)
        cookie.value = base64.urlsafe_b64encode(nonce2 + sealed[-16:] + sealed[:-16]).rstrip(b"=").decode()
        return outcome(answer(browser, state, nonce), browser)
    return run


def with_cookie(change):
    def run():
        browser = Browser(gw)
        state, nonce = begin(browser)
        change(browser)
        return outcome(answer(browser, state, nonce), browser)
    return run


def cookie_of(browser):
    return next(c for c in browser.cookies.values() if c.name == COOKIE)


def flip(browser):
    value = cookie_of(browser).value
    cookie_of(browser).value = value[:60] + ("A" if value[60] != "A" else "B") + value[61:]


def other_browsers(browser):
    stranger = Browser(gw)
    begin(stranger)
    cookie_of(browser).value = cookie_of(stranger).value


suite = Suite("sign-in", sources="gateway/*.c", prefixes=("signin.",))
case = lambda name, check, bad, twin=good, **kw: suite.case(name, check, bad, twin, **kw)

# ---- the state ----
case("no cookie", "signin.cookie", with_cookie(lambda b: b.cookies.clear()))
case("cookie with a bit changed", "signin.cookie", with_cookie(flip))
case("cookie cut", "signin.cookie", with_cookie(lambda b: setattr(cookie_of(b), "value", cookie_of(b).value[:100])))
case("cookie that is a session's", "signin.cookie", with_cookie(lambda b: setattr(cookie_of(b), "value", "A" * 64)))
case("cookie of another browser", "signin.state", with_cookie(other_browsers))
case("state of another sign-in", "signin.state", changed(state="x" * 43))
case("state cut", "signin.state", lambda: (lambda b: (lambda s, n: outcome(answer(b, s[:-1], n), b))(*begin(b)))(Browser(gw)))
case("state and more", "signin.state", lambda: (lambda b: (lambda s, n: outcome(answer(b, s + "x", n), b))(*begin(b)))(Browser(gw)))
case("state missing", "signin.state", changed(state=None))
case("state twice", "signin.state", lambda: (lambda b: (lambda s, n: outcome(answer(b, s, n, state=[s, s]), b))(*begin(b)))(Browser(gw)))
case("state empty", "signin.state", changed(state=""))
case("eleven minutes old", "signin.expired", patched_cookie(-8, struct.pack("<q", 1)))
case("from the future", "signin.expired", patched_cookie(-8, struct.pack("<q", 1 << 40)))
case("begun at another provider", "signin.provider", patched_cookie(4, b"other\0"))
case("begun as another kind", "signin.kind", patched_cookie(0, struct.pack("<i", 2)))


def answer_at_other_provider():
    """Mix-up: begun at one provider, answered at the other's address."""
    browser = Browser(gw)
    state, nonce = begin(browser)
    return outcome(answer(browser, state, nonce, provider="other", at=second), browser)


case("answered at another provider's address", "signin.provider", answer_at_other_provider)


def twice(keep_cookie=True):
    browser = Browser(gw)
    state, nonce = begin(browser)
    kept = dict(browser.cookies)
    first = outcome(answer(browser, state, nonce), browser)
    assert first["ok"], first
    browser.cookies = kept
    return outcome(answer(browser, state, nonce), browser)


case("answer brought twice, with a new code", "signin.once", twice)

# ---- the answer ----
case("provider says no", "signin.error", changed(error="access_denied", code="x"))
case("an error that would break a log line", "signin.error", changed(error="x\r\n{\"event\":\"fake\"}", code="x"))
case("error and code together", "signin.error", changed(error="server_error"))
case("code missing", "signin.code", lambda: (lambda b: (lambda s, n: outcome(b.fetch(
    f"{gw.url}/auth/oidc/corp/callback?state={s}&iss={idp.issuer}", from_site="127.0.0.1"), b))(*begin(b)))(Browser(gw)))
case("code twice", "signin.code", changed(code=["a", "b"]))
case("issuer twice", "signin.code", lambda: (lambda b: (lambda s, n: outcome(answer(b, s, n, iss=[idp.issuer, idp.issuer]), b))(*begin(b)))(Browser(gw)))
case("answer of another issuer", "oidc.response_issuer", changed(iss=second.issuer))
case("nonce of another sign-in", "oidc.nonce", changed(claims={"nonce": "m" * 43}))
case("token for another client", "token.audience", changed(claims={"aud": "someone-else"}))

# ---- roles ----
case("in no group that has a role", "signin.no_role", changed(claims={"groups": ["gardeners"]}))
case("without groups", "signin.no_role", changed(claims={"groups": None}))
case("groups as a text where a list is meant", "signin.no_role", changed(claims={"groups": "llm-users; llm-admins"}), changed(claims={"groups": "llm-users"}))
case("role's name instead of a group's", "signin.no_role", changed(claims={"groups": ["admin"]}), changed(claims={"groups": ["llm-admins"]}))



def not_provisioned():
    browser = Browser(gw)
    return outcome(answer(browser, *begin(browser, "other"), provider="other", at=second), browser)


case("person whom the directory does not know, where it must", "signin.directory_required", not_provisioned)

# ---- where it leads ----
for place in ("https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "/%2f%2fevil.example", "/?x=%0d%0aset-cookie:a=b", "javascript:alert(1)",
              "/auth/logout", "/../..//evil.example", " /", "/?next=//evil.example"):
    def leads(where=place):
        browser = Browser(gw)
        state, nonce = begin(browser, query="?return_to=" + urllib.parse.quote(where, safe=""))
        result = outcome(answer(browser, state, nonce), browser)
        return {"ok": False, "check": "home"} if result.get("to") == "/" else result
    suite.case(f"back to {place!r}", "signin.return_to", leads, good, says="home")


# ---- back-channel logout ----
def signed_in(person, sid):
    browser = Browser(gw)
    result = outcome(answer(browser, *begin(browser), claims={"sub": person, "sid": sid}), browser)
    assert result["ok"], result
    return browser


def post_logout(claims, raw=None, path="/auth/oidc/corp/logout", **header):
    now = idp.id_claims()["iat"]
    full = {"iss": idp.issuer, "aud": "gatehouse", "iat": now, "exp": now + 120, "jti": secrets.token_hex(8), "events": {EVENT: {}}, **claims}
    token = raw if raw is not None else idp.mint({k: v for k, v in full.items() if v is not None}, typ="logout+jwt", **header)
    body = token if isinstance(token, bytes) else urllib.parse.urlencode({"logout_token": token})
    return Browser(gw).fetch(gw.url + path, "POST", body, {"content-type": "application/x-www-form-urlencoded"}), token


def logged_out(**claims):
    """The session is over after it."""
    def run():
        person, sid = sub(), secrets.token_hex(6)
        browser = signed_in(person, sid)
        page, _ = post_logout({"sub": person, "sid": sid, **claims})
        assert page.headers.get("cache-control") == "no-store"
        if page.status == 200 and browser.who() is None:
            return {"ok": True}
        return {"ok": False, "check": f"answer {page.status}" + ("" if browser.who() else ", and the session is over")}
    return run


logout_good = logged_out()
case("logout token without event", "answer 400", logged_out(events=None), logout_good)
case("logout token with nonce", "answer 400", logged_out(nonce="n"), logout_good)
case("logout token of another person's session", "answer 200", logged_out(sub=None, sid="another"), logged_out(sub=None))
case("logout token for another client", "answer 400", logged_out(aud="other"), logged_out(sid=None))


def replayed_logout():
    person, sid = sub(), secrets.token_hex(6)
    signed_in(person, sid)
    _, token = post_logout({"sub": person})
    browser = signed_in(person, secrets.token_hex(6))
    page, _ = post_logout({}, raw=token)
    return {"ok": True} if page.status == 200 else {"ok": False, "check": "signin.logout_once", "who": browser.who() is not None}


case("logout token brought twice", "signin.logout_once", replayed_logout, logout_good)
for name, make in (("GET", lambda: Browser(gw).fetch(gw.url + "/auth/oidc/corp/logout")),
                   ("without a token", lambda: Browser(gw).fetch(gw.url + "/auth/oidc/corp/logout", "POST", "x=y", {"content-type": "application/x-www-form-urlencoded"})),
                   ("two tokens", lambda: post_logout({}, raw=b"logout_token=a&logout_token=b")[0]),
                   ("at a provider that is not there", lambda: post_logout({}, path="/auth/oidc/nobody/logout")[0])):
    case(f"logout: {name}", "refused", lambda m=make: (lambda p: {"ok": p.status < 400, "check": "refused"})(m()), logout_good)


# ---- refresh and sign-out need the page's own word ----
def state_change(path, headers, expect):
    def run():
        name = secrets.token_hex(8)
        person = sub()
        browser = Browser(gw)
        result = outcome(answer(browser, *begin(browser), claims={"sub": person}, tokens={"refresh_token": name}), browser)
        assert result["ok"], result
        browser.who()
        idp.refresh[name] = {"access_token": "a", "token_type": "Bearer", "id_token": idp.mint(idp.id_claims(sub=person, nonce=None)), "refresh_token": "n" + name}
        all_headers = {**browser.own_headers(), **headers}
        page = browser.fetch(gw.url + path, "POST", "", {k: v for k, v in all_headers.items() if v is not None})
        return {"ok": page.status in expect, "check": f"status {page.status}"}
    return run


for path, fine in (("/auth/refresh", (200,)), ("/auth/logout", (200, 204))):
    for name, headers in (("without the CSRF token", {"x-csrf-token": None}), ("with another's CSRF token", {"x-csrf-token": "A" * 43}),
                          ("from a foreign page", {"origin": "https://evil.example"}), ("without Origin", {"origin": None}),
                          ("cross-site by the browser's word", {"sec-fetch-site": "cross-site"})):
        case(f"{path} {name}", "status 403", state_change(path, headers, fine), state_change(path, {}, fine))


def refresh_gives(**over):
    def run():
        name, person = secrets.token_hex(8), sub()
        browser = Browser(gw)
        assert outcome(answer(browser, *begin(browser), claims={"sub": person}, tokens={"refresh_token": name}), browser)["ok"]
        browser.who()
        before = browser.session_cookie().value
        idp.refresh[name] = {"access_token": "a", "token_type": "Bearer", "id_token": idp.mint(idp.id_claims(**{"sub": person, "nonce": None, **over}))}
        page = browser.api("POST", "/auth/refresh")
        if page.status == 200:
            assert browser.session_cookie().value != before, "the same cookie"
            return {"ok": True}
        return {"ok": False, "check": f"status {page.status}" + (", signed out" if browser.who() is None else "")}
    return run


case("refresh gives another person", "status 401, signed out", refresh_gives(sub="admin"), refresh_gives())
case("refresh finds no role any more", "status 401, signed out", refresh_gives(groups=["gardeners"]), refresh_gives(groups=["llm-admins"]))
case("refresh with an expired ID token", "status 401, signed out", refresh_gives(exp=1), refresh_gives())


def fixation():
    """A session cookie that somebody put into the browser before is not the one after sign-in, and is over."""
    victim, thief = Browser(gw), signed_in(sub(), "t")
    planted = thief.session_cookie()
    victim.keep(planted)
    result = outcome(answer(victim, *begin(victim)), victim)
    assert result["ok"]
    return {"ok": victim.session_cookie().value == planted.value or thief.who() is not None, "check": "new session"}


case("session fixation", "new session", fixation)


def restart(off):
    gw.end("gateway")
    gw.env["GH_CHECK_OFF"] = off
    if not off:
        gw.env.pop("GH_CHECK_OFF")
    gw.start_gateway()


if __name__ == "__main__":
    try:
        with gw:
            status = suite.main(restart)
    finally:
        idp.stop()
        second.stop()
    sys.exit(status or (1 if gw.sanitizer_report else 0))

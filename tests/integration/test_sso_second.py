#!/usr/bin/env python3
"""Single sign-on with a second make of identity provider: Debian's LemonLDAP::NG, by OpenID Connect and by SAML 2.0, against a whole stack.

It is unlike the first ones where that matters: all groups are one text, `aud` is a list, access tokens are opaque, no `iss` comes with the
code, SAML is lasso's, and a logout at its own page asks the browser to go round.
"""
import base64
import html
import http.client
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import llng_idp  # noqa: E402
from gateway_client import new_stack, policy, stacks, tap  # noqa: E402
from sso_browser import Browser as AnyBrowser, open_stream, wait_end  # noqa: E402
from tap import case, check, equal, note  # noqa: E402

IDENTITY = """
identity:
  providers:
    corp:
      label: Second provider
      oidc: {issuer: "@IDP@", client_id: gatehouse, client_secret_file: corp.secret, scopes: [openid, profile, email, groups]}
      claims: {groups: groups, separator: "; "}
    old:
      label: Second provider by SAML
      saml: {metadata_file: idp.xml, key_file: saml.key, cert_file: saml.pem}
      claims: {subject: uid, groups: groups, separator: "; ", name: displayName, email: mail}
  mapping:
    - {group: llm-admins, role: admin}
    - {group: llm-users, role: employee}
    - {group: "llm analysts", role: narrow}
"""
PEOPLE = {
    "alice": {"name": "Alice Ångström 用户", "mail": "alice@example.com", "groups": ["llm-users", "llm-admins"]},
    "bob": {"name": "Bob O'Hara <b>", "mail": "bob@example.com", "groups": ["llm-users", "department"]},
    "carol": {"name": "Carol", "mail": "carol@example.com", "groups": ["llm analysts"]},
    "dave": {"name": "Dave", "mail": "dave@example.com", "groups": ["llm-admins-not", "not llm-users"]},
}
START = {"corp": "/auth/oidc/corp/start", "old": "/auth/saml/old/start"}


class Browser(AnyBrowser):
    def fetch(self, url, method="GET", body=None, headers=None, *where, **options):
        """The provider answers whoever also takes JSON with JSON."""
        return super().fetch(url, method, body, {"accept": "text/html", **(headers or {})}, *where, **options)


def log_in(browser, page, who):
    """Through the provider's own page; then whatever forms lead on to us."""
    check('name="password"' in page.text, f"not the provider's page: {page}")
    form = next(i for i, f in enumerate(page.forms()) if "password" in f["fields"])
    return browser.submit(page, {"user": who, "password": who}, form=form)


def at_provider(gw, way, who):
    """(browser, page): signed in there, on the way to us."""
    browser = Browser(gw)
    return browser, log_in(browser, browser.go(gw.url + START[way]), who)


def sign_in(gw, way, who):
    browser, page = at_provider(gw, way, who)
    if page.forms() and "SAMLResponse" in page.forms()[0]["fields"]:
        page = browser.submit(page, {})
    return browser, page


def signed_in(gw, way, who):
    browser, page = sign_in(gw, way, who)
    check(browser.session_cookie() is not None and browser.who() is not None, f"no session for {who} by {way}: {page} {gw.log_tail('gateway', 5)}")
    return browser


def refused(browser, page, what, by):
    """by: the check that says so in the log."""
    check(browser.session_cookie() is None and browser.who() is None, f"{what}: came in")
    check(page.status >= 400 and page.url.startswith(browser.stack.url), f"{what}: {page}")
    told = [json.loads(line) for line in (browser.stack.dir / "gateway.log").read_text(errors="replace").splitlines() if '"sso.refused"' in line]
    equal(told[-1]["check"] if told else None, by, what)


def roles_follow_groups(gw, way):
    models = {}
    for who, role in (("alice", "admin"), ("bob", "employee"), ("carol", "narrow")):
        browser = signed_in(gw, way, who)
        check(role in browser.who()["roles"], f"{who} has {browser.who()['roles']}")
        check(PEOPLE[who]["name"] in json.dumps(browser.who(), ensure_ascii=False), f"the name is whole: {browser.who()}")
        models[who] = browser.models()
    check("reserved" in models["alice"] and "reserved" not in models["bob"], "the administrator's model")
    equal(models["carol"], {"demo"})
    refused(*sign_in(gw, way, "dave"), "dave, whose groups only look like ours", "signin.no_role")


@case
def test_oidc__roles_follow_the_one_text_of_groups(gw):
    roles_follow_groups(gw, "corp")


@case
def test_saml__roles_follow_the_one_text_of_groups(gw):
    roles_follow_groups(gw, "old")


# ---- what is refused ----


@case
def test_oidc__tokens_that_say_something_else_are_refused(gw):
    """Signed by the provider's own key, in the provider's own way."""
    now = int(time.time())
    for what, by, bend in (("another audience", "token.audience", {"claims": {"aud": ["someone-else"]}}),
                           ("another party", "oidc.azp", {"claims": {"azp": "someone-else"}}),
                           ("two audiences and no party", "oidc.azp_missing", {"claims": {"aud": ["gatehouse", "b"], "azp": None}}),
                           ("another issuer", "token.issuer", {"claims": {"iss": f"{gw.idp.url}/"}}),
                           ("another sign-in", "oidc.nonce", {"claims": {"nonce": "n" * 43}}),
                           ("an hour ago", "token.expired", {"claims": {"exp": now - 3600, "iat": now - 7200}}),
                           ("a shared secret", "jwt.algorithm", {"algorithm": "HS256"}),
                           ("no signature", "jwt.form", {"algorithm": "none"}),
                           ("an algorithm that is not ours", "jwt.algorithm", {"algorithm": "RS512"})):
        with gw.idp.bent(**bend):
            refused(*sign_in(gw, "corp", "bob"), what, by)
    for bend in ({"claims": {"aud": "gatehouse"}}, {"claims": {"aud": ["gatehouse", "b"], "azp": "gatehouse"}}, {"algorithm": "RS256"}):
        with gw.idp.bent(**bend):
            signed_in(gw, "corp", "bob")


@case
def test_oidc__an_answer_holds_once_and_for_its_browser(gw):
    browser = Browser(gw)
    page = browser.go(gw.url + START["corp"])
    form = next(i for i, f in enumerate(page.forms()) if "password" in f["fields"])
    page = browser.submit(page, {"user": "bob", "password": "bob"}, form=form, stop_at="/auth/oidc/corp/callback")
    callback, stranger, kept = page.headers["location"], Browser(gw), dict(browser.cookies)
    refused(stranger, stranger.go(callback, from_site="127.0.0.1"), "another browser", "signin.cookie")
    browser.go(callback, from_site="127.0.0.1")
    check(browser.who() is not None, "the browser itself comes in")
    browser.cookies = kept
    refused(browser, browser.go(callback, from_site="127.0.0.1"), "the same answer again", "signin.once")


def response_page(gw, who):
    browser, page = at_provider(gw, "old", who)
    check(page.forms() and "SAMLResponse" in page.forms()[0]["fields"], f"no response: {page}")
    return browser, page


@case
def test_saml__responses_for_others_changed_or_brought_again_are_refused(gw):
    with gw.idp.bent(audience="https://elsewhere.example/metadata"):
        refused(*sign_in(gw, "old", "bob"), "for another audience", "saml.audience")
    for old, new in ((b"llm-users", b"llm-admins"), (b">bob<", b">eve<"), (b"status:Success", b"status:Responder")):
        browser, page = response_page(gw, "bob")
        xml = base64.b64decode(page.forms()[0]["fields"]["SAMLResponse"])
        check(old in xml, f"{old} is not in the response: {xml}")
        refused(browser, browser.submit(page, {"SAMLResponse": base64.b64encode(xml.replace(old, new)).decode()}), f"{old} changed", "saml.signature")
    browser, page = response_page(gw, "bob")
    stranger = Browser(gw)
    refused(stranger, stranger.submit(page, {}), "another browser", "signin.cookie")
    kept = dict(browser.cookies)
    browser.submit(page, {})
    check(browser.who() is not None, "the browser itself comes in")
    browser.cookies = kept
    refused(browser, browser.submit(page, {}), "the same response again", "signin.once")


@case
def test_saml__a_response_that_nobody_asked_for_is_refused(gw):
    browser = Browser(gw)
    page = browser.go(f"{gw.idp.url}/saml/singleSignOn?IDPInitiated=1&spConfKey=gate")
    page = log_in(browser, page, "bob")
    check(page.forms() and "SAMLResponse" in page.forms()[0]["fields"], f"no response: {page}")
    refused(browser, browser.submit(page, {}), "a response that nobody asked for", "signin.state")


@case
def test_saml__a_response_without_signature_is_refused_and_an_encrypted_one_taken(gw):
    try:
        gw.idp.restart(gw.client, {**gw.sp, "sign": 0})
        browser, page = response_page(gw, "bob")
        xml = base64.b64decode(page.forms()[0]["fields"]["SAMLResponse"])
        check(b"SignatureValue" not in xml.split(b":Assertion ")[0], "the provider signs the response")
        refused(browser, browser.submit(page, {}), "only the assertion is signed", "saml.response_signed")
        gw.idp.restart(gw.client, {**gw.sp, "encryption": "assertion"})
        browser, page = response_page(gw, "bob")
        xml = base64.b64decode(page.forms()[0]["fields"]["SAMLResponse"])
        check(b"EncryptedAssertion" in xml and b"llm-users" not in xml, "the provider encrypts")
        page = browser.submit(page, {})
        check(browser.who() is not None and browser.who()["roles"] == ["employee"], f"encrypted: {page} {gw.log_tail('gateway', 2)}")
    finally:
        gw.idp.restart(gw.client, gw.sp)


@case
def test_saml__the_provider_takes_only_requests_that_we_signed(gw):
    location = Browser(gw).fetch(gw.url + START["old"]).headers["location"]
    for url, taken in ((location, True), (location.split("&SigAlg")[0], False)):
        browser = Browser(gw)
        page = log_in(browser, browser.go(url), "bob")
        equal("SAMLResponse" in page.text, taken, "a response to our request" if taken else "to one without signature, so this proves nothing")


# ---- the end ----


@case
def test_logout__goes_on_to_the_provider(gw):
    for name in ("corp", "old"):
        browser = signed_in(gw, name, "bob")
        page = browser.api("POST", "/auth/logout")
        check(browser.who() is None, f"{name}: the session lives on")
        url = page.json().get("url") if page.body else None
        check(url and url.startswith(gw.idp.url), f"{name}: no way on to the provider: {page}")
        browser.go(url)
        page = browser.go(gw.url + START[name])
        check('name="password"' in page.text, f"{name}: the provider still knows the person")


@case
def test_oidc_logout_at_the_provider__is_noticed_at_the_next_refresh(gw):
    """It has no back-channel logout."""
    browser, other = signed_in(gw, "corp", "bob"), signed_in(gw, "corp", "alice")
    equal(browser.api("POST", "/auth/refresh").status, 200, "refresh while signed in there")
    check(browser.who() is not None)  # and reads the new session's CSRF token
    browser.go(f"{gw.idp.url}/?logout=1")
    equal(browser.api("POST", "/auth/refresh").status, 401, "refresh after the logout")
    check(browser.who() is None, "the session lives on")
    check(other.who() is not None, "another person's session ended")


@case
def test_saml_logout_at_the_provider__ends_the_session_and_its_stream(gw):
    browser, other = signed_in(gw, "old", "bob"), signed_in(gw, "old", "alice")
    browser.who()
    page = browser.go(f"{gw.idp.url}/?logout=1")
    frames = [html.unescape(f) for f in re.findall(r'<iframe[^>]*src="([^"]+)"', page.text)]
    check(any(f.startswith(f"{gw.url}/auth/saml/old/slo") for f in frames), f"no frame leads to us: {frames} {page.text[:3000]}")
    check(browser.who() is not None, "ended before the provider asked for it")
    connection, answer = open_stream(gw, browser)
    sent = time.monotonic()
    for frame in frames:
        Browser(gw).go(frame)  # a frame of another site: none of our cookies come with it
    ended, data = wait_end(answer)
    connection.close()
    check(b"[DONE]" not in data, "the answer was complete before it could be cut")
    note(f"from the provider's request: stream ended after {ended - sent:.3f} s")
    check(ended - sent <= 2, f"the stream went on for {ended - sent:.2f} s")  # the promise is 1 s; the rest is room for a busy machine
    check(browser.who() is None, "the session lives on")
    check(other.who() is not None, "another person's session ended")
    forged = frames[0].replace("Signature=", "Signature=AAAA")
    equal(Browser(gw).fetch(forged).status, 403, "a request whose signature is another's")


def secret(path, text):
    path.write_text(text)
    os.chmod(path, 0o600)


def main():
    why = llng_idp.missing()
    if why:
        print(f"1..0 # SKIP {why}")
        return 0
    folder = tempfile.mkdtemp(prefix="gh-llng-")
    idp = llng_idp.LemonLdap(folder, stacks.free_port(), PEOPLE)
    try:
        gw = new_stack(policy=policy() + IDENTITY.replace("@IDP@", idp.url))
        client = {"id": "gatehouse", "secret": os.urandom(16).hex(), "callback": f"{gw.url}/auth/oidc/corp/callback", "after": f"{gw.url}/"}
        idp.configure(client)
        idp.start()
        (gw.dir / "idp.xml").write_text(idp.get("/saml/metadata"))
        secret(gw.dir / "corp.secret", client["secret"])
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=gatehouse", "-keyout",
                        str(gw.dir / "saml.key"), "-out", str(gw.dir / "saml.pem")], check=True, stderr=subprocess.DEVNULL)
        os.chmod(gw.dir / "saml.key", 0o600)
        gw.idp = idp
        with gw:
            metadata = Browser(gw).fetch(f"{gw.url}/auth/saml/old/metadata")
            equal(metadata.status, 200, "our metadata")
            gw.client, gw.sp = client, {"metadata": metadata.text}
            idp.restart(gw.client, gw.sp)
            code = tap.run(gw)
            if code:
                tap.note(idp.log_tail(6000))
        return code or (1 if gw.sanitizer_report else 0)
    finally:
        idp.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

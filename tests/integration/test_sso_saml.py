#!/usr/bin/env python3
"""Single sign-on by SAML 2.0 end to end: a whole stack with Debian's SimpleSAMLphp as the identity provider, driven as a browser drives it."""
import base64
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import saml_idp  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import padding  # noqa: E402
from gateway_client import new_stack, policy, stacks, tap  # noqa: E402
from sso_browser import Browser, open_stream, wait_end  # noqa: E402
from tap import case, check, equal, note  # noqa: E402

IDENTITY = """
identity:
  providers:
    old:
      label: Windows account
      saml: {metadata_file: idp.xml, key_file: saml.key, cert_file: saml.pem}
      claims: {subject: mail, groups: groups, name: displayName, email: mail}
  mapping:
    - {group: llm-admins, role: admin}
    - {group: llm-users, role: employee}
    - {claim: department, equals: "Büro", role: narrow}
"""
USERS = {
    "alice": {"groups": ["llm-users", "llm-admins"], "displayName": ["Alice Ångström"], "mail": ["alice@example.com"]},
    "bob": {"groups": ["llm-users"], "displayName": ["Bob"], "mail": ["bob@example.com"]},
    "carol": {"department": ["Büro"], "displayName": ["Carol"], "mail": ["carol@example.com"]},
    "dave": {"displayName": ["Dave"], "mail": ["dave@example.com"]},
    "many": {"groups": [f"department-{i:03}" for i in range(299)] + ["llm-users"], "displayName": ["Many"], "mail": ["many@example.com"]},
}


def to_login(gw):
    browser = Browser(gw)
    return browser, browser.go(f"{gw.url}/auth/saml/old/start")


def response_page(gw, user):
    """(browser, the provider's page that is about to post the response to us)"""
    browser, page = to_login(gw)
    check('name="password"' in page.text, f"not the provider's page: {page}")
    page = browser.submit(page, {"username": user, "password": user})
    check(page.forms() and "SAMLResponse" in page.forms()[0]["fields"], f"no response: {page}")
    return browser, page


def sign_in(gw, user):
    browser, page = response_page(gw, user)
    page = browser.submit(page, {})
    return browser, page


def signed_in(gw, user):
    browser, page = sign_in(gw, user)
    check(browser.session_cookie() is not None and browser.who() is not None, f"no session for {user}: {page}")
    return browser


def refused(browser, page, what):
    check(browser.session_cookie() is None and browser.who() is None, f"{what}: came in")
    check(page.status >= 400 and page.url.startswith(browser.stack.url), f"{what}: {page}")


# ---- signing in ----


@case
def test_sign_in__roles_and_models_follow_groups_and_attributes(gw):
    models = {}
    for user, role in (("alice", "admin"), ("bob", "employee"), ("carol", "narrow")):
        browser = signed_in(gw, user)
        check(role in browser.who()["roles"], f"{user} has {browser.who()['roles']}")
        models[user] = browser.models()
    check("reserved" in models["alice"] and "reserved" not in models["bob"], "the administrator's model")
    equal(models["carol"], {"demo"})


@case
def test_sign_in__who_has_no_role_does_not_come_in(gw):
    browser, page = sign_in(gw, "dave")
    refused(browser, page, "dave")


@case
def test_sign_in__300_groups_and_other_alphabets(gw):
    equal(signed_in(gw, "many").who()["roles"], ["employee"])
    check("Ångström" in str(signed_in(gw, "alice").who()), "the name is whole")


@case
def test_start__the_provider_takes_only_requests_that_we_signed(gw):
    page = Browser(gw).fetch(f"{gw.url}/auth/saml/old/start")
    url = urllib.parse.urlsplit(page.headers["location"])
    asked = dict(urllib.parse.parse_qsl(url.query))
    check(asked["SigAlg"].endswith("rsa-sha256") and asked["Signature"], "signed")
    check('name="password"' in Browser(gw).go(page.headers["location"]).text, "the provider takes it")
    page = Browser(gw).go(page.headers["location"].split("&SigAlg")[0])
    check('name="password"' not in page.text, "the provider takes it unsigned, so this proves nothing")


@case
def test_acs__is_for_the_browser_that_began_and_holds_once(gw):
    browser, page = response_page(gw, "bob")
    stranger = Browser(gw)
    refused(stranger, stranger.submit(page, {}), "another browser")
    kept = dict(browser.cookies)
    browser.submit(page, {})
    check(browser.who() is not None, "the browser itself comes in")
    browser.cookies = kept
    refused(browser, browser.submit(page, {}), "the same response again")


@case
def test_acs__changed_and_unasked_responses_are_refused(gw):
    for old, new in ((b"llm-users", b"llm-admins"), (b">bob<", b">eve<"), (b"status:Success", b"status:Responder")):
        browser, page = response_page(gw, "bob")
        xml = base64.b64decode(page.forms()[0]["fields"]["SAMLResponse"])
        check(old in xml, f"{old} is not in the response")
        refused(browser, browser.submit(page, {"SAMLResponse": base64.b64encode(xml.replace(old, new)).decode()}), f"{old} changed")
    browser = Browser(gw)
    ours = urllib.parse.quote(f"{gw.url}/auth/saml/old/metadata", safe="")
    page = browser.go(f"{gw.idp.url}/saml2/idp/SSOService.php?spentityid={ours}")
    page = browser.submit(page, {"username": "bob", "password": "bob"})
    refused(browser, browser.submit(page, {}), "a response that nobody asked for")
    signed_in(gw, "bob")


@case
def test_acs__an_unsigned_response_is_refused_and_an_encrypted_one_taken(gw):
    try:
        gw.idp.write_hosted(**{"saml20.sign.response": False})
        browser, page = sign_in(gw, "bob")
        refused(browser, page, "only the assertion is signed")
        gw.idp.write_hosted(**{"assertion.encryption": True})
        browser, page = response_page(gw, "bob")
        xml = base64.b64decode(page.forms()[0]["fields"]["SAMLResponse"])
        check(b"EncryptedAssertion" in xml and b"llm-users" not in xml, "the provider encrypts")
        browser.submit(page, {})
        equal(browser.who()["roles"], ["employee"])
    finally:
        gw.idp.write_hosted()


# ---- the end ----


@case
def test_logout_at_the_provider__ends_the_session_and_its_stream(gw):
    browser, other = signed_in(gw, "bob"), signed_in(gw, "alice")
    browser.who()
    connection, answer = open_stream(gw, browser)
    sent = time.monotonic()
    page = browser.go(f"{gw.idp.url}/saml2/idp/SingleLogoutService.php?ReturnTo={urllib.parse.quote(gw.idp.url, safe='')}")
    ended, data = wait_end(answer)
    connection.close()
    check(b"[DONE]" not in data, "the answer was complete before it could be cut")
    note(f"from the provider's logout: stream ended after {ended - sent:.3f} s (the provider's own pages included); last page {page.status}")
    check(browser.who() is None, "the session lives on")
    check(ended - sent <= 2, f"the stream went on for {ended - sent:.2f} s")  # the promise is 1 s; the rest is room for a busy machine
    check(other.who() is not None, "another person's session ended")


def logout_request(gw, name):
    """The address of a LogoutRequest of the provider that names no session, as some send it."""
    xml = (f'<samlp:LogoutRequest xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" '
           f'ID="_{os.urandom(12).hex()}" Version="2.0" IssueInstant="{time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}" '
           f'Destination="{gw.url}/auth/saml/old/slo"><saml:Issuer>{gw.idp.entity_id}</saml:Issuer>'
           f'<saml:NameID Format="{saml_idp.PERSISTENT}">{name}</saml:NameID></samlp:LogoutRequest>')
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    query = urllib.parse.urlencode({"SAMLRequest": base64.b64encode(deflate.compress(xml.encode()) + deflate.flush()).decode(),
                                    "SigAlg": "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"})
    key = serialization.load_pem_private_key((gw.idp.dir / "cert/idp.key").read_bytes(), None)
    signature = base64.b64encode(key.sign(query.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()
    return f"{gw.url}/auth/saml/old/slo?{query}&{urllib.parse.urlencode({'Signature': signature})}"


@case
def test_logout_without_session_index__finds_who_is_called_otherwise_here(gw):
    first, second, other = signed_in(gw, "bob"), signed_in(gw, "bob"), signed_in(gw, "alice")
    equal(first.who()["subject"], "bob@example.com", "the policy's subject")
    connection, answer = open_stream(gw, first)
    sent = time.monotonic()
    equal(Browser(gw).fetch(logout_request(gw, "bob")).status, 303)
    ended, data = wait_end(answer)
    connection.close()
    check(ended - sent < 1.0 and b"session_ended" in data, f"the stream went on for {ended - sent:.2f} s")
    check(first.who() is None and second.who() is None, "a session lives on")
    check(other.who() is not None, "another person's session ended")


@case
def test_metrics__a_logout_message_is_no_sign_in(gw):
    def counts():
        return [gw.metric("gatehouse_logout_messages_total", 'provider="old"', f'result="{result}"') for result in ("ok", "refused")] + [
            gw.metric("gatehouse_logins_total", 'result="refused"')]

    ok, refused, logins = counts()
    good = logout_request(gw, "bob")
    equal(Browser(gw).fetch(good).status, 303)
    equal(counts(), [ok + 1, refused, logins])
    equal(Browser(gw).fetch(logout_request(gw, "bob")[:-8] + "AAAAAAAA").status, 403)
    equal(counts(), [ok + 1, refused + 1, logins])


@case
def test_logout__goes_on_to_the_provider(gw):
    browser = signed_in(gw, "bob")
    browser.who()
    page = browser.api("POST", "/auth/logout")
    check(page.status in (200, 204), f"logout: {page}")
    check(browser.who() is None, "the session lives on")
    url = page.json().get("url") if page.body else None
    check(url and url.startswith(gw.idp.url), "no way on to the provider")
    browser.go(url)
    page = browser.go(f"{gw.url}/auth/saml/old/start")
    check('name="password"' in page.text, "the provider still knows the person")


def main():
    why = saml_idp.missing()
    if why:
        print(f"1..0 # SKIP {why}")
        return 0
    folder = tempfile.mkdtemp(prefix="gh-saml-")
    try:
        with saml_idp.SimpleSaml(folder, stacks.free_port(), USERS) as idp:
            gw = new_stack(policy=policy() + IDENTITY)
            (gw.dir / "idp.xml").write_text(idp.metadata())
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=gatehouse", "-keyout",
                            str(gw.dir / "saml.key"), "-out", str(gw.dir / "saml.pem")], check=True, stderr=subprocess.DEVNULL)
            os.chmod(gw.dir / "saml.key", 0o600)
            gw.idp = idp
            with gw:
                metadata = Browser(gw).fetch(f"{gw.url}/auth/saml/old/metadata")
                equal(metadata.status, 200, "our metadata")
                idp.trust(metadata.body)
                code = tap.run(gw)
                if code:
                    tap.note(idp.log_tail()[-3000:])
            return code or (1 if gw.sanitizer_report else 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

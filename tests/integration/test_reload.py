#!/usr/bin/env python3
"""SIGHUP while people are in: break-glass administrators who are switched off, an authority of client certificates that is exchanged."""
import base64
import hashlib
import hmac
import http.client
import json
import pathlib
import re
import signal
import ssl
import struct
import subprocess
import sys
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gateway_client import new_stack, policy, tap  # noqa: E402
from sso_browser import WITHIN_S, Browser, open_stream, wait_end  # noqa: E402
from tap import case, check, equal  # noqa: E402

PASSWORD = "correct horse battery"
IDENTITY = """
identity:
  break_glass: {break_glass}
  service_accounts:
    old: {{roles: [employee], cert_sha256: "{old}"}}
    new: {{roles: [employee], cert_sha256: "{new}"}}
"""


def text(gw, break_glass):
    return policy() + IDENTITY.format(break_glass=str(break_glass).lower(), **gw.fingerprints)


def reloaded(gw, break_glass=None):
    """Another policy, if one is said, and SIGHUP; returns once policy and certificate were looked at."""
    if break_glass is not None:
        gw.policy_text = text(gw, break_glass)
        gw.write_config()
    before = gw.metric("gatehouse_reload_total")
    gw.processes["gateway"].send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while gw.metric("gatehouse_reload_total") < before + 2:
        check(time.monotonic() < deadline, "SIGHUP did nothing")
        time.sleep(0.02)


# ---- break glass ----


def new_admin(gw, name):
    """The administrator's TOTP secret."""
    file = gw.dir / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    out = gw.cli("local-admin", "create", name, "--password-file", file).stdout
    return base64.b32decode(re.search(r"secret=([A-Z2-7]+)", out)[1])


def code_of(secret, step):
    mac = hmac.digest(secret, struct.pack(">Q", int(time.time()) // 30 + step), hashlib.sha1)
    at = mac[-1] & 15
    return f"{(struct.unpack('>I', mac[at:at + 4])[0] & 0x7fffffff) % 1000000:06d}"


def local_sign_in(gw, browser, name, secret, step):
    body = urllib.parse.urlencode({"name": name, "password": PASSWORD, "code": code_of(secret, step)})
    return browser.fetch(f"{gw.url}/auth/local", "POST", body, {"content-type": "application/x-www-form-urlencoded", "origin": gw.url,
                                                                "sec-fetch-site": "same-origin"})


def by_link(gw):
    browser = Browser(gw)
    token = urllib.parse.parse_qs(urllib.parse.urlsplit(gw.admin_link()).query)["token"][0]
    page = browser.fetch(f"{gw.url}/auth/link", "POST", urllib.parse.urlencode({"token": token}),
                         {"content-type": "application/x-www-form-urlencoded", "origin": gw.url, "sec-fetch-site": "same-origin"})
    equal(page.status, 303, page)
    check(browser.who() is not None)
    return browser


@case
def test_break_glass__switched_off_ends_sessions_and_streams(gw):
    secret, linked, browser = new_admin(gw, "glass"), by_link(gw), Browser(gw)
    equal(local_sign_in(gw, browser, "glass", secret, -1).status, 303)
    check("admin" in browser.who()["roles"])
    check("local:admin" in [s["provider"] for s in browser.api("GET", "/auth/sessions").json()["sessions"]], "the list says how")
    connection, answer = open_stream(gw, browser)
    since = time.monotonic()
    reloaded(gw, break_glass=False)
    ended, data = wait_end(answer)
    check(ended - since < WITHIN_S, f"the stream went on for {ended - since:.2f} s")
    check(b"session_ended" in data and b"[DONE]" not in data, data[-300:])
    connection.close()
    check(browser.who() is None, "the session goes on")
    check(linked.who() is not None, "a session by link goes on")
    check(local_sign_in(gw, browser, "glass", secret, 0).status != 303, "and a new one starts")
    reloaded(gw, break_glass=True)
    check(browser.who() is None, "it is back")
    equal(local_sign_in(gw, browser, "glass", secret, 0).status, 303)
    check(browser.who() is not None)


@case
def test_break_glass__switched_off_while_the_gateway_is_stopped(gw):
    secret, browser = new_admin(gw, "later"), Browser(gw)
    equal(local_sign_in(gw, browser, "later", secret, -1).status, 303)
    for break_glass in (False, True):
        gw.end("gateway")
        gw.policy_text = text(gw, break_glass)
        gw.write_config()
        gw.start_gateway()
        deadline = time.monotonic() + 5
        while browser.who() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        check(browser.who() is None, f"break_glass {break_glass}: the session goes on")
    gw.wait_shipped()
    check("local.off" in [row["action"] for row in gw.audit_rows() if row["kind"] == "event"])


# ---- client certificates ----


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_authorities(gw):
    """Two of them, and a client's certificate of each."""
    gw.fingerprints = {}
    (gw.dir / "client.ext").write_text("basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("old", "new"):
        file = lambda end: gw.dir / f"{name}{end}"
        openssl("req", "-x509", *new_key, "-keyout", file("-ca.key"), "-out", file("-ca.pem"), "-subj", f"/CN={name}", "-days", 5)
        openssl("req", *new_key, "-keyout", file(".key"), "-out", file(".csr"), "-subj", f"/CN=client of {name}")
        openssl("x509", "-req", "-in", file(".csr"), "-CA", file("-ca.pem"), "-CAkey", file("-ca.key"), "-CAcreateserial", "-days", 5, "-extfile",
                gw.dir / "client.ext", "-out", file(".pem"))
        gw.fingerprints[name] = hashlib.sha256(ssl.PEM_cert_to_DER_cert(file(".pem").read_text())).hexdigest()
    (gw.dir / "clients.pem").write_text((gw.dir / "old-ca.pem").read_text())


def comes_in(gw, name):
    """The status of a request with this client's certificate; "refused" when the handshake ends."""
    context = gw.ssl_context()
    context.load_cert_chain(gw.dir / f"{name}.pem", gw.dir / f"{name}.key")
    connection = http.client.HTTPSConnection("localhost", gw.port, context=context, timeout=10)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status
    except (ssl.SSLError, ConnectionError):
        return "refused"
    finally:
        connection.close()


@case
def test_client_ca_file__is_read_again(gw):
    equal([comes_in(gw, n) for n in ("old", "new")], [200, "refused"])
    (gw.dir / "clients.pem").write_text((gw.dir / "new-ca.pem").read_text())
    equal([comes_in(gw, n) for n in ("old", "new")], [200, "refused"], "before SIGHUP")
    reloaded(gw)
    equal([comes_in(gw, n) for n in ("old", "new")], ["refused", 200])
    (gw.dir / "clients.pem").write_text("no certificate\n")
    reloaded(gw)
    equal([comes_in(gw, n) for n in ("old", "new")], ["refused", 200], "a file that cannot be used")
    line = [json.loads(row) for row in gw.log_tail("gateway", 50).splitlines() if '"certificate.refused"' in row][-1]
    check("client_ca_file" in str(line), line)
    (gw.dir / "clients.pem").write_text((gw.dir / "old-ca.pem").read_text() + (gw.dir / "new-ca.pem").read_text())
    reloaded(gw)
    equal([comes_in(gw, n) for n in ("old", "new")], [200, 200], "both, while clients change over")


def main():
    gw = new_stack(policy="")
    gw.extra_config["client_ca_file"] = gw.dir / "clients.pem"
    make_authorities(gw)
    gw.policy_text = text(gw, True)
    with gw:
        code = tap.run(gw)
    return 1 if gw.sanitizer_report else code


if __name__ == "__main__":
    sys.exit(main())

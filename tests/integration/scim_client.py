"""A stack with SCIM switched on, a provider that says what a test wants, and a SCIM client. For test_scim.py and the cases in tests/security."""
import contextlib
import copy
import json
import os
import pathlib
import sys
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "security")]
from fake_idp import FakeIdp  # noqa: E402
from gateway_client import new_stack, policy, stacks  # noqa: E402
from sso_browser import WITHIN_S, Browser  # noqa: E402

TOKEN = "scim-" + "0123456789abcdef" * 4
CORE = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
SCIM_AUDIENCE, API_AUDIENCE, STRICT_AUDIENCE = "https://gate/scim", "https://gate/api", "https://gate/strict"
IDENTITY = """
identity:
  providers:
    corp:
      oidc: {{issuer: "{issuer}", client_id: gatehouse, client_secret_file: idp.secret, scopes: [openid, offline_access],
              bearer: {{audiences: ["https://gate/api"], scim_audiences: ["https://gate/scim"]}}}}
      claims: {{groups: groups, directory: email}}
    strict:
      oidc: {{issuer: "{second}", client_id: gatehouse, client_secret_file: idp.secret, scopes: [openid],
              bearer: {{audiences: ["https://gate/strict"]}}}}
      claims: {{groups: groups, directory: email, directory_required: true}}
  mapping:
    - {{group: llm-users, role: employee}}
    - {{group: llm-admins, role: admin}}
  service_accounts:
    provisioning: {{roles: [employee], provider: corp, client_id: svc-scim}}
  scim: {{token_file: scim.token, key: {key}}}
"""


def write_secret(folder, name, text):
    with open(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as f:
        f.write(text)


class World:
    """idp: of provider corp; second: of provider strict, where only persons of the directory come in."""

    def __init__(self, key="userName"):
        self.idp, self.second = FakeIdp(), FakeIdp()
        self.gw = new_stack(policy=policy() + IDENTITY.format(issuer=self.idp.issuer, second=self.second.issuer, key=key))
        write_secret(self.gw.dir, "idp.secret", "not much of a secret")
        write_secret(self.gw.dir, "scim.token", TOKEN + "\n")

    def __enter__(self):
        self.gw.__enter__()
        return self

    def __exit__(self, *what):
        self.gw.__exit__(*what)
        self.idp.stop()
        self.second.stop()

    @contextlib.contextmanager
    def replica(self):
        """A second gateway on the same Postgres and Redis, behind the same name: another stack object whose requests go there."""
        first = self.gw
        other = copy.copy(first)
        other.port, other.admin_port, other.dir = stacks.free_port(), stacks.free_port(), first.dir
        text = (first.dir / "gatehouse.conf").read_text()
        for old, new in ((f"listen_port = {first.port}", f"listen_port = {other.port}"), (f"admin_port = {first.admin_port}", f"admin_port = {other.admin_port}"),
                         ("instance = gw1", "instance = gw2"), (f"journal_dir = {first.dir / 'journal'}", f"journal_dir = {first.dir / 'journal2'}")):
            assert text.count(old + "\n") == 1, old
            text = text.replace(old + "\n", new + "\n")
        (first.dir / "gatehouse2.conf").write_text(text)
        process = first.spawn("gateway2", [str(first.binary), "--config", str(first.dir / "gatehouse2.conf"), "serve"], env=first.env)
        try:
            deadline = time.monotonic() + 60
            while not other.ready():
                assert process.poll() is None and time.monotonic() < deadline, first.log_tail("gateway2")
                time.sleep(0.02)
            yield other
        finally:
            first.end("gateway2")
            log = first.log_tail("gateway2", 400)
            if "ERROR: " in log or "runtime error" in log:
                first.sanitizer_report = True
                print("# " + log.replace("\n", "\n# "), flush=True)

    # ---- SCIM ----

    def scim(self, method, path, body=None, token=TOKEN, headers=None, raw=None):
        """(status, headers, JSON or None)"""
        all_headers = {**({"authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        data = raw
        if body is not None:
            data = json.dumps(body)
        if data is not None:
            all_headers.setdefault("content-type", "application/scim+json")
        all_headers = {k: v for k, v in all_headers.items() if v is not None}
        status, got, answer = self.gw.request(method, "/scim/v2" + path, data, headers=all_headers)
        return status, got, json.loads(answer) if answer.strip() else None

    def user(self, user_name, **more):
        status, _, made = self.scim("POST", "/Users", {"schemas": [CORE], "userName": user_name, "active": True, **more})
        assert status == 201, (status, made)
        return made

    def group(self, name, members=(), **more):
        status, _, made = self.scim("POST", "/Groups", {"schemas": [GROUP], "displayName": name,
                                                        "members": [{"value": m} for m in members], **more})
        assert status == 201, (status, made)
        return made

    def patch(self, path, *operations, **options):
        return self.scim("PATCH", path, {"schemas": [PATCH], "Operations": list(operations)}, **options)

    def find(self, kind, text, more=""):
        return self.scim("GET", f"/{kind}?filter={urllib.parse.quote(text)}{more}")

    # ---- persons ----

    def sign_in(self, email, groups=("llm-users",), provider="corp", **tokens):
        """(browser, page that the sign-in ended with)"""
        idp = self.idp if provider == "corp" else self.second
        browser = Browser(self.gw)
        page = browser.fetch(f"{self.gw.url}/auth/oidc/{provider}/start")
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(page.headers["location"]).query))
        claims = idp.id_claims(sub="sub-" + email, email=email, nonce=asked["nonce"], groups=list(groups))
        fields = {"code": idp.code_for(idp.mint(claims), **tokens), "state": asked["state"], "iss": idp.issuer}
        page = browser.fetch(f"{self.gw.url}/auth/oidc/{provider}/callback?{urllib.parse.urlencode(fields)}", from_site="127.0.0.1")
        return browser, page

    def signed_in(self, email, **options):
        browser, page = self.sign_in(email, **options)
        assert page.status == 303 and browser.session_cookie(), page.status
        assert browser.who() is not None
        return browser

    def access_token(self, **over):
        return self.idp.mint(self.idp.at_claims(**over), typ="at+jwt")

    def models(self, browser):
        page = browser.fetch(self.gw.url + "/v1/models")
        return [m["id"] for m in page.json()["data"]] if page.status == 200 else page.status

    def eventually(self, condition, within_s=WITHIN_S):
        """How long it took; fails when it is not true in time."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < within_s, f"not within {within_s} s"
            time.sleep(0.02)
        return time.monotonic() - began

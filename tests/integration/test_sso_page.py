#!/usr/bin/env python3
"""Single sign-on in Chromium: sign in by OIDC and by SAML at real providers, role and models, logout at the provider. Suite web."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import saml_idp  # noqa: E402
from gateway_client import ROOT, new_stack, policy, stacks  # noqa: E402

OIDC = """
    corp:
      label: Demo company account
      oidc: {issuer: "@IDP_URL@", client_id: gatehouse, client_secret_file: "@IDP_SECRET_FILE@", scopes: [openid, profile, email, groups]}
"""
SAML = """
    old:
      label: Windows account
      saml: {metadata_file: idp.xml, key_file: saml.key, cert_file: saml.pem}
      claims: {groups: groups, name: displayName, email: mail}
"""
MAPPING = """
  mapping:
    - {group: llm-admins, role: admin}
    - {group: llm-users, role: employee}
"""
NOBODY = {"id": "nobody", "name": "Nobody", "email": "nobody@example.com", "groups": [], "about": "in no group", "hidden": False}
USERS = {user: {"groups": groups, "displayName": [user.title()], "mail": [f"{user}@example.com"]}
         for user, groups in (("alice", ["llm-users", "llm-admins"]), ("bob", ["llm-users"]), ("nobody", ["gardeners"]))}


def run(node, gw, saml_url):
    environment = dict(os.environ, BASE_URL=gw.url, IDP_URL=gw.idp_url, SAML_URL=saml_url, NODE_EXTRA_CA_CERTS=str(gw.ca_file))
    code = subprocess.run([node, str(ROOT / "tests/web/sso_page.test.mjs")], env=environment, timeout=280).returncode
    return code


def main():
    node = shutil.which("node")
    if node is None or not (ROOT / "tests/web/node_modules/playwright-core").exists():
        print("1..1\nnot ok 1 - node or the npm packages are missing: run tests/web/setup.sh")
        return 1
    with_saml = saml_idp.missing() is None
    gw = new_stack(policy=policy() + "\nidentity:\n  providers:" + OIDC + (SAML if with_saml else "") + MAPPING, demo_idp=True, idp_users=[NOBODY])
    folder = tempfile.mkdtemp(prefix="gh-sso-page-")
    try:
        if not with_saml:
            with gw:
                code = run(node, gw, "")
            return code or (1 if gw.sanitizer_report else 0)
        with saml_idp.SimpleSaml(folder, stacks.free_port(), USERS) as idp:
            (gw.dir / "idp.xml").write_text(idp.metadata())
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=gatehouse", "-keyout",
                            str(gw.dir / "saml.key"), "-out", str(gw.dir / "saml.pem")], check=True, stderr=subprocess.DEVNULL)
            os.chmod(gw.dir / "saml.key", 0o600)
            with gw:
                idp.trust(gw.request("GET", "/auth/saml/old/metadata")[2])
                code = run(node, gw, idp.url)
        return code or (1 if gw.sanitizer_report else 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


sys.exit(main())

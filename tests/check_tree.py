#!/usr/bin/env python3
"""Checks the rules of the tree: who may include whom, which library is fenced to which files. Prints TAP. Usage: check_tree.py ROOT"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)

# folder: folders whose headers it may include (gateway/: the one public header of each of the three)
MAY = {"base": ["base"], "engine": ["base", "engine"], "policy": ["base", "policy"], "audit": ["base", "audit"]}
PUBLIC = {"engine/engine.h", "policy/policy.h", "audit/audit.h"}

# third-party header prefix: files that may include it
FENCES = {
    "h2o": ["gateway/server_priv.h", "gateway/server*.c", "gateway/loop.c", "gateway/shim/*"],
    "hiredis/": ["gateway/redis.c"],
    "curl/": ["gateway/http_client.c", "gateway/serve.c", "gateway/sso/http.c"],
    "jansson.h": ["gateway/codec_*.c", "gateway/codec_scim_priv.h", "gateway/sso/*"],
    "cjose/": ["gateway/sso/jwks.c"],
    "oauth2/": ["gateway/sso/dpop.c"],
    "libxml/": ["gateway/sso/saml*"],
    "xmlsec/": ["gateway/sso/saml*"],
    "seccomp.h": ["gateway/sso/sandbox.c"],
    "argon2.h": ["base/password.c"],
    "libpq-fe.h": ["base/pg.c"],
    "libfyaml.h": ["policy/yaml.c"],
    "hs": ["policy/scan.c"],
    "utf8proc.h": ["policy/normalize.c"],
    "openssl/": ["base/crypto.c", "gateway/server_tls.c", "gateway/server_priv.h", "gateway/server.c", "gateway/sso/jwt.c", "gateway/sso/saml_crypto.c"],
}


def sources():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "*.c", "*.h"], stdout=subprocess.PIPE, text=True)
    names = listed.stdout.split() if listed.returncode == 0 and listed.stdout else [
        str(p.relative_to(ROOT)) for p in ROOT.rglob("*.[ch]") if "build" not in p.parts[:1]]
    return [n for n in names if (ROOT / n).exists()]


def includes(name):
    return [(kind == "<", what) for kind, what in INCLUDE.findall((ROOT / name).read_text(errors="replace"))]


def fence_of(what):
    for prefix in FENCES:
        if prefix.endswith("/") and what.startswith(prefix):
            return prefix
        if prefix == "hs" and (what == "hs.h" or what.startswith("hs/")):
            return prefix
        if prefix == "h2o" and (what == "h2o.h" or what.startswith("h2o/")):
            return prefix
        if what == prefix:
            return prefix
    return None


def wrong_folder(name):
    top = name.split("/")[0]
    bad = []
    for angle, what in includes(name):
        target = what.split("/")[0]
        if angle or target not in ("base", "engine", "policy", "audit", "gateway"):
            continue
        if top in MAY and target not in MAY[top]:
            bad.append(f"{name} includes {what}: {top}/ may include {' and '.join(m + '/' for m in MAY[top])} alone")
        if top == "gateway" and target in ("engine", "policy", "audit") and what not in PUBLIC:
            bad.append(f"{name} includes {what}: gateway/ may include the public header of {target}/ alone")
    return bad


def broken_fence(name):
    if name.startswith("tests/") or name.split("/")[0] not in ("base", "engine", "policy", "audit", "gateway"):
        return []
    bad = []
    for _, what in includes(name):
        fence = fence_of(what)
        if fence is not None and not any(pathlib.PurePath(name).match(p) for p in FENCES[fence]):
            bad.append(f"{name} includes {what}: only {', '.join(FENCES[fence]) or 'nobody'} may")
    return bad


def headerless(name):
    """Every source says in its first comment what it is."""
    if not (ROOT / name).read_text(errors="replace").lstrip().startswith("/*"):
        return [f"{name} does not begin with a comment that says what it is"]
    return []


def includes_source(name):
    return [f"{name} includes {what}: never include a .c" for _, what in includes(name) if what.endswith(".c")]


def main():
    files = sources()
    checks = [("folders include whom they may", wrong_folder), ("libraries stay behind their fences", broken_fence),
              ("every file says what it is", headerless), ("no source file is included", includes_source)]
    print(f"1..{len(checks) + 1}")
    failed = 0
    print(f"{'ok' if len(files) > 20 else 'not ok'} 1 - the tree was found ({len(files)} files)")
    for number, (title, check) in enumerate(checks, 2):
        bad = [line for name in files for line in check(name)]
        for line in bad:
            print(f"# {line}")
        print(f"{'not ok' if bad else 'ok'} {number} - {title}")
        failed += bool(bad)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

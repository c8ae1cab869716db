#!/usr/bin/env python3
"""The catalogue of attacks on OIDC sign-in, logout tokens and access tokens, against a real gatehouse-sso. Each case has its valid twin.

    test_oidc_cases.py [PATTERN]      test_oidc_cases.py --mutate     (a build with -Dmutations=true)
"""
import base64
import hashlib
import json
import pathlib
import secrets
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cases import Suite
from fake_idp import FakeIdp, Key, b64, compact, hs256
from sso_peer import SsoPeer

API, SCIM = "https://gate/api", "https://gate/scim"
URL = "https://gate/v1/chat/completions"
EVENT = "http://schemas.openid.net/event/backchannel-logout"
NONCE = "n" * 43
now = lambda: int(time.time())

idp, other = FakeIdp(), FakeIdp()
bound_idp, fresh_idp = FakeIdp(), FakeIdp()
stranger = Key("RSA", "rsa-1")  # the same name, another key
short = Key("RSA", "short", bits=1024)
encryption = Key("RSA", "enc")
p384 = Key("EC", "ec-384", curve=ec.SECP384R1)
idp.keys.append(p384)
idp.jwks_extra += [short.jwk(), encryption.jwk(use="enc")]


def provider(name, at, **over):
    return {"name": name, "kind": "oidc", "issuer": at.issuer, "client_id": "gatehouse", "client_secret": "s3cret/+ &", "token_auth": "basic",
            "scopes": ["openid", "groups"], "algorithms": ["RS256", "ES256", "PS256"], "acr": [], "userinfo": False, "hosts": [], "clock_skew_s": 60,
            "claims": ["groups", "realm_access.roles", "department"], "subject_claim": "",
            "bearer": {"audiences": [API, SCIM], "introspection": True, "require_binding": False}, **over}


PROVIDERS = [
    provider("corp", idp),
    provider("other", other),
    provider("strict", idp, bearer=None, max_age_s=600, acr=["gold", "silver"]),
    provider("info", idp, bearer=None, userinfo=True),
    provider("narrow", idp, bearer=None, algorithms=["ES256"]),
    provider("bound", bound_idp, bearer={"audiences": [API], "introspection": False, "require_binding": True}),
]
PROVIDERS = [{k: v for k, v in p.items() if v is not None} for p in PROVIDERS]
peer = SsoPeer().start()
configured = peer.configure(PROVIDERS)
assert all(p["ok"] for p in configured["providers"]), configured


def clean():
    idp.discovery, idp.userinfo, idp.faults = {}, {"sub": "alice"}, {}


suite = Suite("oidc", prefixes=("oidc.", "jwt.", "jwks.", "token.", "logout.", "bearer.", "dpop.", "introspection."), reset=clean)


def finish(token, at=None, name="corp", nonce=NONCE, iss="", verifier="v" * 43, **answer):
    at = at or idp
    return peer.call("oidc_finish", provider=name, redirect_uri="https://gate/auth/oidc/corp/callback", code=at.code_for(token, **answer),
                     iss=at.issuer if iss == "" else iss, code_verifier=verifier, nonce=nonce)


def good(name="corp", **over):
    return lambda: finish(idp.mint(idp.id_claims(**over)), name=name)


def id_case(name, check, bad, twin=None, **kw):
    """bad: claims that differ, or a function that makes the reply."""
    suite.case(name, check, bad if callable(bad) else (lambda: finish(idp.mint(idp.id_claims(**bad)), **kw)), twin or good())


def raw(header, claims=None, sign=None):
    """An ID token put together by hand, signed by the right key over whatever it is."""
    key = idp.key()
    return lambda: finish(compact(header, claims if claims is not None else idp.id_claims(), sign or (lambda data: key.sign("RS256", data))))


H = {"alg": "RS256", "kid": "rsa-1"}


def text_claims(**over):
    return json.dumps(idp.id_claims(**over))


# ---- form ----
id_case("token longer than is read", "jwt.size", lambda: finish(idp.mint(idp.id_claims(pad="x" * 60000))), good(pad="x" * 30000))
id_case("two parts", "jwt.form", lambda: finish("eyJhbGciOiJSUzI1NiJ9.e30"))
id_case("four parts", "jwt.form", lambda: finish(idp.mint(idp.id_claims()) + ".x"))
id_case("five parts, as encrypted ones have", "jwt.form", lambda: finish(idp.mint(idp.id_claims()) + ".x.y"))
id_case("empty token", "jwt.form", lambda: finish(""))
id_case("payload with padding", "jwt.base64", lambda: finish("==.".join(idp.mint(idp.id_claims()).rsplit(".", 1)).replace("==.", "=.", 1)))
id_case("payload in the other base64 alphabet", "jwt.base64", lambda: finish("eyJhbGciOiJSUzI1NiJ9.e+/.AA"))
id_case("space inside a part", "jwt.base64", lambda: finish(idp.mint(idp.id_claims()).replace(".", ". ", 1)))
id_case("claims nested too deep", "jwt.depth", raw(H, '{"iss":' + "[" * 20 + "]" * 20 + "}"),
        lambda: finish(idp.mint(idp.id_claims(x=[[[[[["deep enough"]]]]]]))))
id_case("100,000 brackets", "jwt.depth", raw(H, '{"a":' + "[" * 20000))
id_case("header that is a list", "jwt.json", raw('["RS256"]'))
id_case("claims that are a text", "jwt.json", raw(H, '"alice"'))
id_case("claims with something after them", "jwt.json", lambda: raw(H, text_claims() + "{}")())
id_case("sub given twice", "jwt.json", lambda: raw(H, text_claims()[:-1] + ',"sub":"admin"}')())
id_case("alg given twice", "jwt.json", raw('{"alg":"RS256","alg":"none","kid":"rsa-1"}'))
id_case("claims that are no UTF-8", "jwt.json", raw(H, b'{"sub":"\xc0\xae"}'))
id_case("NUL in a text of the claims", "jwt.json", lambda: raw(H, text_claims(sub="x").replace('"x"', '"alice\\u0000@evil"'))())
id_case("byte order mark before the claims", "jwt.json", lambda: raw(H, "\ufeff" + text_claims())())
id_case("no alg", "jwt.header", raw({"kid": "rsa-1"}))
id_case("alg that is a number", "jwt.header", raw({"alg": 256, "kid": "rsa-1"}))
id_case("kid that is an object", "jwt.header", raw({"alg": "RS256", "kid": {"$ne": ""}}))
id_case("kid of 4,000 bytes", "jwt.header", raw({"alg": "RS256", "kid": "k" * 4000}))
id_case("crit that names b64", "jwt.critical", raw({**H, "crit": ["b64"], "b64": False}))
id_case("crit that names something unknown", "jwt.critical", raw({**H, "crit": ["exp2"], "exp2": 1}))
id_case("crit that is empty", "jwt.critical", raw({**H, "crit": []}))
id_case("b64 without crit", "jwt.b64", raw({**H, "b64": False}))

# ---- algorithm and key ----
for spelling in ("none", "None", "nOnE", "NONE", ""):
    id_case(f"algorithm {spelling or 'empty'} without signature", "jwt.algorithm",
            (lambda s: lambda: finish(compact({"alg": s, "kid": "rsa-1"}, idp.id_claims(), lambda _: b"")))(spelling))
public_pem = lambda: idp.key().private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
id_case("HS256 with the public key as secret", "jwt.algorithm",
        lambda: finish(compact({"alg": "HS256", "kid": "rsa-1"}, idp.id_claims(), lambda d: hs256(public_pem(), d))))
id_case("HS256 with the key's JSON as secret", "jwt.algorithm",
        lambda: finish(compact({"alg": "HS256", "kid": "rsa-1"}, idp.id_claims(), lambda d: hs256(json.dumps(idp.key().jwk()).encode(), d))))
id_case("HS256 with the client's secret", "jwt.algorithm",
        lambda: finish(compact({"alg": "HS256", "kid": "rsa-1"}, idp.id_claims(), lambda d: hs256(b"s3cret/+ &", d))))
id_case("an algorithm that this provider may not use", "jwt.algorithm", lambda: finish(idp.mint(idp.id_claims(), alg="RS512")),
        lambda: finish(idp.mint(idp.id_claims(), alg="PS256")))
id_case("RS256 where ES256 alone is configured", "jwt.algorithm", lambda: finish(idp.mint(idp.id_claims()), name="narrow"),
        lambda: finish(idp.mint(idp.id_claims(), alg="ES256"), name="narrow"))
id_case("algorithm in lower case", "jwt.algorithm", raw({"alg": "rs256", "kid": "rsa-1"}))
id_case("key of another kind: ES256 with an RSA key's kid", "jwt.key_type",
        lambda: finish(idp.mint(idp.id_claims(), alg="ES256", key=idp.key("EC"), kid="rsa-1")))
id_case("key of another kind: RS256 with an EC key's kid", "jwt.key_type",
        lambda: finish(idp.mint(idp.id_claims(), alg="RS256", kid="ec-1")))
id_case("ES256 with a P-384 key", "jwt.key_type",
        lambda: finish(compact({"alg": "ES256", "kid": "ec-384"}, idp.id_claims(), lambda d: p384.sign("ES384", d))))
id_case("unknown kid, signed by a known key", "jwt.key", lambda: finish(idp.mint(idp.id_claims(), kid="rsa-9")))
for evil in ("../../../../dev/null", "rsa-1' OR '1'='1", "https://evil.test/key.json", "RSA-1", "rsa-1 "):
    id_case(f"kid {evil!r}", "jwt.key", raw({"alg": "RS256", "kid": evil}))
id_case("signed by a stranger with a known kid", "jwt.signature", lambda: finish(idp.mint(idp.id_claims(), key=stranger)))
id_case("claims changed after signing", "jwt.signature",
        lambda: finish((lambda t: t[0] + "." + b64(json.dumps(idp.id_claims(sub="admin"))) + "." + t[2])(idp.mint(idp.id_claims()).split("."))))
id_case("signature removed", "jwt.signature", lambda: finish(idp.mint(idp.id_claims()).rsplit(".", 1)[0] + "."))
id_case("signature cut", "jwt.signature", lambda: finish(idp.mint(idp.id_claims())[:-20]))
id_case("jwk in the header with the stranger's key", "jwt.signature",
        lambda: finish(compact({**H, "jwk": stranger.jwk()}, idp.id_claims(), lambda d: stranger.sign("RS256", d))),
        lambda: finish(idp.mint(idp.id_claims(), jwk=stranger.jwk())))
id_case("jku in the header", "jwt.signature",
        lambda: finish(compact({**H, "jku": other.issuer + "/jwks"}, idp.id_claims(), lambda d: stranger.sign("RS256", d))),
        lambda: finish(idp.mint(idp.id_claims(), jku=other.issuer + "/jwks")))
id_case("x5u and x5c in the header", "jwt.signature",
        lambda: finish(compact({**H, "x5u": other.issuer + "/c", "x5c": ["MIIB"]}, idp.id_claims(), lambda d: stranger.sign("RS256", d))),
        lambda: finish(idp.mint(idp.id_claims(), x5u=other.issuer + "/c")))
for what, sig in {"r and s zero": b"\0" * 64, "empty": b"", "padded by a byte": b"\0" + b"\1" * 64, "as DER": b"0\x06\x02\x01\x01\x02\x01\x01",
                  "r the group's order": bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551") + b"\1" * 32}.items():
    id_case(f"ES256 signature {what}", "jwt.signature",
            (lambda s: lambda: finish(compact({"alg": "ES256", "kid": "ec-1"}, idp.id_claims(), lambda _: s)))(sig),
            lambda: finish(idp.mint(idp.id_claims(), alg="ES256")))
def with_keys(key):
    """Keys that must not be used are left out when the set is read: a new process reads it."""
    def run():
        with SsoPeer() as p:
            p.configure([provider("corp", idp)])
            if current["off"]:
                p.mutate(current["off"])
            token = idp.mint(idp.id_claims(), key=key)
            return p.call("oidc_finish", provider="corp", redirect_uri="https://g/cb", code=idp.code_for(token), iss=idp.issuer, code_verifier="v" * 43, nonce=NONCE)
    return run


current = {"off": ""}
suite.case("key of 1,024 bits", "jwks.size", with_keys(short), with_keys(idp.key()), says="jwt.key")
suite.case("key for encryption", "jwks.use", with_keys(encryption), with_keys(idp.key()), says="jwt.key")

# ---- what every token says ----
for name, iss in {"another issuer": "https://evil.test", "slash at the end": idp.issuer + "/", "capital letters": idp.issuer.upper(), "none": None,
                  "the issuer and more": idp.issuer + ".evil.test", "a list": [idp.issuer]}.items():
    id_case(f"iss: {name}", "token.issuer", {"iss": iss})
for name, aud in {"another client": "someone-else", "missing": None, "empty list": [], "a number": 7, "ours in capitals": "GATEHOUSE", "a list without us": ["a", "b"],
                  "an object": {"gatehouse": 1}, "a list in a list": [["gatehouse"]]}.items():
    id_case(f"aud: {name}", "token.audience", {"aud": aud}, good(aud=["gatehouse"]))
id_case("aud of several without azp", "oidc.azp_missing", {"aud": ["gatehouse", "b"]}, good(aud=["gatehouse", "b"], azp="gatehouse"))
id_case("azp of another client", "oidc.azp", {"azp": "someone-else"}, good(azp="gatehouse"))
id_case("azp that is a list", "oidc.azp", {"azp": ["gatehouse"]}, good(azp="gatehouse"))
id_case("exp missing", "token.expiry", {"exp": None})
id_case("exp that is a text", "token.expiry", {"exp": "4000000000"})
id_case("exp past what numbers hold", "token.expiry", {"exp": 1 << 60})
id_case("expired by more than the skew", "token.expired", {"exp": now() - 120}, lambda: finish(idp.mint(idp.id_claims(exp=now() - 30))))
id_case("expired in 1970", "token.expired", {"exp": 0})
id_case("exp negative", "token.expired", {"exp": -1})
id_case("nbf past the skew", "token.not_before", lambda: finish(idp.mint(idp.id_claims(nbf=now() + 120))),
        lambda: finish(idp.mint(idp.id_claims(nbf=now() + 30))))
id_case("nbf that is a text", "token.not_before", {"nbf": "now"})
id_case("issued in the future", "token.issued_at", lambda: finish(idp.mint(idp.id_claims(iat=now() + 120))),
        lambda: finish(idp.mint(idp.id_claims(iat=now() + 30))))
id_case("iat that is a text", "token.issued_at", {"iat": "now"})
id_case("iat missing", "oidc.issued_at", {"iat": None})
id_case("sub missing", "token.subject", {"sub": None})
id_case("sub empty", "token.subject", {"sub": ""})
id_case("sub of 300 bytes", "token.subject", {"sub": "x" * 300}, good(sub="x" * 255))
id_case("sub that is a list", "token.subject", {"sub": ["alice", "admin"]})
id_case("nonce missing", "oidc.nonce", {"nonce": None})
id_case("nonce of another session", "oidc.nonce", {"nonce": "m" * 43})
id_case("nonce cut", "oidc.nonce", {"nonce": "n" * 42})
id_case("nonce that is a list", "oidc.nonce", {"nonce": [NONCE]})
half = lambda text: b64(hashlib.sha256(text.encode()).digest()[:16])
id_case("at_hash of another access token", "oidc.at_hash", lambda: finish(idp.mint(idp.id_claims(at_hash=half("other"))), access_token="mine"),
        lambda: finish(idp.mint(idp.id_claims(at_hash=half("mine"))), access_token="mine"))
id_case("at_hash that is a number", "oidc.at_hash", {"at_hash": 1})


def with_code(claim):
    code = secrets.token_urlsafe(16)
    token = idp.mint(idp.id_claims(c_hash=half(claim or code)))
    idp.codes[code] = {"access_token": "a", "token_type": "Bearer", "id_token": token}
    return peer.call("oidc_finish", provider="corp", redirect_uri="https://g/cb", code=code, iss=idp.issuer, code_verifier="v" * 43, nonce=NONCE)


suite.case("c_hash of another code", "oidc.c_hash", lambda: with_code("other"), lambda: with_code(None))
suite.case("sign-in longer ago than max_age", "oidc.auth_time", good("strict", auth_time=now() - 1000, acr="gold"), good("strict", auth_time=now(), acr="gold"))
suite.case("auth_time missing where max_age was asked", "oidc.auth_time", good("strict", acr="gold"), good("strict", auth_time=now(), acr="gold"))
suite.case("acr weaker than asked", "oidc.acr", good("strict", auth_time=now(), acr="bronze"), good("strict", auth_time=now(), acr="silver"))
suite.case("acr missing where it was asked", "oidc.acr", good("strict", auth_time=now()), good("strict", auth_time=now(), acr="gold"))
id_case("access token brought as ID token", "oidc.type", lambda: finish(idp.mint(idp.id_claims(), typ="at+jwt")),
        lambda: finish(idp.mint(idp.id_claims(), typ="JWT")))
id_case("logout token brought as ID token", "oidc.type", lambda: finish(idp.mint(idp.id_claims(), typ="logout+jwt")))
id_case("no ID token", "oidc.no_id_token", lambda: finish(None))
id_case("token of IdP B in an answer of IdP A", "jwt.signature", lambda: finish(other.mint(other.id_claims())))
id_case("groups left out because there are too many (Entra ID)", "oidc.groups_overage",
        {"groups": None, "_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph"}}}, good(groups=["g%d" % i for i in range(300)]))
id_case("hasgroups instead of groups", "oidc.groups_overage", {"groups": None, "hasgroups": True}, good(groups=[]))

# ---- the answer's issuer, metadata, endpoints ----
id_case("answer of another issuer (mix-up)", "oidc.response_issuer", lambda: finish(idp.mint(idp.id_claims()), iss=other.issuer))
id_case("answer's issuer with a slash", "oidc.response_issuer", lambda: finish(idp.mint(idp.id_claims()), iss=idp.issuer + "/"))
id_case("answer without issuer where the provider promises one", "oidc.response_issuer_missing", lambda: finish(idp.mint(idp.id_claims()), iss=None))
id_case("code that is not known", "oidc.token_answer",
        lambda: peer.call("oidc_finish", provider="corp", redirect_uri="https://g/cb", code="nope", iss=idp.issuer, code_verifier="v" * 43, nonce=NONCE))


def code_twice():
    code = idp.code_for(idp.mint(idp.id_claims()))
    args = dict(provider="corp", redirect_uri="https://g/cb", code=code, iss=idp.issuer, code_verifier="v" * 43, nonce=NONCE)
    assert peer.call("oidc_finish", **args)["ok"]
    return peer.call("oidc_finish", **args)


id_case("code brought twice", "oidc.token_answer", code_twice)


def on_fresh(act, **discovery):
    """A new process, whose metadata is not cached."""
    def run():
        fresh_idp.discovery = discovery
        with SsoPeer() as p:
            p.configure([provider("fresh", fresh_idp)])
            if current["off"]:
                p.mutate(current["off"])
            return act(p)
    return run


start_args = dict(redirect_uri="https://gate/auth/oidc/corp/callback", state="s" * 43, nonce=NONCE, code_challenge="c" * 43)
start = lambda p: p.call("oidc_start", provider="fresh", **start_args)
suite.case("metadata of another issuer", "oidc.discovery_issuer", on_fresh(start, issuer="https://evil.test"), on_fresh(start))
suite.case("metadata's issuer with a slash", "oidc.discovery_issuer", on_fresh(start, issuer=fresh_idp.issuer + "/"), on_fresh(start))
suite.case("metadata without issuer", "oidc.discovery_issuer", on_fresh(start, issuer=None), on_fresh(start))
suite.case("plain PKCE alone", "oidc.pkce", on_fresh(start, code_challenge_methods_supported=["plain"]), on_fresh(start, code_challenge_methods_supported=None))
for name, url in {"http": "http://idp.test/token", "a file": "file:///etc/passwd", "a user in it": "https://u@idp.test/token", "a fragment": "https://idp.test/#x",
                  "spaces": "https://idp.test/ x", "no text": 7, "line feed": "https://idp.test/\r\nx"}.items():
    suite.case(f"token endpoint: {name}", "oidc.endpoint", on_fresh(start, token_endpoint=url), on_fresh(start, token_endpoint=fresh_idp.issuer + "/token"))
suite.case("authorization endpoint missing", "oidc.endpoint", on_fresh(start, authorization_endpoint=None), on_fresh(start))

# ---- userinfo, refresh ----


def info(sub):
    def run():
        idp.userinfo = {"sub": sub, "department": "finance"}
        return finish(idp.mint(idp.id_claims()), name="info")
    return run


suite.case("userinfo of another person", "oidc.userinfo_subject", info("bob"), info("alice"))
suite.case("userinfo without sub", "oidc.userinfo_subject", info(None), info("alice"))


def refresh(token, subject="alice"):
    def run():
        name = secrets.token_hex(8)
        idp.refresh[name] = {"access_token": "a", "token_type": "Bearer", "id_token": token() if callable(token) else token, "refresh_token": "next"}
        return peer.call("oidc_refresh", provider="corp", refresh_token=name, subject=subject)
    return run


fresh_token = lambda **over: (lambda: idp.mint(idp.id_claims(nonce=None, **over)))
suite.case("refresh gives another person", "oidc.refresh_subject", refresh(fresh_token(sub="bob")), refresh(fresh_token()))
suite.case("refresh with an expired ID token", "token.expired", refresh(fresh_token(exp=1)), refresh(fresh_token()))
suite.case("refresh with a nonce that is no text", "oidc.nonce", refresh(lambda: idp.mint(idp.id_claims(nonce=5))), refresh(fresh_token()))
suite.case("refresh token that was used", "oidc.token_answer", lambda: peer.call("oidc_refresh", provider="corp", refresh_token="used", subject="alice"),
           refresh(fresh_token()))

# ---- logout tokens ----


def logout_claims(**over):
    claims = {"iss": idp.issuer, "aud": "gatehouse", "iat": now(), "exp": now() + 120, "jti": secrets.token_hex(8), "events": {EVENT: {}}, "sid": "s1", "sub": "alice", **over}
    return {k: v for k, v in claims.items() if v is not None}


def logout(typ="logout+jwt", key=None, **over):
    return lambda: peer.call("oidc_logout_token", provider="corp", logout_token=idp.mint(logout_claims(**over), typ=typ, key=key))


def logout_case(name, check, twin=None, **over):
    suite.case("logout token: " + name, check, logout(**over), twin or logout())


logout_case("ID token's type", "logout.type", typ="id+jwt")
logout_case("access token's type", "logout.type", typ="at+jwt")
logout_case("without events", "logout.event", events=None)
logout_case("other event", "logout.event", events={"http://schemas.openid.net/event/other": {}})
logout_case("event that is a text", "logout.event", events={EVENT: "yes"})
logout_case("with nonce", "logout.nonce", nonce="n")
logout_case("without jti", "logout.jti", jti=None)
logout_case("empty jti", "logout.jti", jti="")
logout_case("neither sid nor sub", "logout.names", sid=None, sub=None, twin=logout(sid=None))
logout_case("empty sid and no sub", "logout.names", sid="", sub=None, twin=logout(sub=None))
logout_case("of ten minutes ago", "logout.issued_at", iat=now() - 600, exp=now() + 600)
logout_case("without iat", "logout.issued_at", iat=None)
logout_case("for another client", "token.audience", aud="other")
logout_case("of another issuer", "token.issuer", iss=other.issuer)
logout_case("expired", "token.expired", exp=now() - 300)
logout_case("signed by a stranger", "jwt.signature", key=stranger)
suite.case("logout token: unsigned", "jwt.algorithm",
           lambda: peer.call("oidc_logout_token", provider="corp", logout_token=compact({"alg": "none", "typ": "logout+jwt"}, logout_claims(), lambda _: b"")), logout())

# ---- access tokens ----


def bearer(token, audience=API, **more):
    return peer.call("bearer", token=token, audience=audience, method="POST", url=URL, **more)


def at(typ="at+jwt", key=None, alg="RS256", source=None, audience=API, **over):
    source = source or idp
    return lambda: bearer(source.mint(source.at_claims(**over), typ=typ, key=key, alg=alg), audience)


def at_case(name, check, twin=None, **over):
    suite.case("access token: " + name, check, at(**over), twin or at())


at_case("no type", "bearer.type", typ=None)
at_case("type JWT", "bearer.type", typ="JWT", twin=at(typ="application/at+jwt"))
at_case("ID token's nonce", "bearer.not_id_token", nonce="n")
at_case("unknown issuer", "bearer.issuer", iss="https://evil.test")
at_case("expired", "token.expired", exp=now() - 300)
at_case("not yet valid", "token.not_before", nbf=now() + 300)
at_case("without sub", "token.subject", sub=None)
at_case("without client", "bearer.client", client_id=None, twin=at(client_id=None, azp="svc-batch"))
at_case("for another audience", "bearer.audience", aud="https://elsewhere", twin=at(aud=["https://elsewhere", API]))
at_case("for SCIM brought to the API", "bearer.audience", aud=SCIM, twin=at(aud=SCIM, audience=SCIM))
at_case("ID token's audience", "bearer.audience", aud="gatehouse")
at_case("signed by a stranger", "jwt.signature", key=stranger)
at_case("audience that no route of this provider has", "bearer.route", audience="https://not/configured")
at_case("bound in an unknown way", "bearer.confirmation", cnf={"x": "y"})


def cached_then_other_route():
    token = idp.mint(idp.at_claims(), typ="at+jwt")
    assert bearer(token)["ok"]
    return bearer(token, SCIM)


suite.case("access token: verified for one route, brought to another", "bearer.audience", cached_then_other_route, at())
suite.case("access token: unsigned", "jwt.algorithm", lambda: bearer(compact({"alg": "none", "typ": "at+jwt"}, idp.at_claims(), lambda _: b"")), at())
suite.case("access token: unbound where binding is required", "bearer.unbound", at(source=bound_idp),
           lambda: bearer(bound_idp.mint(bound_idp.at_claims(cnf={"x5t#S256": "abc"}), typ="at+jwt"), client_cert_sha256="abc"))
suite.case("certificate-bound token without certificate", "bearer.certificate", at(cnf={"x5t#S256": "abc"}),
           lambda: bearer(idp.mint(idp.at_claims(cnf={"x5t#S256": "abc"}), typ="at+jwt"), client_cert_sha256="abc"))
suite.case("certificate-bound token with another certificate", "bearer.certificate",
           lambda: bearer(idp.mint(idp.at_claims(cnf={"x5t#S256": "abc"}), typ="at+jwt"), client_cert_sha256="abd"),
           lambda: bearer(idp.mint(idp.at_claims(cnf={"x5t#S256": "abc"}), typ="at+jwt"), client_cert_sha256="abc"))

# ---- DPoP ----
holder, thief = Key("EC"), Key("EC")


def dpop(key=None, typ="dpop+jwt", alg="ES256", jwk=None, bound_to=None, brought=True, token_over=None, header=None, **over):
    def run():
        signer = key or holder
        token = idp.mint(idp.at_claims(cnf={"jkt": (bound_to or holder).thumbprint()}, **(token_over or {})), typ="at+jwt")
        claims = {"htm": "POST", "htu": URL, "iat": now(), "jti": secrets.token_hex(8), "ath": b64(hashlib.sha256(token.encode()).digest()), **over}
        claims = {k: v for k, v in claims.items() if v is not None}
        full = {"alg": alg, "typ": typ, "jwk": jwk or signer.jwk(kid=None, use=None), **(header or {})}
        proof = compact({k: v for k, v in full.items() if v is not None}, claims, lambda d: signer.sign("ES256", d))
        return bearer(token, dpop=proof if brought else None)
    return run


def dpop_case(name, check, **over):
    suite.case("proof: " + name, check, dpop(**over), dpop())


dpop_case("missing", "dpop.missing", brought=False)
dpop_case("of a thief's key", "dpop.key", key=thief)
dpop_case("the holder's key named, the thief's used", "dpop.signature", key=thief, jwk=holder.jwk(kid=None, use=None))
dpop_case("another type", "dpop.type", typ="JWT")
dpop_case("another method", "dpop.method", htm="GET")
dpop_case("another address", "dpop.address", htu="https://gate/v1/models")
dpop_case("address with another host", "dpop.address", htu="https://evil/v1/chat/completions")
dpop_case("of an hour ago", "dpop.issued_at", iat=now() - 3600)
dpop_case("from the future", "dpop.issued_at", iat=now() + 600)
dpop_case("for another token", "dpop.token", ath=b64(hashlib.sha256(b"other").digest()))
dpop_case("without ath", "dpop.token", ath=None)
dpop_case("without jti", "dpop.replay", jti=None)
dpop_case("symmetric algorithm", "dpop.algorithm", alg="HS256")
suite.case("proof: with a token that is not bound", "dpop.unbound",
           lambda: bearer(idp.mint(idp.at_claims(), typ="at+jwt"), dpop="a.b.c"), at())


def replay():
    token = idp.mint(idp.at_claims(cnf={"jkt": holder.thumbprint()}), typ="at+jwt")
    claims = {"htm": "POST", "htu": URL, "iat": now(), "jti": secrets.token_hex(8), "ath": b64(hashlib.sha256(token.encode()).digest())}
    proof = compact({"alg": "ES256", "typ": "dpop+jwt", "jwk": holder.jwk(kid=None, use=None)}, claims, lambda d: holder.sign("ES256", d))
    assert bearer(token, dpop=proof)["ok"]
    return bearer(token, dpop=proof)


suite.case("proof: brought twice", "dpop.replay", replay, dpop())

# ---- introspection ----


def opaque(**over):
    def run():
        token = "op-" + secrets.token_hex(8)
        claims = {"active": True, "iss": idp.issuer, "aud": API, "sub": "svc", "client_id": "svc-batch", "exp": now() + 300, "token_type": "Bearer", **over}
        idp.opaque[token] = {k: v for k, v in claims.items() if v is not None}
        return bearer(token)
    return run


for name, check, over in (("not active", "introspection.active", {"active": False}), ("active as a text", "introspection.active", {"active": "true"}),
                          ("of another issuer", "introspection.issuer", {"iss": "https://evil.test"}), ("a refresh token", "introspection.type", {"token_type": "refresh_token"}),
                          ("expired", "introspection.expired", {"exp": now() - 300}), ("without end", "introspection.expired", {"exp": None}),
                          ("not yet valid", "introspection.not_before", {"nbf": now() + 300}), ("nobody", "introspection.subject", {"sub": None, "client_id": None}),
                          ("for another audience", "bearer.audience", {"aud": "https://elsewhere"}), ("without audience", "bearer.audience", {"aud": None})):
    suite.case("opaque token: " + name, check, opaque(**over), opaque())


def switch_off(name):
    current["off"] = name
    peer.mutate(name)


if __name__ == "__main__":
    try:
        status = suite.main(switch_off)
    finally:
        peer.stop()
    sys.exit(status)

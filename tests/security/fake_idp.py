"""An OpenID provider that says whatever a test wants: loopback HTTP, its own keys, every fault. For cases that a real provider never makes.

Tokens are minted here with python3-cryptography; what is malformed on purpose is put together by hand.
"""
import base64
import hashlib
import http.server
import json
import secrets
import threading
import time
import urllib.parse

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils


def b64(data):
    return base64.urlsafe_b64encode(data if isinstance(data, bytes) else data.encode()).rstrip(b"=").decode()


def number(value, size=None):
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class Key:
    def __init__(self, kind="RSA", kid=None, bits=2048, curve=ec.SECP256R1):
        self.kid = kid or secrets.token_hex(4)
        self.kind = kind
        self.private = rsa.generate_private_key(65537, bits) if kind == "RSA" else ec.generate_private_key(curve())
        self.size = {"secp256r1": 32, "secp384r1": 48, "secp521r1": 66}.get(getattr(getattr(self.private, "curve", None), "name", ""), 0)

    def jwk(self, **more):
        pub = self.private.public_key().public_numbers()
        if self.kind == "RSA":
            out = {"kty": "RSA", "n": number(pub.n), "e": number(pub.e)}
        else:
            out = {"kty": "EC", "crv": {32: "P-256", 48: "P-384", 66: "P-521"}[self.size], "x": number(pub.x, self.size), "y": number(pub.y, self.size)}
        out = {**out, "kid": self.kid, "use": "sig", **more}
        return {k: v for k, v in out.items() if v is not None}

    def thumbprint(self):
        jwk = self.jwk()
        names = ("e", "kty", "n") if self.kind == "RSA" else ("crv", "kty", "x", "y")
        return b64(hashlib.sha256(json.dumps({n: jwk[n] for n in names}, separators=(",", ":")).encode()).digest())

    def sign(self, alg, data):
        digest = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}[alg[2:]]()
        if alg.startswith("RS"):
            return self.private.sign(data, padding.PKCS1v15(), digest)
        if alg.startswith("PS"):
            return self.private.sign(data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        r, s = utils.decode_dss_signature(self.private.sign(data, ec.ECDSA(digest)))
        return r.to_bytes(self.size, "big") + s.to_bytes(self.size, "big")


def hs256(secret, data):
    mac = hmac.HMAC(secret, hashes.SHA256())
    mac.update(data)
    return mac.finalize()


def compact(header, claims, sign):
    """header and claims: dicts, or text that is taken as it is."""
    parts = [b64(p if isinstance(p, (str, bytes)) else json.dumps(p, ensure_ascii=False)) for p in (header, claims)]
    signed = ".".join(parts).encode()
    return ".".join(parts + [b64(sign(signed))])


class FakeIdp:
    def __init__(self):
        self.keys = [Key("RSA", "rsa-1"), Key("EC", "ec-1")]
        self.hidden = []  # keys that sign but are not published
        self.codes, self.faults, self.counts, self.discovery, self.userinfo, self.opaque = {}, {}, {}, {}, {}, {}
        self.refresh = {}
        self.jwks_extra, self.last_form, self.last_authorization = [], None, None
        self.jwks_headers = {}
        self.spent = []  # seconds of each request, from its first line to the last byte of its answer
        self.released = threading.Event()
        idp = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or the body waits for the acknowledgement of the head, 40 ms

            def parse_request(self):
                self.began = time.monotonic()
                return super().parse_request()

            def do_GET(self):
                idp.handle(self, None)
                idp.spent.append(time.monotonic() - self.began)

            def do_POST(self):
                idp.handle(self, self.rfile.read(int(self.headers.get("content-length", 0))).decode())
                idp.spent.append(time.monotonic() - self.began)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):
                pass  # a client that went away is no news

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.issuer = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def release(self):
        """Lets go of those that hang now."""
        self.released.set()
        self.released = threading.Event()

    def stop(self):
        self.release()
        self.server.shutdown()
        self.server.server_close()

    # ---- minting ----

    def key(self, kind="RSA"):
        return next(k for k in self.keys if k.kind == kind)

    def mint(self, claims, alg="RS256", key=None, **header):
        key = key or self.key("EC" if alg.startswith("ES") else "RSA")
        full = {"alg": alg, "kid": key.kid, **header}
        return compact({k: v for k, v in full.items() if v is not None}, claims, lambda data: key.sign(alg, data))

    def id_claims(self, **over):
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": "gatehouse", "sub": "alice", "iat": now, "exp": now + 300, "nonce": "n" * 43,
                  "groups": ["llm-users"], "name": "Alice Ängström", "email": "alice@example.test", **over}
        return {k: v for k, v in claims.items() if v is not None}

    def at_claims(self, **over):
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": "https://gate/api", "sub": "svc", "client_id": "svc-batch", "iat": now, "exp": now + 300,
                  "jti": secrets.token_hex(8), "scope": "llm.chat", **over}
        return {k: v for k, v in claims.items() if v is not None}

    def code_for(self, id_token, **more):
        code = secrets.token_urlsafe(16)
        answer = {"token_type": "Bearer", "access_token": "at-" + secrets.token_hex(8), "expires_in": 300, "id_token": id_token, **more}
        self.codes[code] = {k: v for k, v in answer.items() if v is not None}
        return code

    # ---- serving ----

    def metadata(self):
        base = {"issuer": self.issuer, "authorization_endpoint": self.issuer + "/auth", "token_endpoint": self.issuer + "/token",
                "jwks_uri": self.issuer + "/jwks", "userinfo_endpoint": self.issuer + "/userinfo", "end_session_endpoint": self.issuer + "/end",
                "revocation_endpoint": self.issuer + "/revoke", "introspection_endpoint": self.issuer + "/introspect",
                "code_challenge_methods_supported": ["S256"], "id_token_signing_alg_values_supported": ["RS256", "ES256", "PS256"],
                "authorization_response_iss_parameter_supported": True, "backchannel_logout_supported": True, **self.discovery}
        return {k: v for k, v in base.items() if v is not None}

    def send(self, request, status, body, content_type="application/json", headers=()):
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        try:
            request.send_response(status)
            request.send_header("content-type", content_type)
            request.send_header("content-length", str(len(data)))
            for name, value in dict(headers).items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(data)
        except OSError:
            pass

    def handle(self, request, body):
        path = request.path.split("?")[0]
        what = {"/.well-known/openid-configuration": "wellknown", "/jwks": "jwks", "/token": "token", "/userinfo": "userinfo",
                "/introspect": "introspect", "/revoke": "revoke"}.get(path, "other")
        self.counts[what] = self.counts.get(what, 0) + 1
        fault = self.faults.get(what)
        if fault == "hang":
            self.released.wait(30)
            request.close_connection = True
            return
        if isinstance(fault, (int, float)) and fault < 100:
            time.sleep(fault)
        elif isinstance(fault, int):
            return self.send(request, fault, {"error": "server_error"})
        elif fault == "html":
            return self.send(request, 200, "<html><body>Sign in to the proxy</body></html>", "text/html")
        elif fault == "huge":
            return self.send(request, 200, b'{"keys":[' + b" " * (1 << 20) + b"]}")
        elif fault == "redirect":
            return self.send(request, 302, "", headers={"location": self.issuer + "/elsewhere"})
        form = dict(urllib.parse.parse_qsl(body or ""))
        self.last_form, self.last_authorization = form, request.headers.get("authorization")
        getattr(self, "do_" + what)(request, form)

    def do_wellknown(self, request, form):
        self.send(request, 200, self.metadata())

    def do_jwks(self, request, form):
        self.send(request, 200, {"keys": [k.jwk() for k in self.keys] + self.jwks_extra}, headers=self.jwks_headers)

    def do_token(self, request, form):
        if form.get("grant_type") == "refresh_token":
            answer = self.refresh.pop(form.get("refresh_token"), None)
        else:
            answer = self.codes.pop(form.get("code"), None)
        if answer is None:
            return self.send(request, 400, {"error": "invalid_grant"})
        self.send(request, 200, answer)

    def do_userinfo(self, request, form):
        self.send(request, 200, self.userinfo)

    def do_introspect(self, request, form):
        self.send(request, 200, self.opaque.get(form.get("token"), {"active": False}))

    def do_revoke(self, request, form):
        self.send(request, 200, "")

    def do_other(self, request, form):
        self.send(request, 404, {"error": "not_found"})

#!/usr/bin/env python3
"""The catalogue of attacks on SAML sign-in and single logout, against a real gatehouse-sso. Each case has its valid twin.

    test_saml_cases.py [PATTERN]      test_saml_cases.py --mutate     (a build with -Dmutations=true)
"""
import pathlib
import re
import secrets
import subprocess
import sys
import urllib.parse
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cases import Suite
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from saml_make import C14N, DS, ECDSA, ENVELOPED, HMAC256, RSA1, RSA256, SAML, SAMLP, SHA1, IdP, Response, b64, insert_after_issuer, instant, signature
from sso_peer import SsoPeer

ACS, SLO, US, REQUEST = "https://gate/auth/saml/old/acs", "https://gate/auth/saml/old/slo", "https://gate/auth/saml/old/metadata", "_req" + "0" * 30
idp, other, attacker, ours = IdP("https://idp.test/md"), IdP("https://other.test/md"), IdP("https://idp.test/md"), IdP("us")
curves = {256: IdP("https://ec.test/md", curve=ec.SECP256R1), 384: IdP("https://ec384.test/md", curve=ec.SECP384R1), 512: IdP("https://ec521.test/md", curve=ec.SECP521R1)}
ec_attacker = IdP("https://ec.test/md", curve=ec.SECP256R1)
key_pem = ours.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def provider(name, at=idp, **over):
    return {"name": name, "kind": "saml", "metadata_xml": at.metadata(), "entity_id": US, "key_pem": key_pem, "sign_requests": True, "want_signed": "response",
            "want_encrypted": False, "clock_skew_s": 60, "claims": ["groups"], "subject_claim": "", "name_claim": "displayName", "email_claim": "mail", **over}


peer = SsoPeer().start()
configured = peer.configure([provider("old"), provider("other", other), provider("inner", want_signed="assertion"), provider("either", want_signed="either"),
                             provider("sealed", want_encrypted=True), provider("named", subject_claim="uid"),
                             *(provider(f"ec{n}", at) for n, at in curves.items())])
assert all(p["ok"] for p in configured["providers"]), configured
suite = Suite("saml", prefixes=("saml.",))


def bring(xml, name="old", request_id=REQUEST, raw=None):
    return peer.call("saml_finish", provider=name, acs_url=ACS, response=raw if raw is not None else b64(xml), request_id=request_id)


def make(change=None, **members):
    """A response with members changed; change(response) may do more and give the XML."""
    response = Response(idp, ACS, US, REQUEST)
    for name, value in members.items():
        setattr(response, name, value)
    return (change(response) if change else None) or response.xml()


def good(name="old", **members):
    return lambda: bring(make(**members), name)


def case(title, check, change=None, twin=None, name="old", says=None, **members):
    suite.case(title, check, lambda: bring(make(change, **members), name), twin or good(), says=says)


def text_case(title, check, edit, twin=None, **kw):
    """The finished text, changed (its signatures break, but the check comes before)."""
    suite.case(title, check, lambda: bring(edit(make())), twin or good(), **kw)


# ---- before parsing ----
suite.case("no base64", "saml.base64", lambda: bring(None, raw="<xml>"), good())
suite.case("base64 with a letter too many", "saml.base64", lambda: bring(None, raw=b64("abc") + "A"), good())
suite.case("a megabyte of base64", "saml.base64_size", lambda: bring(None, raw="A" * 720000), good())
suite.case("half a megabyte of XML and more", "saml.size", lambda: bring("<a>" + "x" * 526000 + "</a>"), good())
text_case("bytes that are no UTF-8", "saml.utf8", lambda x: x.encode().replace(b"alice", b"al\xc0\xaece"))
text_case("document type", "saml.doctype", lambda x: "<!DOCTYPE x>" + x)
text_case("entity that names a file", "saml.doctype", lambda x: '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + x.replace("alice", "&e;"))
text_case("entities that grow", "saml.doctype", lambda x: '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + x)
text_case("document type after a comment", "saml.doctype", lambda x: "<!-- x --><!DOCTYPE x>" + x)
text_case("processing instruction", "saml.instruction", lambda x: x.replace("<samlp:Status>", "<?php x?><samlp:Status>"),
          twin=lambda: bring('<?xml version="1.0"?>' + make()))
text_case("20,000 deep", "saml.depth", lambda x: x.replace("</samlp:Status>", "<a>" * 20000 + "</a>" * 20000 + "</samlp:Status>"))
text_case("45 deep", "saml.depth", lambda x: x.replace("</samlp:Status>", "<a>" * 45 + "</a>" * 45 + "</samlp:Status>"))
text_case("not well-formed", "saml.xml", lambda x: x.replace("</samlp:Status>", ""))
text_case("an attribute twice", "saml.xml", lambda x: x.replace(' Version="2.0"', ' Version="2.0" Version="2.0"', 1))
text_case("an entity that nobody declared", "saml.xml", lambda x: x.replace("alice", "&evil;"))

# ---- structure: wrapping, by what stands where ----
case("another message", "saml.root", lambda r: f'<samlp:LogoutResponse xmlns:samlp="{SAMLP}" ID="x">{r.assertion()}</samlp:LogoutResponse>')
evil = lambda r: make(name_id="admin@example.test", sign_response=False, sign_assertion=False, assertion_id="_evil").split("</samlp:Status>")[1].replace("</samlp:Response>", "")
case("two assertions, the forged one first", "saml.one_assertion", lambda r: r.wrap(evil(r) + r.assertion()))
case("two assertions, the forged one last", "saml.one_assertion", lambda r: r.wrap(r.assertion() + evil(r)))
case("no assertion", "saml.one_assertion", lambda r: r.wrap(""))
case("plain and encrypted assertion", "saml.one_assertion", lambda r: r.wrap(r.assertion() + f'<saml:EncryptedAssertion xmlns:saml="{SAML}"></saml:EncryptedAssertion>'))
unsigned = dict(sign_response=False)
case("the signed assertion inside the forged one", "saml.hidden_assertion",
     lambda r: r.wrap(evil(r).replace("</saml:Assertion>", r.assertion() + "</saml:Assertion>")), **unsigned)
case("the signed assertion in an extension of the response", "saml.hidden_assertion",
     lambda r: r.wrap(f"<samlp:Extensions>{r.assertion()}</samlp:Extensions>" + evil(r)), **unsigned)
case("the signed assertion in an Object of the forged one's signature", "saml.hidden_assertion",
     lambda r: r.wrap(insert_after_issuer(evil(r), f'<ds:Signature xmlns:ds="{DS}"><ds:Object>{r.assertion()}</ds:Object></ds:Signature>')), **unsigned)
case("the signed response inside the forged one", "saml.hidden_assertion",
     lambda r: make(sign_response=False, sign_assertion=False, response_id="_evil2").replace("</samlp:Response>", f"<samlp:Extensions>{r.xml()}</samlp:Extensions></samlp:Response>"))
case("the signed assertion in an attribute's value", "saml.hidden_assertion",
     lambda r: r.wrap(evil(r).replace("</saml:AttributeValue>", r.assertion() + "</saml:AttributeValue>", 1)), **unsigned)
case("one ID twice", "saml.ids", lambda r: r.xml(), assertion_id="_same", response_id="_same")
case("an ID twice, one spelled Id", "saml.ids", lambda r: r.wrap(f'<samlp:Extensions><x Id="{r.assertion_id}"></x></samlp:Extensions>' + r.assertion()))
case("a second signature of the response", "saml.signatures", lambda r: insert_after_issuer(r.xml(), signature(attacker, "x", r.response_id)))
case("a signature where none belongs", "saml.signatures", lambda r: r.wrap(r.assertion().replace("<saml:Subject>", f'<saml:Subject><ds:Signature xmlns:ds="{DS}"></ds:Signature>')))
case("an empty signature", "saml.signature_form", lambda r: insert_after_issuer(r.xml(), f'<ds:Signature xmlns:ds="{DS}"></ds:Signature>'), sign_response=False)
case("an Object in the signature", "saml.signature_form", response_signature={"extra": "<ds:Object>x</ds:Object>"})
case("two references", "saml.signature_form", response_signature={"references": 2})
case("a second SignedInfo", "saml.signature_form", response_signature={"extra": "<ds:SignedInfo></ds:SignedInfo>"})
case("reference to the other element", "saml.reference", lambda r: None, response_signature={"uri": "#somewhere-else"})
case("empty reference", "saml.reference", response_signature={"uri": ""})
case("external reference", "saml.reference", response_signature={"uri": "https://evil.test/x"})
case("reference by XPointer", "saml.reference", response_signature={"uri": "#xpointer(/)"})
case("XSLT transform", "saml.transform", response_signature={"transforms": (ENVELOPED, "http://www.w3.org/TR/1999/REC-xslt-19991116")})
case("XPath transform", "saml.transform", response_signature={"transforms": ("http://www.w3.org/TR/1999/REC-xpath-19991116", C14N)})
case("three transforms", "saml.transform", response_signature={"transforms": (ENVELOPED, C14N, C14N)})
case("canonical form with comments", "saml.canonicalization", response_signature={"canonical": C14N + "WithComments"})
case("RSA with SHA-1", "saml.algorithm", response_signature={"algorithm": RSA1})
case("HMAC with the public key", "saml.algorithm", response_signature={"algorithm": HMAC256})
case("SHA-1 digest", "saml.digest", response_signature={"digest": SHA1})
case("a comment in the digest", "saml.digest_value", response_signature={"digest_xml": lambda v: f"<ds:DigestValue>{v[:8]}<!-- x -->{v[8:]}</ds:DigestValue>"})
case("a second digest", "saml.digest_value", response_signature={"digest_xml": lambda v: f"<ds:DigestValue>{v}</ds:DigestValue><ds:DigestValue>{v}</ds:DigestValue>"})

# ---- signatures ----
case("signed by an attacker", "saml.signature", lambda r: r.xml(), signer=attacker)
case("signed by an attacker, whose certificate is in KeyInfo", "saml.signature", signer=attacker, response_signature={
    "key_info": f"<ds:KeyInfo><ds:X509Data><ds:X509Certificate>{attacker.certificate_text()}</ds:X509Certificate></ds:X509Data></ds:KeyInfo>"})
case("of IdP A, signed by IdP B", "saml.signature", signer=other)
text_case("group changed after signing", "saml.signature", lambda x: x.replace("llm-users", "llm-gods"))
text_case("person changed after signing", "saml.signature", lambda x: x.replace("alice@", "admin@"))
text_case("status changed after signing", "saml.signature", lambda x: x.replace("status:Success", "status:success"))
case("assertion signed by an attacker inside a signed response", "saml.signature",
     lambda r: r.wrap(Response(attacker, ACS, US, REQUEST).assertion()))
case("nothing signed", "saml.response_signed", sign_response=False, sign_assertion=False)
case("response unsigned where it must be", "saml.response_signed", sign_response=False)
case("assertion unsigned where it must be", "saml.assertion_signed", name="inner", sign_assertion=False, twin=good("inner", sign_response=False))
case("nothing signed where either would do", "saml.unsigned", name="either", sign_response=False, sign_assertion=False, twin=good("either", sign_response=False))
case("plain assertion where encrypted is wanted", "saml.encrypted", name="sealed")


def encrypted(method, key_method):
    return lambda r: r.wrap(f'<saml:EncryptedAssertion xmlns:saml="{SAML}"><xenc:EncryptedData xmlns:xenc="http://www.w3.org/2001/04/xmlenc#"><xenc:EncryptionMethod Algorithm="{method}"></xenc:EncryptionMethod>'
                            f'<ds:KeyInfo xmlns:ds="{DS}"><xenc:EncryptedKey><xenc:EncryptionMethod Algorithm="{key_method}"></xenc:EncryptionMethod></xenc:EncryptedKey></ds:KeyInfo></xenc:EncryptedData></saml:EncryptedAssertion>')


OAEP, GCM, CBC = "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p", "http://www.w3.org/2009/xmlenc11#aes256-gcm", "http://www.w3.org/2001/04/xmlenc#aes256-cbc"
case("encrypted with 3DES", "saml.encryption", encrypted("http://www.w3.org/2001/04/xmlenc#tripledes-cbc", OAEP))
case("encrypted with CBC in an unsigned response", "saml.encryption", encrypted(CBC, OAEP), name="inner", sign_response=False, twin=good("inner"))
case("key encrypted with RSA 1.5", "saml.key_encryption", encrypted(GCM, "http://www.w3.org/2001/04/xmlenc#rsa-1_5"))
case("encrypted for nobody", "saml.decrypt", encrypted(GCM, OAEP))

# ---- what it says ----
case("version 1.1", "saml.version", version="1.1")
case("assertion's version 1.1", "saml.version", assertion_version="1.1")
for status in ("urn:oasis:names:tc:SAML:2.0:status:Responder", "urn:oasis:names:tc:SAML:2.0:status:Requester", "", "Success"):
    case(f"status {status.split(':')[-1] or 'empty'}", "saml.status", status=status)
case("another destination", "saml.destination", destination="https://evil.test/acs")
case("destination with a slash more", "saml.destination", destination=ACS + "/")
case("no destination", "saml.destination", destination=None)
case("response of another issuer", "saml.response_issuer", response_issuer="https://evil.test/md")
case("assertion of another issuer", "saml.issuer", issuer="https://evil.test/md")
case("assertion's issuer with a slash", "saml.issuer", issuer="https://idp.test/md/")
case("of an hour ago", "saml.issue_instant", issued=instant(-3600), twin=good(issued=instant(-500)))
case("from the future", "saml.issue_instant", issued=instant(300), twin=good(issued=instant(30)))
case("no time that can be read", "saml.issue_instant", issued="yesterday")
case("a local time", "saml.issue_instant", issued=instant().replace("Z", "+02:00"))
case("answer to another request", "saml.in_response_to", in_response_to="_other")
case("unsolicited", "saml.in_response_to", in_response_to=None, confirmation_request=None)
case("assertion for another request", "saml.confirmation_request", confirmation_request="_other")
case("assertion for no request", "saml.confirmation_request", confirmation_request=None)
case("nobody", "saml.subject", name_id="", twin=good(name_id="x" * 255))
case("a name of 300 bytes", "saml.subject", name_id="x" * 300)
case("elements in the name", "saml.subject", name_id="<saml:X>alice</saml:X>")
case("no subject", "saml.subject", with_subject=False, says="saml.confirmation_request")
case("attribute that names the person is missing", "saml.subject_attribute", name="named", twin=lambda: bring(make(attributes={"uid": ["alice"]}), "named"))
case("holder of key instead of bearer", "saml.confirmation", method="urn:oasis:names:tc:SAML:2.0:cm:holder-of-key")
case("for another recipient", "saml.recipient", recipient="https://evil.test/acs")
case("for no recipient", "saml.recipient", recipient=None)
case("to be brought until two minutes ago", "saml.confirmation_expired", confirmation_until=instant(-120), twin=good(confirmation_until=instant(-30)))
case("to be brought for ever", "saml.confirmation_expired", confirmation_until=None)
case("confirmation with NotBefore", "saml.confirmation_not_before", confirmation_extra="NotBefore")
case("no conditions", "saml.conditions", with_conditions=False)
case("not valid yet", "saml.not_before", not_before=instant(120), twin=good(not_before=instant(30)))
case("NotBefore that is no time", "saml.not_before", not_before="soon")
case("ended two minutes ago", "saml.not_on_or_after", not_on_or_after=instant(-120), twin=good(not_on_or_after=instant(-30)))
case("ended a day ago", "saml.not_on_or_after", not_on_or_after=instant(-86400))
case("for another audience", "saml.audience", audiences=[["https://elsewhere"]], twin=good(audiences=[["https://elsewhere", US]]))
case("two restrictions, one without us", "saml.audience", audiences=[[US], ["https://elsewhere"]], twin=good(audiences=[[US], [US, "b"]]))
case("for nobody in particular", "saml.audience_missing", audiences=[])
case("a condition that nobody knows", "saml.condition_known", conditions_extra="<saml:OnlyOnTuesdays></saml:OnlyOnTuesdays>", twin=good(conditions_extra="<saml:OneTimeUse></saml:OneTimeUse>"))
case("nobody signed in", "saml.authn_statement", with_statement=False)
case("session over", "saml.session_ended", session_until=instant(-5), twin=good(session_until=None))


def whole_name():
    """A comment inside the name cuts nothing: the whole text counts, and the person is another one than an attacker hopes."""
    reply = bring(make(name_id="admin@corp.test<!-- -->.evil.test"))
    assert reply["ok"] and reply["subject"] == "admin@corp.test.evil.test", reply
    return {"ok": False, "check": "whole name"}


suite.case("comment in the name", "whole name", whole_name, good())
many = {"groups": ["grp-%d" % i for i in range(300)], "displayName": ["Ωmega 用户 🙂"]}


def many_groups():
    reply = bring(make(attributes=many))
    assert reply["ok"] and len(reply["claims"]["groups"]) == 300 and reply["name"] == "Ωmega 用户 🙂", reply
    return {"ok": False, "check": "300 groups"}


suite.case("300 groups and other alphabets", "300 groups", many_groups, good())


# ---- elliptic curves ----
def by_curve(bits=256, signer=None, algorithm=None):
    """A response of a provider with such a key."""
    at = curves[bits]

    def run():
        response, how = Response(at, ACS, US, REQUEST), {"algorithm": ECDSA[algorithm or bits]}
        response.signer, response.response_signature, response.assertion_signature = signer or at, how, how
        return bring(response.xml(), f"ec{bits}")
    return run


for bits in curves:
    suite.case(f"signed by an attacker, ECDSA with SHA-{bits}", "saml.signature", by_curve(bits, IdP("x", curve=type(curves[bits].key.curve))), by_curve(bits))


def with_key(**kind):
    """A provider whose metadata has such a key, configured in a process of its own."""
    def run():
        with SsoPeer(stderr=subprocess.DEVNULL) as fresh:
            told = fresh.configure([provider("new", IdP("https://new.test/md", **kind))])["providers"][0]
        return told if told["ok"] else {"ok": False, "check": "metadata key" if "shorter than" in told["detail"] else told}
    return run


for what, weak, strong in (("an RSA key of 1,024 bits", {"bits": 1024}, {"bits": 2048}), ("a curve of 192 bits", {"curve": ec.SECP192R1}, {"curve": ec.SECP256R1})):
    suite.case(f"metadata with {what}", "metadata key", with_key(**weak), with_key(**strong))


# ---- single logout ----
def logout_xml(signer=None, root="LogoutRequest", issuer=idp.entity_id, destination=SLO, issued=None, until="", name="alice@example.test", extra=""):
    text = (f'<samlp:{root} xmlns:samlp="{SAMLP}" Destination="{destination}" ID="_l{secrets.token_hex(12)}" IssueInstant="{issued or instant()}"{until} Version="2.0">'
            f'<saml:Issuer xmlns:saml="{SAML}">{issuer}</saml:Issuer><saml:NameID xmlns:saml="{SAML}">{name}</saml:NameID><samlp:SessionIndex>s1</samlp:SessionIndex>{extra}</samlp:{root}>')
    if signer:
        text = insert_after_issuer(text, signature(signer, text, re.search('ID="([^"]+)"', text)[1]))
    return text


def by_post(signer=idp, **over):
    return lambda: peer.call("saml_logout", provider="old", binding="post", message=b64(logout_xml(signer, **over)), slo_url=SLO)


def by_redirect(signer=idp, edit=lambda q: q, packed=None, provider_name="old", algorithm=RSA256, sign=None, **over):
    """provider_name: ours for it; sign: what makes the signature's octets of the query."""
    def run():
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = packed if packed is not None else deflate.compress(logout_xml(**over).encode()) + deflate.flush()
        query = urllib.parse.urlencode({"SAMLRequest": b64(body), "RelayState": "rs", "SigAlg": algorithm})
        query += "&" + urllib.parse.urlencode({"Signature": b64(sign(query) if sign else signer.sign(query, algorithm))}) if signer else ""
        return peer.call("saml_logout", provider=provider_name, binding="redirect", message=edit(query), slo_url=SLO)
    return run


suite.case("logout: unsigned, by POST", "saml.logout_signed", by_post(None), by_post())
suite.case("logout: signed by an attacker, by POST", "saml.signature", by_post(attacker), by_post())
suite.case("logout: unsigned, by redirect", "saml.query_signature", by_redirect(None), by_redirect())
suite.case("logout: signed by an attacker, by redirect", "saml.query_signature", by_redirect(attacker), by_redirect())
suite.case("logout: another relay state than was signed", "saml.query_signature", by_redirect(edit=lambda q: q.replace("RelayState=rs", "RelayState=evil")), by_redirect())
suite.case("logout: a second message in the query", "saml.query_signature", by_redirect(edit=lambda q: q + "&SAMLRequest=AAAA"), by_redirect())
suite.case("logout: weak algorithm named", "saml.query_signature", by_redirect(edit=lambda q: q.replace("rsa-sha256", "rsa-sha1")), by_redirect())
suite.case("logout: a bomb", "saml.inflate", by_redirect(packed=(lambda c: c.compress(b"a" * 50_000_000) + c.flush())(zlib.compressobj(9, zlib.DEFLATED, -15))), by_redirect())
suite.case("logout: not packed", "saml.inflate", by_redirect(packed=b"\xff\xff\xff"), by_redirect())


def by_curved_redirect(bits=256, signer=None, der=False, change=lambda s: s, algorithm=None):
    at, uri = curves[bits], ECDSA[algorithm or bits]
    return by_redirect(at, provider_name=f"ec{bits}", issuer=at.entity_id, algorithm=uri, sign=lambda query: change((signer or at).sign_ecdsa(query, uri, der)))


for bits in curves:
    for der in (False, True):
        form = f"ECDSA with SHA-{bits} {'as DER' if der else 'as r and s'}, by redirect"
        suite.case(f"logout: signed by an attacker, {form}", "saml.query_signature",
                   by_curved_redirect(bits, IdP("x", curve=type(curves[bits].key.curve)), der), by_curved_redirect(bits, der=der))
ORDER = bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
for what, change in (("of zeros", lambda s: bytes(64)), ("r that is the order", lambda s: ORDER + s[32:]), ("a byte longer", lambda s: s + b"\0"),
                     ("a byte shorter", lambda s: s[:-1]), ("s before r", lambda s: s[32:] + s[:32]), ("empty", lambda s: b"")):
    suite.case(f"logout: ECDSA signature {what}", "saml.query_signature", by_curved_redirect(change=change), by_curved_redirect())
suite.case("logout: ECDSA signature as DER with a byte more", "saml.query_signature", by_curved_redirect(der=True, change=lambda s: s + b"\0"), by_curved_redirect(der=True))
suite.case("logout: ECDSA by an RSA key's provider", "saml.query_signature",
           by_redirect(algorithm=ECDSA[256], sign=lambda query: ec_attacker.sign_ecdsa(query, ECDSA[256])), by_redirect())
suite.case("logout: RSA named where the key is one for ECDSA", "saml.query_signature",
           by_redirect(provider_name="ec256", issuer=curves[256].entity_id, sign=lambda query: curves[256].sign_ecdsa(query, ECDSA[256])), by_curved_redirect())
for way, twin in ((by_post, by_post()), (by_redirect, by_redirect())):
    named = way.__name__
    suite.case(f"logout {named}: of another issuer", "saml.logout_issuer", way(issuer="https://evil.test"), twin)
    suite.case(f"logout {named}: addressed elsewhere", "saml.logout_destination", way(destination="https://evil.test/slo"), twin)
    suite.case(f"logout {named}: of an hour ago", "saml.logout_instant", way(issued=instant(-3600)), twin)
    suite.case(f"logout {named}: expired", "saml.logout_expired", way(until=f' NotOnOrAfter="{instant(-120)}"'), way(until=f' NotOnOrAfter="{instant(120)}"'))
    suite.case(f"logout {named}: of nobody", "saml.logout_subject", way(name=""), twin)
    suite.case(f"logout {named}: another message", "saml.logout_root", way(root="ManageNameIDRequest"), twin)


def switch_off(name):
    peer.mutate(name)


if __name__ == "__main__":
    try:
        status = suite.main(switch_off)
    finally:
        peer.stop()
    sys.exit(status)

"""SAML responses as a test wants them. The XML is written in exclusive canonical form from the start, so that it can be signed with
python3-cryptography alone: every element that begins a subtree declares its own namespace, attributes are in order, nothing is abbreviated.
"""
import base64
import datetime
import hashlib
import re
import secrets
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import NameOID

SAMLP, SAML, DS = "urn:oasis:names:tc:SAML:2.0:protocol", "urn:oasis:names:tc:SAML:2.0:assertion", "http://www.w3.org/2000/09/xmldsig#"
C14N, ENVELOPED = "http://www.w3.org/2001/10/xml-exc-c14n#", DS + "enveloped-signature"
SHA256, SHA1 = "http://www.w3.org/2001/04/xmlenc#sha256", DS + "sha1"
RSA256, RSA1, HMAC256 = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", DS + "rsa-sha1", "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"
ECDSA = {256: "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256", 384: "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384", 512: "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512"}
SUCCESS = "urn:oasis:names:tc:SAML:2.0:status:Success"


def instant(offset=0):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + offset))


def b64(data):
    return base64.b64encode(data if isinstance(data, bytes) else data.encode()).decode()


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class IdP:
    def __init__(self, entity_id, bits=2048, curve=None):
        self.entity_id = entity_id
        self.key = ec.generate_private_key(curve()) if curve else rsa.generate_private_key(65537, bits)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idp")])
        now = datetime.datetime.utcnow()
        self.certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.key.public_key()).serial_number(7)
                            .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=30)).sign(self.key, hashes.SHA256()))

    def certificate_text(self):
        return b64(self.certificate.public_bytes(serialization.Encoding.DER))

    def metadata(self, extra=""):
        return (f'<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" entityID="{self.entity_id}"{extra}><md:IDPSSODescriptor protocolSupportEnumeration="{SAMLP}">'
                f'<md:KeyDescriptor use="signing"><ds:KeyInfo xmlns:ds="{DS}"><ds:X509Data><ds:X509Certificate>{self.certificate_text()}</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>'
                '<md:SingleLogoutService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="https://idp.test/slo"></md:SingleLogoutService>'
                '<md:SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="https://idp.test/sso"></md:SingleSignOnService>'
                '</md:IDPSSODescriptor></md:EntityDescriptor>')

    def sign(self, text, algorithm=RSA256):
        if algorithm == HMAC256:  # key confusion: the public key as a shared secret
            mac = hmac.HMAC(self.key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo), hashes.SHA256())
            mac.update(text.encode())
            return mac.finalize()
        if algorithm in ECDSA.values():
            return self.sign_ecdsa(text, algorithm)
        return self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA1() if algorithm == RSA1 else hashes.SHA256())

    def sign_ecdsa(self, text, algorithm, der=False):
        hashed = {256: hashes.SHA256, 384: hashes.SHA384, 512: hashes.SHA512}[next(n for n, uri in ECDSA.items() if uri == algorithm)]()
        made = self.key.sign(text.encode(), ec.ECDSA(hashed))
        if der:
            return made
        size = (self.key.curve.key_size + 7) // 8  # XML Signature: r and s, one behind the other
        return b"".join(number.to_bytes(size, "big") for number in utils.decode_dss_signature(made))


def signature(idp, element, element_id, uri=None, transforms=(ENVELOPED, C14N), canonical=C14N, algorithm=RSA256, digest=SHA256, key_info="", extra="",
              digest_xml=None, references=1):
    """A ds:Signature over `element`, which is in canonical form and has no signature yet."""
    element = re.sub("<!--.*?-->", "", element)  # the canonical form is without comments
    value = b64((hashlib.sha1 if digest == SHA1 else hashlib.sha256)(element.encode()).digest())
    listed = "".join(f'<ds:Transform Algorithm="{t}"></ds:Transform>' for t in transforms)
    reference = (f'<ds:Reference URI="{"#" + element_id if uri is None else uri}"><ds:Transforms>{listed}</ds:Transforms><ds:DigestMethod Algorithm="{digest}"></ds:DigestMethod>'
                 f'{digest_xml(value) if digest_xml else f"<ds:DigestValue>{value}</ds:DigestValue>"}</ds:Reference>')
    info = (f'<ds:CanonicalizationMethod Algorithm="{canonical}"></ds:CanonicalizationMethod><ds:SignatureMethod Algorithm="{algorithm}"></ds:SignatureMethod>'
            f'{reference * references}</ds:SignedInfo>')
    signed = b64(idp.sign(f'<ds:SignedInfo xmlns:ds="{DS}">' + info, algorithm))
    return f'<ds:Signature xmlns:ds="{DS}"><ds:SignedInfo>{info}<ds:SignatureValue>{signed}</ds:SignatureValue>{key_info}{extra}</ds:Signature>'


def insert_after_issuer(element, what):
    at = element.index("</saml:Issuer>") + len("</saml:Issuer>")
    return element[:at] + what + element[at:]


class Response:
    """Everything that a response says; change members, then xml()."""

    def __init__(self, idp, acs, audience, request_id):
        self.idp, self.signer = idp, idp
        self.acs, self.audience, self.request_id = acs, audience, request_id
        self.response_id, self.assertion_id = "_r" + secrets.token_hex(16), "_a" + secrets.token_hex(16)
        self.destination, self.recipient, self.in_response_to, self.confirmation_request = acs, acs, request_id, request_id
        self.status, self.version, self.assertion_version = SUCCESS, "2.0", "2.0"
        self.issuer, self.response_issuer = idp.entity_id, idp.entity_id
        self.issued, self.not_before, self.not_on_or_after, self.confirmation_until = instant(), instant(-30), instant(300), instant(300)
        self.session_until = instant(3600)
        self.name_id, self.method = "alice@example.test", "urn:oasis:names:tc:SAML:2.0:cm:bearer"
        self.attributes = {"groups": ["llm-users", "llm-admins"], "displayName": ["Alice Ångström"]}
        self.confirmation_extra = self.conditions_extra = self.statement_extra = ""
        self.audiences = [[audience]]
        self.sign_response, self.sign_assertion = True, True
        self.response_signature, self.assertion_signature = {}, {}
        self.before, self.after = "", ""  # beside the assertion
        self.with_statement = self.with_subject = self.with_conditions = True

    def assertion(self):
        values = "".join(f'<saml:Attribute Name="{name}">' + "".join(f"<saml:AttributeValue>{escape(v)}</saml:AttributeValue>" for v in items) + "</saml:Attribute>"
                         for name, items in self.attributes.items())
        until = f' NotOnOrAfter="{self.confirmation_until}"' if self.confirmation_until else ""
        request = f' InResponseTo="{self.confirmation_request}"' if self.confirmation_request else ""
        before = f' NotBefore="{instant(-30)}"' if self.confirmation_extra == "NotBefore" else ""
        recipient = f' Recipient="{self.recipient}"' if self.recipient else ""
        subject = (f'<saml:Subject><saml:NameID>{self.name_id}</saml:NameID><saml:SubjectConfirmation Method="{self.method}"><saml:SubjectConfirmationData{request}{before}{until}{recipient}>'
                   '</saml:SubjectConfirmationData></saml:SubjectConfirmation></saml:Subject>') if self.with_subject else ""
        restrictions = "".join("<saml:AudienceRestriction>" + "".join(f"<saml:Audience>{a}</saml:Audience>" for a in group) + "</saml:AudienceRestriction>" for group in self.audiences)
        conditions = (f'<saml:Conditions NotBefore="{self.not_before}" NotOnOrAfter="{self.not_on_or_after}">{restrictions}{self.conditions_extra}</saml:Conditions>'
                      if self.with_conditions else "")
        session = f' SessionNotOnOrAfter="{self.session_until}"' if self.session_until else ""
        statement = (f'<saml:AuthnStatement AuthnInstant="{self.issued}" SessionIndex="s1"{session}><saml:AuthnContext><saml:AuthnContextClassRef>x</saml:AuthnContextClassRef></saml:AuthnContext>'
                     '</saml:AuthnStatement>') if self.with_statement else ""
        text = (f'<saml:Assertion xmlns:saml="{SAML}" ID="{self.assertion_id}" IssueInstant="{self.issued}" Version="{self.assertion_version}"><saml:Issuer>{self.issuer}</saml:Issuer>'
                f'{subject}{conditions}{statement}<saml:AttributeStatement>{values}</saml:AttributeStatement>{self.statement_extra}</saml:Assertion>')
        if self.sign_assertion:
            text = insert_after_issuer(text, signature(self.signer, text, self.assertion_id, **self.assertion_signature))
        return text

    def wrap(self, inside):
        destination = f' Destination="{self.destination}"' if self.destination else ""
        request = f' InResponseTo="{self.in_response_to}"' if self.in_response_to else ""
        issuer = f'<saml:Issuer xmlns:saml="{SAML}">{self.response_issuer}</saml:Issuer>' if self.response_issuer else ""
        text = (f'<samlp:Response xmlns:samlp="{SAMLP}"{destination} ID="{self.response_id}"{request} IssueInstant="{self.issued}" Version="{self.version}">{issuer}'
                f'<samlp:Status><samlp:StatusCode Value="{self.status}"></samlp:StatusCode></samlp:Status>{inside}</samlp:Response>')
        if self.sign_response:
            text = insert_after_issuer(text, signature(self.signer, text, self.response_id, **self.response_signature))
        return text

    def xml(self):
        return self.wrap(self.before + self.assertion() + self.after)

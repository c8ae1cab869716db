"""Debian's LemonLDAP::NG as an identity provider of a test's own, for OpenID Connect and SAML 2.0: configuration written here, served by starman
on loopback, gone afterwards. Its signatures and XML come from other libraries than SimpleSAMLphp's and oidc-provider's (lasso, Crypt::OpenSSL).
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import urllib.request

PERL = pathlib.Path("/usr/share/perl5/Lemonldap/NG/Portal/Main.pm")
# The portal as it is, but for its people (Demo has three of its own, and no place to write others) and for what a test wants it to say wrongly
# before it signs: bend.json {"claims": {...}, "algorithm": ..., "audience": ...} is read at each token and each response.
APP = """
use utf8;
use JSON;
use Plack::Builder;
use Lemonldap::NG::Portal::Main;
use Lemonldap::NG::Portal::UserDB::Demo;
use Lemonldap::NG::Portal::Lib::OpenIDConnect;
use Lemonldap::NG::Portal::Lib::SAML;
open(my $in, '<', $ENV{IDP_PEOPLE}) or die;
my $people = JSON->new->utf8->decode(do { local $/; <$in> });
%Lemonldap::NG::Portal::UserDB::Demo::demoAccounts = map { $_ => { uid => $_, cn => $people->{$_}{name}, mail => $people->{$_}{mail} } } keys %$people;
my %groups;
for my $who (keys %$people) { push @{ $groups{$_} }, $who for @{ $people->{$who}{groups} } }
%Lemonldap::NG::Portal::UserDB::Demo::demoGroups = %groups;
{ # its own captchas need ImageMagick even where none is shown
    package Lemonldap::NG::Portal::Captcha::None;
    use Mouse;
    extends 'Lemonldap::NG::Common::Module';
    sub init { return 1; }
    $INC{'Lemonldap/NG/Portal/Captcha/None.pm'} = 'here';
}
sub bend {
    open(my $in, '<', $ENV{IDP_BEND}) or return {};
    return JSON->new->utf8->decode(do { local $/; <$in> });
}
{
    no warnings 'redefine';
    my $jwt = \\&Lemonldap::NG::Portal::Lib::OpenIDConnect::createJWT;
    *Lemonldap::NG::Portal::Lib::OpenIDConnect::createJWT = sub {
        my ($self, $payload, $alg, @rest) = @_;
        my $bend = bend();
        my %claims = (%$payload, %{ $bend->{claims} || {} });
        delete @claims{ grep { !defined $claims{$_} } keys %claims };
        return $jwt->($self, \\%claims, $bend->{algorithm} || $alg, @rest);
    };
    my $response = \\&Lemonldap::NG::Portal::Lib::SAML::buildAuthnResponseMsg;
    *Lemonldap::NG::Portal::Lib::SAML::buildAuthnResponseMsg = sub {
        my ($self, $login) = @_;
        my $bend = bend();
        if ($bend->{audience}) {
            my ($assertion) = $login->response->Assertion;
            my ($restriction) = $assertion->Conditions->AudienceRestriction;
            $restriction->Audience($bend->{audience});
        }
        return $response->($self, $login);
    };
}
Lemonldap::NG::Portal::Main->run({});
"""


def missing():
    """Why it cannot be had here, or None."""
    if not PERL.exists() or shutil.which("starman") is None:
        return "liblemonldap-ng-portal-perl and starman are not installed"
    if subprocess.run(["perl", "-MLasso", "-e", "1"], stderr=subprocess.DEVNULL).returncode != 0:
        return "liblasso-perl is not installed"
    return None


class LemonLdap:
    def __init__(self, folder, port, people):
        """people: {name: {"name":, "mail":, "groups": [...]}}; each one's password is the name."""
        self.dir, self.port, self.people = pathlib.Path(folder), port, people
        self.url = f"http://127.0.0.1:{port}"
        self.entity_id = f"{self.url}/saml/metadata"
        self.process = None
        self.number = 0

    # ---- configuration ----

    def folder(self, name):
        path = self.dir / name
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def make_keys(self):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=second identity provider", "-keyout",
                        str(self.dir / "idp.key"), "-out", str(self.dir / "idp.pem")], check=True, stderr=subprocess.DEVNULL)
        public = subprocess.run(["openssl", "x509", "-in", str(self.dir / "idp.pem"), "-noout", "-pubkey"], check=True, stdout=subprocess.PIPE, text=True)
        return (self.dir / "idp.key").read_text(), (self.dir / "idp.pem").read_text(), public.stdout

    def configuration(self, key, certificate, public, client, sp):
        """client: {"id", "secret", "callback", "after"}; sp: {"metadata": ours, "sign": 0 or 1, "encryption": "none" or "assertion"} or None. Options that are not here are LemonLDAP::NG's own."""
        sessions = {"Directory": self.folder("sessions"), "LockDirectory": self.folder("sessions/lock"),
                    "generateModule": "Lemonldap::NG::Common::Apache::Session::Generate::SHA256"}
        persistent = {"Directory": self.folder("persistent"), "LockDirectory": self.folder("persistent/lock")}
        return {
            "cfgNum": self.number, "cfgAuthor": "test", "cfgDate": int(time.time()), "cfgVersion": "2.16.1", "key": os.urandom(16).hex(),
            "portal": self.url + "/", "domain": "127.0.0.1", "cookieName": "lemonldap", "securedCookie": 0, "sameSite": "Lax", "whatToTrace": "uid",
            "authentication": "Demo", "userDB": "Same", "passwordDB": "Null", "registerDB": "Null", "demoExportedVars": {"cn": "cn", "mail": "mail", "uid": "uid"},
            "exportedVars": {}, "macros": {}, "groups": {}, "locationRules": {}, "exportedHeaders": {}, "applicationList": {},
            "globalStorage": "Apache::Session::File", "globalStorageOptions": sessions,
            "persistentStorage": "Apache::Session::File", "persistentStorageOptions": persistent,
            "localSessionStorage": "Cache::FileCache", "localSessionStorageOptions": {
                "cache_root": self.folder("cache"), "cache_depth": 3, "default_expires_in": 600, "directory_umask": "007", "namespace": "sessions"},
            "requireToken": 0, "notification": 0, "portalDisplayRegister": 0, "portalDisplayResetPassword": 0, "portalDisplayChangePassword": 0,
            "captcha": "::Captcha::None", "captcha_login_enabled": 0, "captcha_mail_enabled": 0, "captcha_register_enabled": 0, "checkXSS": 1, "timeout": 3600,
            # OpenID Connect
            "issuerDBOpenIDConnectActivation": 1, "issuerDBOpenIDConnectPath": "^/oauth2/", "issuerDBOpenIDConnectRule": 1,
            "oidcServiceMetaDataIssuer": self.url, "oidcServicePrivateKeySig": key, "oidcServicePublicKeySig": public, "oidcServiceKeyIdSig": "k1",
            "oidcServiceAllowAuthorizationCodeFlow": 1, "oidcRPMetaDataOptions": {"gate": {
                "oidcRPMetaDataOptionsClientID": client["id"], "oidcRPMetaDataOptionsClientSecret": client["secret"],
                "oidcRPMetaDataOptionsRedirectUris": client["callback"], "oidcRPMetaDataOptionsPostLogoutRedirectUris": client["after"],
                "oidcRPMetaDataOptionsIDTokenSignAlg": client.get("algorithm", "RS256"), "oidcRPMetaDataOptionsBypassConsent": 1,
                "oidcRPMetaDataOptionsIDTokenForceClaims": 1, "oidcRPMetaDataOptionsRequirePKCE": 1,
                "oidcRPMetaDataOptionsAllowOffline": 1, "oidcRPMetaDataOptionsRefreshToken": 1, "oidcRPMetaDataOptionsAdditionalAudiences": client.get("audiences", ""),
                "oidcRPMetaDataOptionsLogoutBypassConfirm": 1}},
            "oidcRPMetaDataExportedVars": {"gate": {"name": "cn", "email": "mail", "groups": "groups", "preferred_username": "uid"}},
            "oidcRPMetaDataOptionsExtraClaims": {"gate": {"groups": "groups", "profile": "name preferred_username"}},
            # SAML
            "issuerDBSAMLActivation": 1, "issuerDBSAMLPath": "^/saml/", "issuerDBSAMLRule": 1, "samlEntityID": "#PORTAL#/saml/metadata",
            "samlServicePrivateKeySig": key, "samlServicePublicKeySig": certificate, "samlServiceSignatureMethod": "RSA_SHA256",
            "samlOrganizationName": "test", "samlOrganizationDisplayName": "test", "samlOrganizationURL": self.url,
            **({"samlSPMetaDataXML": {"gate": {"samlSPMetaDataXML": sp["metadata"]}}, "samlSPMetaDataOptions": {"gate": {
                "samlSPMetaDataOptionsSignSSOMessage": sp.get("sign", 1), "samlSPMetaDataOptionsSignSLOMessage": 1, "samlSPMetaDataOptionsCheckSSOMessageSignature": 1,
                "samlSPMetaDataOptionsCheckSLOMessageSignature": 1, "samlSPMetaDataOptionsNameIDFormat": "email", "samlSPMetaDataOptionsEncryptionMode": sp.get("encryption", "none"),
                "samlSPMetaDataOptionsSignatureMethod": "RSA_SHA256", "samlSPMetaDataOptionsEnableIDPInitiatedURL": 1, "samlSPMetaDataOptionsForceUTF8": 0}},
                "samlSPMetaDataExportedAttributes": {"gate": {name: f"1;{saml};;" for name, saml in (("uid", "uid"), ("mail", "mail"), ("cn", "displayName"), ("groups", "groups"))}},
                } if sp else {}),
        }

    def configure(self, client, sp=None):
        """Writes the next configuration; it holds from the next request on."""
        self.number += 1
        if self.number == 1:
            self.keys = self.make_keys()
            (self.dir / "app.psgi").write_text(APP)
            (self.dir / "people.json").write_text(json.dumps(self.people))
            cache = "{'namespace' => 'config', 'default_expires_in' => 1, 'directory_umask' => '007', 'cache_root' => '%s', 'cache_depth' => 3}" % self.folder("config-cache")
            (self.dir / "lemonldap-ng.ini").write_text(
                f"[all]\nlogLevel = info\ncheckTime = 1\n[configuration]\ntype = File\ndirName = {self.folder('conf')}\nlocalStorage = Cache::FileCache\n"
                f"localStorageOptions = {cache}\n[portal]\nstaticPrefix = /static\ntemplateDir = /usr/share/lemonldap-ng/portal/templates\nlanguages = en\n")
        (self.dir / f"conf/lmConf-{self.number}.json").write_text(json.dumps(self.configuration(*self.keys, client, sp)))

    @contextlib.contextmanager
    def bent(self, **bend):
        """Inside, the provider says something else than it means."""
        (self.dir / "bend.json").write_text(json.dumps(bend))
        try:
            yield
        finally:
            (self.dir / "bend.json").unlink()

    # ---- running ----

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return answer.read().decode()

    def start(self):
        log = open(self.dir / "idp.log", "ab")
        self.process = subprocess.Popen(["starman", "--listen", f"127.0.0.1:{self.port}", "--workers", "2", "--preload-app", str(self.dir / "app.psgi")],
                                        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                        env=dict(os.environ, LLNG_DEFAULTCONFFILE=str(self.dir / "lemonldap-ng.ini"), IDP_PEOPLE=str(self.dir / "people.json"), IDP_BEND=str(self.dir / "bend.json")))
        log.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.get("/.well-known/openid-configuration")
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"LemonLDAP::NG did not start: {error}: {self.log_tail()}") from None
                time.sleep(0.1)

    def log_tail(self, n=3000):
        try:
            return (self.dir / "idp.log").read_text(errors="replace")[-n:]
        except OSError:
            return ""

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # its workers too: the session is its own
            self.process.wait()

    def restart(self, client, sp):
        """With another configuration; the sessions stay."""
        self.stop()
        self.configure(client, sp)
        self.start()

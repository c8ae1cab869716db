"""Debian's SimpleSAMLphp as an identity provider of a test's own: configuration written here, served by php on loopback, gone afterwards."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import urllib.request
import xml.etree.ElementTree as ElementTree

WWW = pathlib.Path("/usr/share/simplesamlphp/www")
PERSISTENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"
REDIRECT, POST = ("urn:oasis:names:tc:SAML:2.0:bindings:HTTP-" + name for name in ("Redirect", "POST"))
METADATA, SIGNATURE = "{urn:oasis:names:tc:SAML:2.0:metadata}", "{http://www.w3.org/2000/09/xmldsig#}"


def missing():
    """Why it cannot be had here, or None."""
    if shutil.which("php") is None or not WWW.is_dir():
        return "simplesamlphp and php-cli are not installed"
    return None


def php(value):
    """A Python value as PHP source."""
    if isinstance(value, dict):
        return "[" + ", ".join(f"{php(k)} => {php(v)}" for k, v in value.items()) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(php, value)) + "]"
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, int):
        return str(value)
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


class SimpleSaml:
    def __init__(self, folder, port, users, **hosted):
        """users: {name: {attribute: [values]}}; each one's password is its name. hosted: options of the provider, as its metadata has them."""
        self.dir, self.port, self.users, self.hosted = pathlib.Path(folder), port, users, hosted
        self.url = f"http://127.0.0.1:{port}/simplesaml"
        self.entity_id = f"{self.url}/saml2/idp/metadata.php"
        self.process = None

    def write(self, name, variable, value):
        body = f"${variable} = {php(value)};" if variable == "config" else "".join(f"$metadata[{php(k)}] = {php(v)};\n" for k, v in value.items())
        (self.dir / name).write_text(f"<?php\n{body}\n")

    def write_config(self):
        folders = {option: f"{self.dir / name}/" for option, name in
                   (("certdir", "cert"), ("loggingdir", "log"), ("datadir", "data"), ("tempdir", "tmp"), ("metadatadir", "metadata"))}
        for folder in [*folders.values(), self.dir / "config", self.dir / "sessions", self.dir / "root"]:
            os.makedirs(folder, exist_ok=True)
        (self.dir / "root/simplesaml").symlink_to(WWW)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test identity provider", "-keyout",
                        str(self.dir / "cert/idp.key"), "-out", str(self.dir / "cert/idp.pem")], check=True, stderr=subprocess.DEVNULL)
        self.write("config/config.php", "config", {
            **folders, "baseurlpath": f"{self.url}/", "attributenamemapdir": "/etc/simplesamlphp/attributemap/",
            "secretsalt": os.urandom(16).hex(), "auth.adminpassword": os.urandom(16).hex(), "timezone": "UTC", "production": False,
            "technicalcontact_name": "test", "technicalcontact_email": "na@example.com", "trusted.url.domains": None, "proxy": None,
            "enable.saml20-idp": True, "module.enable": {"exampleauth": True, "core": True, "saml": True}, "theme.use": "default",
            "logging.level": 7, "logging.handler": "file", "logging.logfile": "idp.log", "debug": {"saml": False, "backtraces": True},
            "showerrors": True, "errorreporting": False, "store.type": "phpsession", "session.cookie.secure": False,
            "session.cookie.name": "IdpSession", "session.cookie.path": "/", "session.cookie.lifetime": 0, "session.duration": 3600,
            "session.datastore.timeout": 3600, "session.state.timeout": 3600, "session.phpsession.cookiename": "IdpPhp",
            "session.phpsession.savepath": str(self.dir / "sessions"), "session.phpsession.httponly": True, "session.authtoken.cookiename": "IdpToken",
            "language.available": ["en"], "language.default": "en", "language.rtl": [], "language.cookie.name": "language", "assets": [],
            "authproc.idp": {}, "authproc.sp": {}, "metadata.sources": [{"type": "flatfile"}], "template.cache": "", "enable.http_post": True,
        })
        accounts = {f"{name}:{name}": {"uid": [name], **attributes} for name, attributes in self.users.items()}
        self.write("config/authsources.php", "config", {"admin": ["core:AdminPassword"], "people": {"0": "exampleauth:UserPass", **accounts}})
        self.write_hosted()
        self.write("metadata/saml20-idp-remote.php", "metadata", {})
        self.write("metadata/saml20-sp-remote.php", "metadata", {})

    def write_hosted(self, **changes):
        """The provider's own side; changes hold from the next request on."""
        self.write("metadata/saml20-idp-hosted.php", "metadata", {self.entity_id: {
            "host": "__DEFAULT__", "privatekey": "idp.key", "certificate": "idp.pem", "auth": "people", "NameIDFormat": PERSISTENT,
            "signature.algorithm": "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", "saml20.sign.response": True, "saml20.sign.assertion": True,
            "attributes.NameFormat": "urn:oasis:names:tc:SAML:2.0:attrname-format:basic", "logouttype": "traditional", "sign.logout": True,
            "validate.authnrequest": True, "validate.logout": True,
            "authproc": {"3": {"class": "saml:AttributeNameID", "attribute": "uid", "Format": PERSISTENT}}, **self.hosted, **changes}})

    def trust(self, metadata_xml):
        """Takes the service provider's own metadata, as an administrator would."""
        root = ElementTree.fromstring(metadata_xml)

        def places(name):
            return [{"Binding": e.get("Binding"), "Location": e.get("Location"), "index": int(e.get("index", "0"))} for e in root.iter(METADATA + name)]

        keys = [re.sub(r"\s", "", e.text) for e in root.iter(SIGNATURE + "X509Certificate")]
        self.write("metadata/saml20-sp-remote.php", "metadata", {root.get("entityID"): {
            "AssertionConsumerService": places("AssertionConsumerService"), "SingleLogoutService": places("SingleLogoutService"),
            "NameIDFormat": PERSISTENT, **({"certData": keys[0]} if keys else {})}})

    def metadata(self):
        with urllib.request.urlopen(self.entity_id, timeout=20) as answer:
            return answer.read().decode()

    def start(self):
        self.write_config()
        log = open(self.dir / "php.log", "ab")
        self.process = subprocess.Popen(["php", "-d", "opcache.enable=0", "-d", "error_reporting=0", "-d", "display_errors=0", "-d", f"session.save_path={self.dir}/sessions",
                                         "-S", f"127.0.0.1:{self.port}", "-t", str(self.dir / "root")], stdin=subprocess.DEVNULL, stdout=log,
                                        stderr=log, env=dict(os.environ, SIMPLESAMLPHP_CONFIG_DIR=str(self.dir / "config")))
        log.close()
        deadline = time.monotonic() + 20
        while True:
            try:
                return self.metadata()
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the SAML provider did not start: {error}: {self.log_tail()}") from None
                time.sleep(0.1)

    def log_tail(self):
        return "\n".join(file.read_text(errors="replace")[-2000:] for file in [self.dir / "php.log", *self.dir.glob("log/*")] if file.exists())

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

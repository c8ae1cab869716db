#!/usr/bin/env python3
"""One private Gatehouse with everything it needs: Postgres, Redis, certificates, keys, configuration, and a mock provider on demand.

`./dev run` calls this as a program; the tests import Stack, so that what they test is what a newcomer starts.
All state lives in one folder. Nothing of the system's own Postgres or Redis is touched: both servers listen on Unix sockets in that
folder alone. Standard library only.
"""
import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEMO_MODEL = ROOT / "engine/demo/gatehouse-demo.gguf"
DISK_NEEDED = 500 << 20
IDP_MODULES = ROOT / "build/demo_idp"
DEMO_USERS = [
    {"id": "alice", "name": "Alice Ängström", "email": "alice@example.com", "groups": ["llm-admins", "llm-users"], "about": "administrator"},
    {"id": "bob", "name": "Bob", "email": "bob@example.com", "groups": ["llm-users"], "about": "employee"},
    {"id": "carol", "name": "Carol", "email": "carol@example.com", "groups": ["llm-analysts"], "about": "analyst"},
    {"id": "dave", "name": "Dave", "email": "dave@example.com", "groups": [], "about": "in no group: Gatehouse refuses him"},
]


class StackError(Exception):
    """What went wrong, in a sentence that says what to do."""


def say(text):
    print(text, flush=True)


def find_postgres(name):
    found = shutil.which(name)
    candidates = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    if candidates:
        return str(candidates[0])
    if found:
        return found
    raise StackError(f"{name} is not installed: apt-get install postgresql")


def port_free(address, port):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((address, port))
            return True
        except OSError:
            return False


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def started_at(pid):
    """When a process was started, in the kernel's ticks; None once it has ended. With it a process number is not mistaken for a later one."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


class Stack:
    """start() .. stop(). Each part can be stopped and started by itself, for tests of what happens then."""

    def __init__(self, folder, binary, port=8443, admin_port=8442, demo_provider=False, mock_port=8444, policy=None, model=None,
                 config=None, quiet=False, env=None, listen_address="127.0.0.1", demo_idp=False, idp_port=8445, idp_users=(),
                 idp_test=False, idp_tls=False):
        self.dir = pathlib.Path(folder).resolve()
        self.binary = pathlib.Path(binary).resolve()
        self.port, self.admin_port, self.mock_port = port, admin_port, mock_port
        self.demo_provider = demo_provider
        # the demo identity provider; idp_test: with the controls that tests need; idp_tls: https with the development CA
        self.demo_idp, self.idp_port, self.idp_test, self.idp_tls = demo_idp, idp_port, idp_test, idp_tls
        self.idp_users = [*DEMO_USERS, *idp_users]
        self.policy_text = policy
        self.model = pathlib.Path(model) if model else DEMO_MODEL
        self.extra_config = config or {}
        self.env = dict(os.environ, **(env or {}))
        self.quiet = quiet
        self.listen_address = listen_address
        self.processes = {}
        self.lock = None
        self.socket_dir = None
        self.pg_prefix = []

    # ---- small things ----

    def say(self, text):
        if not self.quiet:
            say(text)

    @property
    def url(self):
        return f"https://localhost:{self.port}"

    @property
    def admin_url(self):
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def idp_url(self):
        return f"https://localhost:{self.idp_port}" if self.idp_tls else f"http://127.0.0.1:{self.idp_port}"

    @property
    def ca_file(self):
        return self.dir / "certs/ca.pem"

    def ssl_context(self):
        return ssl.create_default_context(cafile=str(self.ca_file))

    def cli(self, *args, check=True, **kwargs):
        """Runs `gatehouse ARGS` against this stack."""
        done = subprocess.run([str(self.binary), "--config", str(self.dir / "gatehouse.conf"), *map(str, args)], env=self.env,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)
        if check and done.returncode != 0:
            raise StackError(f"gatehouse {' '.join(map(str, args))}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def spawn(self, name, args, **kwargs):
        log = open(self.dir / f"{name}.log", "ab")
        process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **kwargs)
        log.close()
        self.processes[name] = process
        self.note_processes()
        return process

    def log_tail(self, name, lines=8):
        try:
            return "\n".join((self.dir / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def end(self, name, sig=signal.SIGTERM, timeout=40):
        process = self.processes.pop(name, None)
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(sig)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return process.returncode

    # ---- folder, certificates, keys ----

    def prepare(self):
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            self.take_lock()
        except PermissionError as error:
            raise StackError(f"{error.filename} cannot be written: it belongs to another user. Go on as that user, say another folder "
                             "with --dir, or give the folder back: chown") from None
        if shutil.disk_usage(self.dir).free < DISK_NEEDED:
            raise StackError(f"less than {DISK_NEEDED >> 20} MB are free under {self.dir}: make room, or say another folder with --dir")
        self.end_leftovers()
        (self.dir / "ready.json").unlink(missing_ok=True)
        self.check_ports()
        if not self.model.is_file():
            raise StackError(f"there is no model file {self.model}")
        # a socket's path may have 107 bytes: a deep folder gets its sockets elsewhere
        if len(str(self.dir)) < 70:
            self.socket_dir = self.dir / "sockets"
            self.socket_dir.mkdir(exist_ok=True)
        else:
            self.socket_dir = pathlib.Path(tempfile.mkdtemp(prefix="gatehouse-"))
        self.socket_dir.chmod(0o711)
        subprocess.run([str(ROOT / "certs/make-dev-ca.sh"), str(self.dir / "certs"), "localhost", "127.0.0.1", "::1"], check=True)
        keys = self.dir / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        for name in ("kek", "pseudonym", "pepper") + (("idp-client", "idp-service") if self.demo_idp else ()):
            file = keys / name
            if not file.exists():
                with open(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as f:
                    f.write(secrets.token_hex(32) + "\n")

    def take_lock(self):
        """One stack to a folder. The kernel lets go of the lock when this process ends, however it ends."""
        self.lock = open(self.dir / "lock", "a")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.lock.close()
            self.lock = None
            raise StackError(f"Gatehouse is already running from {self.dir}; {self.dir}/ready.json says where. Stop it with Ctrl-C in its "
                             "terminal, or start another one with --dir, --port and --admin-port") from None

    def note_processes(self):
        rows = [[name, process.pid, started_at(process.pid)] for name, process in self.processes.items()]
        (self.dir / "processes.json").write_text(json.dumps(rows))

    def end_leftovers(self):
        """What an earlier run started and could not stop, because it was killed itself. Called with the lock held."""
        try:
            rows = json.loads((self.dir / "processes.json").read_text())
            rows = [(name, int(pid), started) for name, pid, started in rows if started is not None and started_at(pid) == started]
        except (OSError, ValueError, TypeError):
            return
        if rows:
            self.say(f"  ending what an earlier run left behind: {', '.join(name for name, _, _ in rows)}")
        # each one's quick and orderly end first; a database that is still there after that loses nothing by SIGQUIT
        for signals in ({"postgres": signal.SIGINT}, {"postgres": signal.SIGQUIT, "gateway": signal.SIGKILL, "redis": signal.SIGKILL}):
            for name, pid, started in rows:
                if started_at(pid) == started:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signals.get(name, signal.SIGTERM))
            deadline = time.monotonic() + 5
            while any(started_at(pid) == started for _, pid, started in rows) and time.monotonic() < deadline:
                time.sleep(0.02)

    def check_ports(self):
        """Early, so that nobody waits for a database first."""
        for option, port in self.ports():
            if not port_free("127.0.0.1", port):
                raise StackError(f"port {port} is taken: stop what listens there (`ss -ltnp` shows it), or say another with {option}")

    def ports(self):
        return ([("--port", self.port), ("--admin-port", self.admin_port)] + ([("--mock-port", self.mock_port)] if self.demo_provider else [])
                + ([("--idp-port", self.idp_port)] if self.demo_idp else []))

    # ---- Postgres ----

    def choose_pg_user(self):
        """Postgres refuses to run as root: as user postgres then, and where that user cannot come to the folder, /root for example, with
        the one capability that lets it pass."""
        if os.geteuid() != 0:
            return []
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        passing = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        for prefix in (as_postgres, as_postgres + passing):
            if subprocess.run(prefix + ["ls", "-d", f"{self.dir}/."], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                return prefix
        raise StackError(f"Postgres does not run as root, and user postgres cannot reach {self.dir}: move the project to a folder that "
                         "others may enter, /opt or /srv for example")

    def pg_own(self, path):
        """As root: the folder to user postgres, with everything in it when it has been moved or was another's."""
        if not self.pg_prefix:
            return
        uid, gid = pwd.getpwnam("postgres")[2:4]
        if path.stat().st_uid != uid:
            for folder, _, files in os.walk(path):
                for name in [folder, *(os.path.join(folder, file) for file in files)]:
                    os.chown(name, uid, gid, follow_symlinks=False)

    def start_postgres(self):
        data = self.dir / "postgres"
        self.pg_prefix = self.choose_pg_user()
        sockets = self.socket_dir / "pg"
        sockets.mkdir(mode=0o700, exist_ok=True)
        self.pg_own(sockets)
        if not data.exists():
            fresh = self.dir / "postgres.new"  # has its name once it is whole
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(mode=0o700)
            self.pg_own(fresh)
            done = subprocess.run(self.pg_prefix + [find_postgres("initdb"), "-D", str(fresh), "-U", "postgres", "-A", "trust", "-E", "UTF8",
                                                    "--locale=C", "--no-instructions"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, cwd="/")
            if done.returncode != 0:
                raise StackError(f"initdb failed:\n{done.stdout}")
            fresh.rename(data)
        self.pg_own(data)
        self.spawn("postgres", self.pg_prefix + [find_postgres("postgres"), "-D", str(data), "-k", str(sockets), "-c", "listen_addresses=",
                                                 "-c", "max_connections=60", "-c", "shared_buffers=32MB"], cwd="/")
        deadline = time.monotonic() + 60
        while not self.psql("select 1", check=False):
            if self.processes["postgres"].poll() is not None or time.monotonic() > deadline:
                raise StackError(f"Postgres did not start; {self.dir}/postgres.log ends with:\n{self.log_tail('postgres')}")
            time.sleep(0.1)

    def psql(self, sql, check=True, database="postgres", user="postgres"):
        done = subprocess.run([find_postgres("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket_dir / "pg"), "-U", user, "-d",
                               database, "-c", sql], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
        if done.returncode != 0:
            if check:
                raise StackError(f"psql: {done.stderr.strip()}")
            return None
        return done.stdout.strip() or True

    def create_database(self):
        if self.psql("select 1 from pg_database where datname = 'gatehouse'") is True:
            self.psql("create database gatehouse")
        done = subprocess.run([find_postgres("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket_dir / "pg"), "-U", "postgres", "-d",
                               "gatehouse", "-f", str(ROOT / "deploy/postgres-roles.sql")], stderr=subprocess.PIPE, text=True, cwd="/")
        if done.returncode != 0:
            raise StackError(f"the database roles could not be made: {done.stderr.strip()}")

    def stop_postgres(self, immediate=False):
        return self.end("postgres", signal.SIGQUIT if immediate else signal.SIGINT)

    # ---- Redis and the demo providers ----

    def start_redis(self):
        server = shutil.which("redis-server")
        if server is None:
            raise StackError("redis-server is not installed: apt-get install redis-server")
        path = self.socket_dir / "redis.sock"
        path.unlink(missing_ok=True)
        self.spawn("redis", [server, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--dir", str(self.dir), "--save",
                             "", "--appendonly", "no", "--daemonize", "no"])
        for _ in range(200):
            if path.exists():
                return
            if self.processes["redis"].poll() is not None:
                break
            time.sleep(0.02)
        raise StackError(f"Redis did not start:\n{self.log_tail('redis')}")

    def start_mock(self):
        self.spawn("mock", [sys.executable, str(ROOT / "tests/tools/mock_provider.py"), "--port", str(self.mock_port), "--cert",
                            str(self.dir / "certs/server.pem"), "--key", str(self.dir / "certs/server.key"), "--record",
                            str(self.dir / "mock-requests.jsonl")])
        deadline = time.monotonic() + 10
        while port_free("127.0.0.1", self.mock_port):
            if self.processes["mock"].poll() is not None or time.monotonic() > deadline:
                raise StackError(f"the mock provider did not start:\n{self.log_tail('mock')}")
            time.sleep(0.05)

    def key(self, name):
        return (self.dir / "keys" / name).read_text().strip()

    def start_idp(self):
        node = shutil.which("node")
        if node is None or not (IDP_MODULES / "node_modules/oidc-provider").is_dir():
            raise StackError("the demo identity provider needs node, npm and its package: deploy/demo_idp/setup.sh fetches it")
        settings = {"modules": str(IDP_MODULES), "port": self.idp_port, "issuer": self.idp_url, "gateway": self.url,
                    "audiences": [f"{self.url}/v1", f"{self.url}/scim/v2", "urn:gatehouse:opaque"], "client_secret": self.key("idp-client"),
                    "service_secret": self.key("idp-service"), "users": self.idp_users}
        if self.idp_tls:
            settings["tls"] = {"cert": str(self.dir / "certs/server.pem"), "key": str(self.dir / "certs/server.key")}
        file = self.dir / "idp.json"
        with open(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as f:
            json.dump(settings, f)
        # it brings logout messages to the gateway, whose certificate is of the development CA
        self.spawn("idp", [node, str(ROOT / "deploy/demo_idp/idp.mjs"), str(file)] + (["--test"] if self.idp_test else []),
                   env=dict(self.env, NODE_EXTRA_CA_CERTS=str(self.ca_file)))
        deadline = time.monotonic() + 20
        while port_free("127.0.0.1", self.idp_port):
            if self.processes["idp"].poll() is not None or time.monotonic() > deadline:
                raise StackError(f"the demo identity provider did not start:\n{self.log_tail('idp')}")
            time.sleep(0.05)

    # ---- the gateway ----

    def write_config(self):
        pg = f"host={self.socket_dir / 'pg'} dbname=gatehouse"
        values = {
            "listen_address": self.listen_address, "listen_port": self.port, "admin_address": "127.0.0.1", "admin_port": self.admin_port,
            "public_url": self.url, "cert_file": self.dir / "certs/server.pem", "key_file": self.dir / "certs/server.key",
            "policy_file": self.dir / "policy.yaml", "migrations_dir": ROOT / "migrations", "instance": "gw1",
            "journal_dir": self.dir / "journal", "kek_file": self.dir / "keys/kek", "pseudonym_key_file": self.dir / "keys/pseudonym",
            "pepper_file": self.dir / "keys/pepper", "redis_url": f"unix://{self.socket_dir / 'redis.sock'}",
        }
        for role in ("writer", "mapper", "reader", "store", "migrator"):
            values[f"{role}_dsn"] = f"{pg} user=gatehouse_{role}"
        values.update(self.extra_config)
        (self.dir / "gatehouse.conf").write_text("# Written by deploy/stack.py at each start; docs/configuration.md has every option.\n"
                                                 + "".join(f"{k} = {v}\n" for k, v in values.items()))
        policy = self.policy_text
        if policy is None:
            name = ("demo-policy-sso.yaml" if self.demo_idp else "demo-policy-provider.yaml" if self.demo_provider else
                    "demo-policy.yaml")
            policy = (ROOT / "deploy" / name).read_text()
        policy = (policy.replace("@MODEL@", str(self.model)).replace("@MOCK_URL@", f"https://localhost:{self.mock_port}/v1")
                  .replace("@CA_FILE@", str(self.ca_file)).replace("@IDP_URL@", self.idp_url).replace("@URL@", self.url)
                  .replace("@IDP_SECRET_FILE@", str(self.dir / "keys/idp-client")))
        (self.dir / "policy.yaml").write_text(policy)

    def start_gateway(self, wait=60):
        process = self.spawn("gateway", [str(self.binary), "--config", str(self.dir / "gatehouse.conf"), "serve"], env=self.env)
        deadline = time.monotonic() + wait
        while not self.ready():
            if process.poll() is not None:
                raise StackError(f"the gateway did not start:\n{self.log_tail('gateway', 3)}")
            if time.monotonic() > deadline:
                raise StackError(f"the gateway is not ready after {wait} s: {self.admin_url}/readyz says why")
            time.sleep(0.02)
        return process

    def ready(self):
        try:
            with urllib.request.urlopen(f"{self.admin_url}/readyz", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def make_key(self, owner="demo", roles=("employee",), expires="30d"):
        args = ["key", "create", "--owner", owner, "--expires", expires, "--json"]
        for role in roles:
            args += ["--role", role]
        return json.loads(self.cli(*args).stdout)["key"]

    def admin_link(self):
        return json.loads(self.cli("admin-link", "--url", self.url, "--json").stdout)["url"]

    # ---- all of it ----

    def start(self):
        self.prepare()
        self.say("  Postgres ...")
        self.start_postgres()
        self.create_database()
        self.say("  Redis ...")
        self.start_redis()
        if self.demo_provider:
            self.say("  mock provider ...")
            self.start_mock()
        if self.demo_idp:
            self.say("  demo identity provider ...")
            self.start_idp()
        self.write_config()
        self.say("  gateway ...")
        self.start_gateway()

    def stop(self):
        for name in ("gateway", "idp", "mock", "redis"):
            self.end(name)
        self.stop_postgres()
        if self.lock is not None:  # else the folder is another one's
            (self.dir / "ready.json").unlink(missing_ok=True)
            self.lock.close()
            self.lock = None
        if self.socket_dir is not None and self.dir not in self.socket_dir.parents:
            shutil.rmtree(self.socket_dir, ignore_errors=True)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()


# ---- the program behind ./dev run ----


def saved_key(stack):
    """The API key of earlier runs, unless it has been revoked or has expired meanwhile."""
    file = stack.dir / "keys/api_key"
    try:
        key = file.read_text().strip()
        request = urllib.request.Request(f"{stack.url}/v1/models", headers={"authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, context=stack.ssl_context(), timeout=5):
            return key
    except (OSError, urllib.error.URLError):
        pass
    key = stack.make_key()
    with open(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as f:
        f.write(key + "\n")
    return key


def wait_for_key(stack, key):
    """A new key holds on the gateway within a second."""
    for _ in range(60):
        try:
            request = urllib.request.Request(f"{stack.url}/v1/models", headers={"authorization": f"Bearer {key}"})
            with urllib.request.urlopen(request, context=stack.ssl_context(), timeout=5) as answer:
                return json.load(answer)["data"][0]["id"]
        except urllib.error.HTTPError:
            time.sleep(0.05)
    raise StackError("the new API key is not accepted: see gateway.log")


def announce(stack):
    key = saved_key(stack)
    model = wait_for_key(stack, key)
    facts = {"url": stack.url, "api_key": key, "admin_link": stack.admin_link(), "ca_file": str(stack.ca_file),
             "pid": stack.processes["gateway"].pid, "model": model, "config_file": str(stack.dir / "gatehouse.conf")}
    sign_in = ""
    if stack.demo_idp:
        facts |= {"idp_url": stack.idp_url, "demo_users": [{k: user[k] for k in ("id", "about")} for user in DEMO_USERS]}
        users = "\n".join(f"    {user['name']:<16}{user['about']}" for user in DEMO_USERS)
        sign_in = (f"Single sign-on: open {stack.url}/ and sign in with the demo company account as one of\n\n{users}\n\n"
                   f"They see different models. Sign out at {stack.idp_url}/ and the session ends everywhere, a running answer with it.\n\n")
    temporary = stack.dir / "ready.json.new"
    with open(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as f:
        json.dump(facts, f, indent=2)
        f.write("\n")
    temporary.rename(stack.dir / "ready.json")
    say(f"\nGatehouse is ready.\n\n  url         {facts['url']}\n  api_key     {key}\n  admin_link  {facts['admin_link']}\n"
        f"              (signs a browser in, once, within 15 minutes; the browser will warn until it trusts ca_file)\n"
        f"  ca_file     {facts['ca_file']}\n  pid         {facts['pid']}\n\n{sign_in}Try it:\n\n"
        f"  curl -N --cacert {facts['ca_file']} {facts['url']}/v1/chat/completions -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{{\"model\":\"{model}\",\"stream\":true,\"messages\":"
        f"[{{\"role\":\"user\",\"content\":\"What is Gatehouse?\"}}]}}'\n\n"
        f"And see what was recorded of it:\n\n  {stack.binary} --config {facts['config_file']} audit list\n\n"
        f"Health: {stack.admin_url}/readyz   metrics: {stack.admin_url}/metrics   logs: {stack.dir}/*.log\nCtrl-C stops everything.")


def main():
    parser = argparse.ArgumentParser(prog="./dev run", description="Serves a private Gatehouse until Ctrl-C.", epilog="When it is ready it "
                                     "writes ready.json into its folder: url, api_key, admin_link, ca_file, pid, model, config_file.")
    parser.add_argument("--port", type=int, default=8443, help="of the gateway (%(default)s)")
    parser.add_argument("--admin-port", type=int, default=8442, help="of health and metrics, on 127.0.0.1 alone (%(default)s)")
    parser.add_argument("--listen", metavar="ADDRESS", default="127.0.0.1", help="where the gateway listens (%(default)s)")
    parser.add_argument("--demo-provider", action="store_true", help="also start a mock provider, to try an external route")
    parser.add_argument("--demo-idp", action="store_true", help="also start an identity provider, to try single sign-on")
    parser.add_argument("--idp-port", type=int, default=8445, help="of the identity provider (%(default)s)")
    parser.add_argument("--mock-port", type=int, default=8444, help="of the mock provider (%(default)s)")
    parser.add_argument("--model", metavar="FILE.gguf", help="serve this model file in place of the bundled one")
    parser.add_argument("--policy", metavar="FILE.yaml", help="a policy in place of the demo's; @MODEL@ in it is the model file")
    parser.add_argument("--dir", default=str(ROOT / "build/run"), help="where all state lives; may be removed when stopped (build/run)")
    parser.add_argument("--binary", default=str(ROOT / "build/release/gateway/gatehouse"), help=argparse.SUPPRESS)
    parser.add_argument("--relative-to", default=".", help=argparse.SUPPRESS)  # ./dev changes the folder before it comes here
    args = parser.parse_args()
    if args.demo_idp and args.demo_provider and not args.policy:
        parser.error("--demo-idp and --demo-provider each have their own policy: use one of them, or give yours with --policy")
    here = pathlib.Path(args.relative_to)
    policy = None
    if args.policy:
        try:
            policy = (here / args.policy).read_text()
        except OSError as error:
            parser.error(f"the policy {args.policy} cannot be read: {error.strerror}")
    stack = Stack(here / args.dir, here / args.binary, args.port, args.admin_port, args.demo_provider, args.mock_port, policy,
                  (here / args.model).resolve() if args.model else None, listen_address=args.listen,
                  demo_idp=args.demo_idp, idp_port=args.idp_port)
    # said for all three, because a shell may have started this with SIGINT ignored, and a closed terminal sends SIGHUP
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        stack.start()
        announce(stack)
        code = stack.processes["gateway"].wait()
        say(f"\nThe gateway has ended ({code}). {stack.dir}/gateway.log ends with:\n{stack.log_tail('gateway', 3)}")
        return 1 if code else 0
    except StackError as error:
        print(f"\n./dev run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be gone
            say("\nStopping ...")
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stack.stop()


if __name__ == "__main__":
    sys.exit(main())

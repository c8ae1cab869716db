#!/usr/bin/env python3
"""One private Gatehouse with everything it needs: Postgres, Redis, certificates, keys, configuration, and a mock provider on demand.

`./dev run` calls this as a program; the tests import Stack, so that what they test is what a newcomer starts.
All state lives in one folder. Nothing of the system's own Postgres or Redis is touched: both servers listen on Unix sockets in that
folder alone. Standard library only.
"""
import argparse
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


def alive(pid):
    try:
        os.kill(pid, 0)
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


class Stack:
    """start() .. stop(). Each part can be stopped and started by itself, for tests of what happens then."""

    def __init__(self, folder, binary, port=8443, admin_port=8442, demo_provider=False, mock_port=8444, policy=None, model=None,
                 config=None, quiet=False, env=None):
        self.dir = pathlib.Path(folder).resolve()
        self.binary = pathlib.Path(binary).resolve()
        self.port, self.admin_port, self.mock_port = port, admin_port, mock_port
        self.demo_provider = demo_provider
        self.policy_text = policy
        self.model = pathlib.Path(model) if model else DEMO_MODEL
        self.extra_config = config or {}
        self.env = dict(os.environ, **(env or {}))
        self.quiet = quiet
        self.processes = {}
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
        self.dir.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.dir).free < DISK_NEEDED:
            raise StackError(f"less than {DISK_NEEDED >> 20} MB are free under {self.dir}: make room, or move the project")
        self.refuse_second_start()
        # a socket's path may have 107 bytes: a deep folder gets its sockets elsewhere
        if len(str(self.dir)) < 70:
            self.socket_dir = self.dir / "sockets"
            self.socket_dir.mkdir(mode=0o711, exist_ok=True)
        else:
            self.socket_dir = pathlib.Path(tempfile.mkdtemp(prefix="gatehouse-"))
        subprocess.run([str(ROOT / "certs/make-dev-ca.sh"), str(self.dir / "certs"), "localhost", "127.0.0.1", "::1"], check=True)
        keys = self.dir / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        for name in ("kek", "pseudonym", "pepper"):
            file = keys / name
            if not file.exists():
                with open(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as f:
                    f.write(secrets.token_hex(32) + "\n")

    def refuse_second_start(self):
        try:
            pid = int(json.loads((self.dir / "ready.json").read_text())["pid"])
        except (OSError, ValueError, KeyError):
            return
        exe = pathlib.Path(f"/proc/{pid}/exe")
        if alive(pid) and exe.exists() and os.readlink(exe).startswith(str(self.binary)):
            raise StackError(f"Gatehouse is already running from {self.dir} (pid {pid}): stop it first with Ctrl-C or `kill {pid}`")
        (self.dir / "ready.json").unlink()

    # ---- Postgres ----

    def choose_pg_user(self):
        """Postgres refuses to run as root: as user postgres if that user can reach the folder, else under another id of its own."""
        if os.geteuid() != 0:
            return []
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        try:
            pwd.getpwnam("postgres")
            probe = subprocess.run(as_postgres + ["test", "-x", str(self.dir)], stderr=subprocess.DEVNULL)
            if probe.returncode == 0:
                return as_postgres
        except KeyError:
            pass
        # in a user namespace of its own, root's files keep their owner and Postgres sees another id than 0
        unshare = ["unshare", "--user", "--map-user=postgres", "--map-group=postgres"]
        if subprocess.run(unshare + ["true"], stderr=subprocess.DEVNULL).returncode == 0:
            return unshare
        raise StackError(f"Postgres does not run as root, and its own user cannot reach {self.dir}: move the project to a folder that "
                         "others may enter, /opt or /srv for example")

    def pg_own(self, path):
        if self.pg_prefix and self.pg_prefix[0] == "setpriv":
            entry = pwd.getpwnam("postgres")
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def start_postgres(self):
        data = self.dir / "postgres"
        self.pg_prefix = self.choose_pg_user()
        sockets = self.socket_dir / "pg"
        sockets.mkdir(mode=0o700, exist_ok=True)
        self.pg_own(sockets)
        if not (data / "PG_VERSION").exists():
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir(mode=0o700)
            self.pg_own(data)
            done = subprocess.run(self.pg_prefix + [find_postgres("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8",
                                                    "--locale=C", "--no-instructions"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, cwd="/")
            if done.returncode != 0:
                raise StackError(f"initdb failed:\n{done.stdout}")
        self.stop_stale_postgres(data)
        self.spawn("postgres", self.pg_prefix + [find_postgres("postgres"), "-D", str(data), "-k", str(sockets), "-c", "listen_addresses=",
                                                 "-c", "max_connections=60", "-c", "shared_buffers=32MB"], cwd="/")
        deadline = time.monotonic() + 60
        while not self.psql("select 1", check=False):
            if self.processes["postgres"].poll() is not None or time.monotonic() > deadline:
                raise StackError(f"Postgres did not start; {self.dir}/postgres.log ends with:\n{self.log_tail('postgres')}")
            time.sleep(0.1)

    def stop_stale_postgres(self, data):
        """A server that an earlier, killed run left behind in this folder."""
        try:
            pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        if alive(pid) and str(data) in pathlib.Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
            os.kill(pid, signal.SIGINT)
            for _ in range(200):
                if not alive(pid):
                    break
                time.sleep(0.05)

    def psql(self, sql, check=True, database="postgres", user="postgres"):
        done = subprocess.run([find_postgres("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket_dir / "pg"), "-U", user, "-d",
                               database, "-c", sql], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
        if done.returncode != 0:
            if check:
                raise StackError(f"psql: {done.stderr.strip()}")
            return None
        return done.stdout.strip() or True

    def create_database(self):
        if self.psql("select 1 from pg_database where datname = 'gatehouse'") is not True:
            return
        self.psql("create database gatehouse")
        done = subprocess.run([find_postgres("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-h", str(self.socket_dir / "pg"), "-U", "postgres", "-d",
                               "gatehouse", "-f", str(ROOT / "deploy/postgres-roles.sql")], stderr=subprocess.PIPE, text=True, cwd="/")
        if done.returncode != 0:
            self.psql("drop database gatehouse", check=False)
            raise StackError(f"the database roles could not be made: {done.stderr.strip()}")

    def stop_postgres(self, immediate=False):
        return self.end("postgres", signal.SIGQUIT if immediate else signal.SIGINT)

    # ---- Redis and the mock provider ----

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
        if not port_free("127.0.0.1", self.mock_port):
            raise StackError(f"port {self.mock_port} for the mock provider is taken: say another with --mock-port")
        self.spawn("mock", [sys.executable, str(ROOT / "tests/tools/mock_provider.py"), "--port", str(self.mock_port), "--cert",
                            str(self.dir / "certs/server.pem"), "--key", str(self.dir / "certs/server.key"), "--record",
                            str(self.dir / "mock-requests.jsonl")])
        deadline = time.monotonic() + 10
        while port_free("127.0.0.1", self.mock_port):
            if self.processes["mock"].poll() is not None or time.monotonic() > deadline:
                raise StackError(f"the mock provider did not start:\n{self.log_tail('mock')}")
            time.sleep(0.05)

    # ---- the gateway ----

    def write_config(self):
        pg = f"host={self.socket_dir / 'pg'} dbname=gatehouse"
        values = {
            "listen_address": "127.0.0.1", "listen_port": self.port, "admin_address": "127.0.0.1", "admin_port": self.admin_port,
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
            name = "demo-policy-provider.yaml" if self.demo_provider else "demo-policy.yaml"
            policy = (ROOT / "deploy" / name).read_text()
        policy = (policy.replace("@MODEL@", str(self.model)).replace("@MOCK_URL@", f"https://localhost:{self.mock_port}/v1")
                  .replace("@CA_FILE@", str(self.ca_file)))
        (self.dir / "policy.yaml").write_text(policy)

    def start_gateway(self, wait=60):
        for what, address, port in (("--port", "127.0.0.1", self.port), ("--admin-port", "127.0.0.1", self.admin_port)):
            if not port_free(address, port):
                raise StackError(f"port {port} is taken: stop what listens there, or say another with {what}")
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
        self.write_config()
        self.say("  gateway ...")
        self.start_gateway()

    def stop(self):
        for name in ("gateway", "mock", "redis"):
            self.end(name)
        self.stop_postgres()
        (self.dir / "ready.json").unlink(missing_ok=True)
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
    temporary = stack.dir / "ready.json.new"
    with open(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as f:
        json.dump(facts, f, indent=2)
        f.write("\n")
    temporary.rename(stack.dir / "ready.json")
    say(f"\nGatehouse is ready.\n\n  url         {facts['url']}\n  api_key     {key}\n  admin_link  {facts['admin_link']}\n"
        f"              (opens the chat page; once, within 15 minutes; your browser will not know the certificate's authority)\n"
        f"  ca_file     {facts['ca_file']}\n  pid         {facts['pid']}\n\nTry it:\n\n"
        f"  curl -N --cacert {facts['ca_file']} {facts['url']}/v1/chat/completions -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{{\"model\":\"{model}\",\"stream\":true,\"messages\":"
        f"[{{\"role\":\"user\",\"content\":\"What is Gatehouse?\"}}]}}'\n\n"
        f"Its commands: export GATEHOUSE_CONFIG={facts['config_file']}; {stack.binary} audit list\n"
        f"Health and metrics: {stack.admin_url}/readyz, /metrics. Logs: {stack.dir}/*.log. Ctrl-C stops everything.")


def main():
    parser = argparse.ArgumentParser(prog="./dev run", description="Serves a private Gatehouse until Ctrl-C.")
    parser.add_argument("--dir", default=str(ROOT / "build/run"), help="where all state lives; may be removed when stopped")
    parser.add_argument("--binary", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--admin-port", type=int, default=8442)
    parser.add_argument("--mock-port", type=int, default=8444)
    parser.add_argument("--demo-provider", action="store_true", help="also start a mock provider, to try an external route")
    parser.add_argument("--model", help="a GGUF file to serve in place of the bundled demo model")
    parser.add_argument("--policy", help="a policy file in place of the demo's")
    args = parser.parse_args()
    policy = pathlib.Path(args.policy).read_text() if args.policy else None
    stack = Stack(args.dir, args.binary, args.port, args.admin_port, args.demo_provider, args.mock_port, policy, args.model)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        stack.start()
        announce(stack)
        code = stack.processes["gateway"].wait()
        say(f"the gateway has ended ({code}); {stack.dir}/gateway.log says why")
        return 1
    except StackError as error:
        print(f"\n./dev run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("\nstopping ...")
        return 0
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stack.stop()


if __name__ == "__main__":
    sys.exit(main())

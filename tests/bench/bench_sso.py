#!/usr/bin/env python3
"""Measures single sign-on: what the gateway adds to a sign-in, what a provider that hangs costs everybody else, what 10,000 sessions take.
Prints tables with the goals beside, writes JSON; asserts nothing.

  bench_sso.py BUILD_FOLDER OUTPUT.json [--quick]

Real gateway, Postgres and Redis (deploy/stack.py); the providers are tests/security/fake_idp.py, in this process, so their time on a busy
machine is large: it is taken with a stopwatch of theirs and subtracted. Everything is measured side by side: compare the ratios.
"""
import argparse
import contextlib
import http.client
import json
import os
import pathlib
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "deploy"), str(ROOT / "tests/security"), str(ROOT / "tests/bench")]
import stack as stacks  # noqa: E402
from bench_gateway import table  # noqa: E402
from fake_idp import FakeIdp  # noqa: E402

SIGN_IN_GOAL_MS, CALLBACK_GOAL_MS, SESSIONS_GOAL_MB = 20, 2, 20
SESSIONS = 10000
RATE = 20  # sign-ins a second beside the measured requests
HANGS = {"token": "token", "keys": "jwks", "userinfo": "userinfo"}  # provider: what of it hangs
WORST_WINDOW_S = 10  # of the gauges of the loops
POLICY = """
version: 1
classes: {default: internal}
backends:
  mock:
    provider: {base_url: "https://localhost:1/v1", ca_file: "@CA_FILE@"}
    max_class: internal
models:
  one: {routes: [{backend: mock, model: x}]}
limits:
  wide: {requests_per_minute: 60000000, requests_burst: 1000000, tokens_per_minute: 1000000000, tokens_burst: 1000000000, on_store_failure: open}
guards:
  standard: {input: {card: tag}, output: {card: tag}}
roles:
  employee: {models: ["*"], max_class: internal, limits: wide, guard: standard}
identity:
  providers:
@PROVIDERS@
  mapping:
    - {group: llm-users, role: employee}
"""
PROVIDER = """    %s:
      oidc: {issuer: "%s", client_id: gatehouse, client_secret_file: idp.secret, scopes: [openid], userinfo: %s, bearer: {audiences: ["https://gate/api"]}}
      claims: {groups: groups}
"""


def verdict(value, goal, unit):
    return f"{'met' if value <= goal else 'MISSED'} ({value:.3g} of {goal} {unit})"


def percentile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))]


class Gate:
    """A stack with one provider that answers and those of HANGS, which answer until told."""

    def __init__(self, build):
        self.build = build
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="gh-bench-"))
        self.folder.chmod(0o711)
        self.idps = {name: FakeIdp() for name in ("good", *HANGS)}
        config = {"requests_per_second": 1000000, "connections_per_address": 10000}
        providers = "".join(PROVIDER % (name, idp.issuer, "true" if name == "userinfo" else "false") for name, idp in self.idps.items())
        self.stack = stacks.Stack(self.folder, build / "gateway/gatehouse", stacks.free_port(), stacks.free_port(), config=config, quiet=True,
                                  policy=POLICY.replace("@PROVIDERS@\n", providers), env={"GATEHOUSE_CALLBACK_CLOCK": "cpu"})

    def __enter__(self):
        self.stack.prepare()
        with open(os.open(self.folder / "idp.secret", os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write("not much of a secret")
        self.stack.start()
        self.tls = self.stack.ssl_context()
        self.key = self.stack.make_key()
        stacks.wait_for_key(self.stack, self.key)
        for name in self.idps:  # every provider's keys are known, and whatever is made on first use
            connection = self.connection()
            for _ in range(3):
                status, *_ = self.sign_in(connection, name)
                if status != 303:
                    raise SystemExit(f"bench_sso: the sign-in at {name} ended with {status}: {self.stack.log_tail('gateway', 3)}")
        return self

    def __exit__(self, *_):
        for idp in self.idps.values():
            idp.stop()
        self.stack.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connection(self, timeout=40):
        return http.client.HTTPSConnection("localhost", self.stack.port, context=self.tls, timeout=timeout)

    def pid(self):
        return self.stack.processes["gateway"].pid

    def metrics(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.stack.admin_port, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))}

    def sign_in(self, connection, provider):
        """(status, seconds at the gateway's start address, seconds at its callback address)"""
        idp = self.idps[provider]
        began = time.monotonic()
        connection.request("GET", f"/auth/oidc/{provider}/start")
        answer = connection.getresponse()
        answer.read()
        started = time.monotonic() - began
        if answer.status != 303:
            return answer.status, started, 0
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(answer.getheader("location")).query))
        cookie = answer.getheader("set-cookie").split(";")[0]
        person = "p" + secrets.token_hex(4)
        idp.userinfo = {"sub": person}
        code = idp.code_for(self.mint(idp, idp.id_claims(nonce=asked["nonce"], sub=person)))
        query = urllib.parse.urlencode({"code": code, "state": asked["state"], "iss": idp.issuer})
        began = time.monotonic()
        connection.request("GET", f"/auth/oidc/{provider}/callback?{query}", headers={"cookie": cookie})
        answer = connection.getresponse()
        answer.read()
        return answer.status, started, time.monotonic() - began

    @staticmethod
    def mint(idp, claims, **header):
        """Where the keys hang, under one that nobody has seen: it makes gatehouse-sso ask for the keys."""
        return idp.mint(claims, **header, **({"kid": secrets.token_hex(4)} if "jwks" in idp.faults else {}))

    def load(self, seconds, connections=4):
        done = subprocess.run([str(self.build / "tests/bench/load"), "-p", str(self.stack.port), "-c", str(connections), "-n", "100000000", "-t",
                               str(seconds), "-w", "50", "-u", "/v1/models", "-H", f"authorization: Bearer {self.key}", "-P",
                               f"gateway={self.pid()}"], stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)

    def memory_mb(self):
        status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{self.pid()}/status").read_text().splitlines() if ":" in line)
        return {"resident": int(status["VmRSS"].split()[0]) / 1024, "anonymous": int(status["RssAnon"].split()[0]) / 1024}


# ---- what a sign-in costs above the provider ----


def measure_sign_in(gate, n):
    idp, connection, rows = gate.idps["good"], gate.connection(), []
    before = gate.metrics()
    for _ in range(n):
        spent = sum(idp.spent)
        status, start_s, callback_s = gate.sign_in(connection, "good")
        if status != 303:
            raise SystemExit(f"bench_sso: a sign-in ended with {status}")
        rows.append({"start_ms": start_s * 1e3, "callback_ms": callback_s * 1e3, "provider_ms": (sum(idp.spent) - spent) * 1e3})
    after = gate.metrics()
    for row in rows:
        row["added_ms"] = row["start_ms"] + row["callback_ms"] - row["provider_ms"]
    name = "gatehouse_sign_in_seconds"
    inside = next(k[len(name + "_sum"):] for k in after if k.startswith(name + "_sum"))
    measured = (after[f"{name}_sum{inside}"] - before[f"{name}_sum{inside}"]) / n * 1e3
    return {"n": n, "rows": rows, "gateway_metric_ms": measured, "provider_ms": statistics.mean(r["provider_ms"] for r in rows)}


def print_sign_in(got):
    print(f"Sign-in: {got['n']} one after the other on one connection; ms on the clock, at the client. The provider is written in Python.")
    columns = ("start_ms", "callback_ms", "provider_ms", "added_ms")
    table(["ms", "to the provider", "back from it", "of that, provider", "added by us"],
          [[name] + [f(([r[c] for r in got["rows"]])) for c in columns]
           for name, f in (("median", statistics.median), ("mean", statistics.mean), ("p95", lambda v: percentile(v, 0.95)))])
    added = statistics.median(r["added_ms"] for r in got["rows"])
    print(f"gatehouse_sign_in_seconds: mean {got['gateway_metric_ms']:.2f} ms, less the provider's {got['gateway_metric_ms'] - got['provider_ms']:.2f} ms")
    print(f"goal: at most {SIGN_IN_GOAL_MS} ms above the provider: {verdict(added, SIGN_IN_GOAL_MS, 'ms, median')}\n")


# ---- a provider that hangs ----


class SignIns:
    """RATE sign-ins a second at the providers in turn, and as many access tokens that nobody has seen, whoever waits."""

    def __init__(self, gate, providers):
        self.gate, self.providers = gate, providers
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.statuses, self.waiting, self.most_waiting = {}, 0, 0
        self.thread = threading.Thread(target=self.run, daemon=True)

    def one(self, provider, kind):
        with self.lock:
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
        status = "no answer"
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = self.gate.connection()
            if kind == "sign-in":
                status = self.gate.sign_in(connection, provider)[0]
            else:
                idp = self.gate.idps[provider]
                token = self.gate.mint(idp, idp.at_claims(groups=["llm-users"]), typ="at+jwt")
                connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {token}"})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            connection.close()
        with self.lock:
            self.waiting -= 1
            key = f"{kind} {status}"
            self.statuses[key] = self.statuses.get(key, 0) + 1

    def run(self):
        os.nice(19)  # this thread and those that it starts: what is measured shall not wait for its measuring
        due, n = time.monotonic(), 0
        while not self.stopping.is_set():
            threading.Thread(target=self.one, args=(self.providers[n % len(self.providers)], "token" if n % 2 else "sign-in"), daemon=True).start()
            n += 1
            due += 0.5 / RATE
            time.sleep(max(0.0, due - time.monotonic()))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()


def measure_hang(gate, rounds, seconds):
    """The same requests of another user: alone, beside sign-ins at a provider that answers, beside sign-ins at providers that hang."""
    rows = []
    for _ in range(rounds):
        for kind in ("alone", "answers", "hangs"):
            for name, what in HANGS.items():
                if kind == "hangs":
                    gate.idps[name].faults[what] = "hang"
            before = gate.metrics()
            signing = SignIns(gate, ["good"] if kind == "answers" else list(HANGS))
            with signing if kind != "alone" else contextlib.nullcontext():
                time.sleep(1 if kind != "hangs" else 3)  # until many wait
                got = gate.load(seconds)
                after = gate.metrics()
            rows.append({"kind": kind, "p50_us": got["p50_us"], "p99_us": got["p99_us"], "cpu_us": got["cpu_us"]["gateway"], "requests": got["requests"],
                         "failed": got["not_200"] + got["errors"], "callback_ms": after["gatehouse_loop_callback_seconds"] * 1e3,
                         "turn_cpu_ms": after["gatehouse_loop_turn_cpu_seconds"] * 1e3,
                         "slow": after["gatehouse_loop_slow_callbacks_total"] - before["gatehouse_loop_slow_callbacks_total"],
                         "waiting": signing.most_waiting, "statuses": signing.statuses})
            if kind == "hangs":
                for idp in gate.idps.values():
                    idp.release()
                deadline = time.monotonic() + 20
                while signing.waiting > 0 and time.monotonic() < deadline:
                    time.sleep(0.1)
                for name, what in HANGS.items():
                    gate.idps[name].faults.pop(what, None)
            time.sleep(WORST_WINDOW_S)  # the gauges forget
    return rows


def print_hang(rows):
    print(f"Another user's GET /v1/models, 4 connections, while {RATE} people sign in each second and as many new access tokens come: at a "
          "provider that\nanswers, and at three that hang (one's token address, one's keys, one's userinfo). Callback: the longest of a loop; "
          "turn: the most that a loop did\nbetween two looks at its sockets. Both are processor time: on the clock, other programs of this "
          "machine are in them.")
    table(["sign-ins", "p50 us", "p99 us", "CPU us", "callback ms", "over 2 ms", "turn ms", "waiting", "failed", "requests"],
          [[r["kind"], r["p50_us"], r["p99_us"], r["cpu_us"], r["callback_ms"], str(int(r["slow"])), r["turn_cpu_ms"], str(r["waiting"]),
            str(r["failed"]), str(r["requests"])] for r in rows])
    for kind in ("answers", "hangs"):
        total = {}
        for row in rows:
            for name, n in row["statuses"].items() if row["kind"] == kind else ():
                total[name] = total.get(name, 0) + n
        print(f"a provider that {kind}: " + ", ".join(f"{n} x {name}" for name, n in sorted(total.items())))
    median = {kind: {c: statistics.median(r[c] for r in rows if r["kind"] == kind) for c in ("p50_us", "p99_us", "cpu_us", "turn_cpu_ms")}
              for kind in ("alone", "answers", "hangs")}
    for c in ("p50_us", "p99_us", "cpu_us"):
        print(f"{c[:-3]}: with the hang {median['hangs'][c] / median['answers'][c]:.2f} x of a provider that answers, "
              f"{median['hangs'][c] / median['alone'][c]:.2f} x of no sign-ins")
    worst = max(r["callback_ms"] for r in rows if r["kind"] == "hangs")
    print(f"goal: no callback over {CALLBACK_GOAL_MS} ms: {verdict(worst, CALLBACK_GOAL_MS, 'ms of processor time')}\n")


# ---- memory of sessions ----


def use_sessions(gate, cookies, threads=4):
    def some(mine):
        connection = gate.connection()
        for cookie in mine:
            connection.request("GET", "/v1/models", headers={"cookie": f"__Host-gatehouse={cookie}"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                failed.append(answer.status)
        connection.close()

    failed = []
    workers = [threading.Thread(target=some, args=(cookies[i::threads],)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise SystemExit(f"bench_sso: {len(failed)} requests with a session failed, the first with {failed[0]}")


def make_sessions(gate, n):
    file = gate.folder / "sessions.resp"
    done = subprocess.run([str(gate.build / "tests/bench/make_sessions"), str(gate.folder / "keys/pepper"), str(n), str(file)],
                          stdout=subprocess.PIPE, text=True, check=True)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(gate.stack.socket_dir / "redis.sock"))
        threading.Thread(target=lambda: s.sendall(file.read_bytes()), daemon=True).start()
        got = 0
        while got < 5 * n:  # "+OK\r\n" each
            part = s.recv(1 << 16)
            if not part or b"-" in part:
                raise SystemExit(f"bench_sso: Redis refused the sessions: {part[:200]}")
            got += len(part)
    return done.stdout.split()


def measure_sessions(gate, n):
    rows = {}
    few = make_sessions(gate, 10)
    use_sessions(gate, few * (n // 10))  # as many requests, of few sessions: what requests take by themselves
    rows["used by 10 sessions"] = gate.memory_mb()
    for turn in ("first", "second"):
        if turn == "first":
            cookies = make_sessions(gate, n)
        use_sessions(gate, cookies)
        rows[f"used by {n:,} sessions, {turn} time"] = gate.memory_mb()
    return rows


def print_sessions(rows):
    print("Memory of the gateway in MB; as many requests in each row.")
    table(["state", "resident", "anonymous"], [[name, m["resident"], m["anonymous"]] for name, m in rows.items()])
    figures = list(rows.values())
    grown = max(m["resident"] for m in figures[1:]) - figures[0]["resident"]
    print(f"goal: {SESSIONS:,} sessions in at most {SESSIONS_GOAL_MB} MB: {verdict(grown, SESSIONS_GOAL_MB, 'MB')}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, figures that mean less")
    args = parser.parse_args()
    began = time.monotonic()
    print("Single sign-on\n")
    with Gate(args.build) as gate:
        result = {"sessions": measure_sessions(gate, SESSIONS)}
        print_sessions(result["sessions"])
        result["sign_in"] = measure_sign_in(gate, 60 if args.quick else 300)
        print_sign_in(result["sign_in"])
        result["hang"] = measure_hang(gate, 1 if args.quick else 2, 4 if args.quick else 6)
        print_hang(result["hang"])
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"took {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()

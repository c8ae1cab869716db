#!/usr/bin/env python3
"""Measures the whole gateway: processor time of one request, what each step of its way costs, what is added to a provider's answer, memory
and start. Prints tables, writes JSON; asserts nothing.

  bench_gateway.py BUILD_FOLDER OUTPUT.json [--quick]

Real gateway, Postgres and Redis (deploy/stack.py) with wide limits; the provider is mock_provider, the client load, both of this folder.
Everything runs side by side in one go, so compare the ratios. Processor time is of all the gateway's threads, from the scheduler's own
nanosecond counts; it moves little when other programs take the cores, times on the clock do.
"""
import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "deploy"))
import stack as stacks  # noqa: E402

STEPS = ["identify", "parse", "admit", "inspect", "decide", "record", "serve"]
CPU_CONNECTIONS = 16
STREAM_CHUNKS, STREAM_EVERY_MS = 20, 10
POLICY = """
version: 1
classes:
  default: internal
  markings: {confidential: [CONFIDENTIAL], secret: ["TOP SECRET"]}
  detectors: {card: confidential, iban: confidential, email: internal, private_key: secret, aws_key: secret, github_token: secret, slack_token: secret, jwt: confidential}
backends:
@ENGINE@
  mock:
    provider: {base_url: "https://localhost:@PORT@/v1", ca_file: "@CA_FILE@"}
    max_class: internal
  mock-http2:
    provider: {base_url: "https://localhost:@PORT2@/v1", ca_file: "@CA_FILE@"}
    max_class: internal
models:
@DEMO@
  burst: {routes: [{backend: mock, model: mock-20}]}
  paced: {routes: [{backend: mock, model: mock-@PACE@}]}
  paced-http2: {routes: [{backend: mock-http2, model: mock-@PACE@}]}
limits:
  wide: {requests_per_minute: 60000000, requests_burst: 1000000, tokens_per_minute: 1000000000, tokens_burst: 1000000000, on_store_failure: open}
guards:
  standard:
    input: {card: mask, iban: mask, email: tag, private_key: block, aws_key: block, github_token: block, slack_token: block, jwt: mask}
    output: {card: mask, iban: mask, email: tag, private_key: mask, aws_key: mask, github_token: mask, slack_token: mask, jwt: mask}
roles:
  employee: {models: ["*"], max_class: confidential, limits: wide, guard: standard}
"""
ENGINE = '  local:\n    engine: {file: "@MODEL@", max_sequences: 8, queue_max: 64}\n    max_class: secret'
QUESTION = ("Please read the following notes of our meeting and write a short summary for the team. We met on Tuesday with the people of the "
            "warehouse and spoke about the new shelves, the delivery in May and the training of new colleagues. The shelves cost less than "
            "we thought, the delivery is a week late, and two of five trainings are done. Name what is open, who does it and until when. ")


class Bench:
    def __init__(self, build, quick):
        self.build, self.quick = build, quick
        self.result = {}
        self.stack = self.key = self.mock_port = self.mock2_port = self.nginx_port = None
        self.others = []

    # ---- the parts ----

    def mock(self, folder, http2):
        process = subprocess.Popen([str(self.build / "tests/bench/mock_provider"), f"cert={folder}/certs/server.pem",
                                    f"key={folder}/certs/server.key", f"http2={int(http2)}"], stdout=subprocess.PIPE, text=True)
        return process, int(process.stdout.readline().split()[1])

    def nginx(self, folder):
        """nginx with one worker as the same hop: TLS in, TLS to the provider, nothing else."""
        binary = shutil.which("nginx") or ("/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else None)
        if binary is None:
            return None, None
        port = stacks.free_port()
        (folder / "nginx").mkdir()
        (folder / "nginx.conf").write_text(f"""
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err crit;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/nginx; proxy_temp_path {folder}/nginx;
  fastcgi_temp_path {folder}/nginx; scgi_temp_path {folder}/nginx; uwsgi_temp_path {folder}/nginx;
  upstream mock {{ server 127.0.0.1:{self.mock_port}; keepalive 128; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/certs/server.pem; ssl_certificate_key {folder}/certs/server.key;
    location / {{ proxy_pass https://mock; proxy_http_version 1.1; proxy_set_header connection ""; proxy_set_header host localhost;
      proxy_buffering off; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_trusted_certificate {folder}/certs/ca.pem; }} }} }}
""")
        return subprocess.Popen([binary, "-c", f"{folder}/nginx.conf", "-p", str(folder)], stderr=subprocess.DEVNULL), port

    @contextlib.contextmanager
    def running(self, with_model):
        """A stack, its provider and nginx; everything ends with the block."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="gh-bench-"))
        folder.chmod(0o711)
        mocks = []
        config = {"requests_per_second": 1000000, "connections_per_address": 10000}
        stack = stacks.Stack(folder, self.build / "gateway/gatehouse", stacks.free_port(), stacks.free_port(), config=config, quiet=True)
        try:
            stack.prepare()
            for http2 in (False, True): # the second cuts a client of many requests a second, as the gateway's server does
                mocks.append(self.mock(folder, http2))
            self.mock_port, self.mock2_port = mocks[0][1], mocks[1][1]
            policy = POLICY.replace("@ENGINE@", ENGINE if with_model else "").replace("@PORT@", str(self.mock_port))
            policy = policy.replace("@DEMO@", "  demo: {routes: [{backend: local, model: demo}]}" if with_model else "")
            policy = policy.replace("@PORT2@", str(self.mock2_port)).replace("@PACE@", f"{STREAM_CHUNKS}x{STREAM_EVERY_MS}")
            stack.policy_text = policy
            process, self.nginx_port = self.nginx(folder)
            if process is not None:
                mocks.append((process, self.nginx_port))
            stack.start()
            self.stack = stack
            self.key = stack.make_key()
            stacks.wait_for_key(stack, self.key)
            self.others = [m[0].pid for m in mocks]
            self.load(stack.port, 4, 50, 20, body=self.body("burst", True)) # opens what is opened on first use
            yield stack
        finally:
            stack.stop()
            for process, _ in mocks:
                process.terminate()
                process.wait()
            shutil.rmtree(folder, ignore_errors=True)

    def pids(self):
        """Whose processor time counts as whose: Postgres is its server and one process for each connection."""
        family = [self.stack.processes["postgres"].pid]
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == family[0]:
                    family.append(int(stat.parent.name))
        pids = {"gateway": [self.gateway_pid()], "mock": self.others[:2], "redis": [self.stack.processes["redis"].pid],
                "postgres": family[:60]}
        if len(self.others) > 2:
            pids["nginx"] = self.others[2:3]
        return pids

    def gateway_pid(self):
        return self.stack.processes["gateway"].pid

    # ---- one run of the client ----

    def body(self, model, stream, question=QUESTION, **fields):
        fields = {"model": model, "messages": [{"role": "user", "content": question}], **fields}
        if stream:
            fields["stream"] = True
        file = self.stack.dir / "body.json"
        file.write_text(json.dumps(fields, separators=(",", ":")))
        return file

    def load(self, port, connections, requests, seconds, path="/v1/chat/completions", body=None, warmup=None):
        args = [str(self.build / "tests/bench/load"), "-p", str(port), "-c", str(connections), "-n", str(requests), "-t", str(seconds), "-w",
                str(warmup if warmup is not None else 4 * connections), "-u", path, "-H", f"authorization: Bearer {self.key}"]
        if body is not None:
            args += ["-b", str(body)]
        for name, pids in self.pids().items():
            args += ["-P", f"{name}={','.join(map(str, pids))}"]
        done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise SystemExit(f"bench_gateway: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def metrics(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.stack.admin_port, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))}

    def provider_stats(self):
        """Connections that both providers have had and cut; asking counts as one each."""
        sums = {"connections": 0, "cut": 0}
        for port in (self.mock_port, self.mock2_port):
            connection = http.client.HTTPSConnection("localhost", port, context=self.stack.ssl_context(), timeout=10)
            connection.request("GET", "/stats")
            for name, value in json.load(connection.getresponse()).items():
                sums[name] += value
            connection.close()
        return sums

    # ---- what is measured ----

    def targets(self):
        """name: port, path, body. Of chats with one connection, the steps hold no waiting for one another."""
        stream_body = {"stream": True}
        rows = {
            "GET /v1/models": (self.stack.port, "/v1/models", None),
            "chat, whole answer": (self.stack.port, None, self.chat("burst", False)),
            "chat, whole answer, 1 connection": (self.stack.port, None, self.chat("burst", False)),
            "chat, 20 chunks at once": (self.stack.port, None, self.chat("burst", **stream_body)),
            f"chat, 20 chunks {STREAM_EVERY_MS} ms apart": (self.stack.port, None, self.chat("paced", **stream_body)),
            "same, provider by HTTP/2": (self.stack.port, None, self.chat("paced-http2", **stream_body)),
            "chat, engine, 1 token": (self.stack.port, None, self.chat("demo", stream=True, max_tokens=1, question="What is Gatehouse?")),
        }
        if self.nginx_port:
            rows["nginx, whole answer"] = (self.nginx_port, None, self.chat("mock-20", False))
            rows["nginx, 20 chunks at once"] = (self.nginx_port, None, self.chat("mock-20", **stream_body))
            rows[f"nginx, 20 chunks {STREAM_EVERY_MS} ms apart"] = (
                self.nginx_port, None, self.chat(f"mock-{STREAM_CHUNKS}x{STREAM_EVERY_MS}", **stream_body))
        return rows

    def chat(self, model, stream, **fields):
        return lambda: self.body(model, stream, **fields)

    def measure_cpu(self, seconds):
        rows = {}
        for name, (port, path, body) in self.targets().items():
            connections = 1 if name.endswith(", 1 connection") else CPU_CONNECTIONS
            before, provider = self.metrics(), self.provider_stats()
            got = self.load(port, connections, 1000000, seconds, path or "/v1/chat/completions", body() if body else None,
                            warmup=10 * connections)
            time.sleep(0.3)
            after = self.metrics()

            def delta(metric):
                return after.get(metric, 0) - before.get(metric, 0)

            now = self.provider_stats()
            got["new_connections"] = now["connections"] - provider["connections"] - 2
            got["cut_connections"] = now["cut"] - provider["cut"]
            got["steps_us"] = {}
            for step in STEPS:
                n = delta(f'gatehouse_step_seconds_count{{step="{step}"}}')
                if n > 0 and "nginx" not in name:
                    got["steps_us"][step] = delta(f'gatehouse_step_seconds_sum{{step="{step}"}}') / n * 1e6
            if delta("gatehouse_audit_fsyncs_total") > 0:
                records = delta("gatehouse_audit_intents_total") + delta("gatehouse_audit_outcomes_total")
                got["records_per_fsync"] = records / delta("gatehouse_audit_fsyncs_total")
                got["fsync_ms"] = delta("gatehouse_audit_fsync_seconds_total") / delta("gatehouse_audit_fsyncs_total") * 1e3
            rows[name] = got
        self.result["cpu"] = rows

    def measure_latency(self, seconds):
        """Direct, through nginx and through the gateway in turn, so that a busy moment meets all of them."""
        rows = []
        for kind, stream, ours, theirs in (("whole answer", False, "burst", "mock-20"),
                                           (f"20 chunks {STREAM_EVERY_MS} ms apart", True, "paced", f"mock-{STREAM_CHUNKS}x{STREAM_EVERY_MS}")):
            for connections in (1, 16, 64):
                row = {"kind": kind, "connections": connections}
                for name, port, model in (("direct", self.mock_port, theirs), ("nginx", self.nginx_port, theirs),
                                          ("gateway", self.stack.port, ours)):
                    if port:
                        row[name] = self.load(port, connections, 1000000, seconds, body=self.body(model, stream))
                row["loop_lag_ms"] = self.metrics()["gatehouse_loop_lag_seconds"] * 1e3
                rows.append(row)
        self.result["latency"] = rows

    def measure_syscalls(self):
        """What the kernel is asked for: the floor is what no implementation can do without."""
        if shutil.which("strace") is None:
            return
        rows = self.result["syscalls"] = {}
        for name, model, stream, n in (("whole answer", "burst", False, 400), ("chunk, 10 ms apart", "paced", True, 100)):
            out = self.stack.dir / "strace.txt"
            before = self.metrics()
            tracer = subprocess.Popen(["strace", "-c", "-f", "-q", "-p", str(self.gateway_pid()), "-o", str(out)], stderr=subprocess.DEVNULL)
            time.sleep(0.5)
            got = self.load(self.stack.port, CPU_CONNECTIONS, n, 20, body=self.body(model, stream), warmup=0)
            tracer.send_signal(signal.SIGINT)
            tracer.wait(20)
            after = self.metrics()
            per = got["requests"] * (STREAM_CHUNKS if name.startswith("chunk") else 1)
            calls = {}
            for line in out.read_text().splitlines():
                fields = line.split()
                if len(fields) >= 5 and re.fullmatch(r"[0-9.]+", fields[0]) and fields[-1] != "total":
                    calls[fields[-1]] = int(fields[3]) / per
            rows[name] = {"requests": got["requests"], "per": calls, "journal_bytes_per_request":
                          (after["gatehouse_audit_journal_bytes"] - before["gatehouse_audit_journal_bytes"]) / got["requests"]}

    def memory(self):
        pid = self.gateway_pid()
        status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        return {"rss_mb": int(status["VmRSS"].split()[0]) / 1024, "anonymous_mb": int(status["RssAnon"].split()[0]) / 1024,
                "file_mb": int(status["RssFile"].split()[0]) / 1024, "threads": int(status["Threads"]),
                "pss_mb": int(re.search(r"^Pss:\s+(\d+)", rollup, re.M).group(1)) / 1024}

    def first_token(self):
        """Seconds from exec to: ready, the first byte of text."""
        stack = self.stack
        stack.end("gateway")
        start = time.monotonic()
        stack.start_gateway()
        ready = time.monotonic() - start
        connection = http.client.HTTPSConnection("localhost", stack.port, context=stack.ssl_context(), timeout=30)
        body = {"model": "demo", "stream": True, "max_tokens": 4, "messages": [{"role": "user", "content": "What is Gatehouse?"}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body),
                           {"authorization": f"Bearer {self.key}", "content-type": "application/json"})
        answer = connection.getresponse()
        while b'"content"' not in answer.readline():
            pass
        took = time.monotonic() - start
        connection.close()
        return {"ready_s": ready, "first_text_s": took}

    def run(self):
        seconds = 1.0 if self.quick else 3.0
        with self.running(with_model=False):
            time.sleep(1)
            self.result["memory"] = {"without a model, idle": self.memory()}
            self.load(self.stack.port, 64, 100000, seconds, body=self.body("burst", True))
            self.result["memory"]["without a model, after 64 streams"] = self.memory()
        with self.running(with_model=True) as stack:
            self.result["memory"]["demo model, idle"] = self.memory()
            self.result["model_mb"] = stack.model.stat().st_size / 1e6
            self.result["start"] = [self.first_token() for _ in range(3)]
            stacks.wait_for_key(stack, self.key)
            self.measure_cpu(seconds)
            self.measure_latency(seconds * 0.6)
            self.result["memory"]["demo model, after all of this"] = self.memory()
            self.measure_syscalls()


# ---- tables ----


def table(header, rows):
    cells = [header] + [[c if isinstance(c, str) else f"{c:,.0f}" if abs(c) >= 100 else f"{c:.1f}" if abs(c) >= 10 else f"{c:.2f}"
                         for c in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for i, row in enumerate(cells):
        print("  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths))).rstrip())
        if i == 0:
            print("  ".join("-" * w for w in widths))
    print()


def print_syscalls(result):
    data = result.get("syscalls")
    if data is None:
        print("strace is not installed: system calls were not counted\n")
        return
    whole, chunk = data["whole answer"], data["chunk, 10 ms apart"]
    print(f"Floor: system calls of the gateway, by strace, {CPU_CONNECTIONS} connections, their handshakes among them.\n"
          "Least possible for a whole answer: 2 reads and 2 writes of the two hops, a write and a read of Redis and 2 writes of the journal,\n"
          "batched, and a share of epoll_wait and fdatasync. For a chunk: 1 read, 1 write, a share of epoll_wait.")
    names = sorted(whole["per"].keys() | chunk["per"].keys(), key=lambda name: -whole["per"].get(name, 0))
    rows = [[name, whole["per"].get(name, 0.0), chunk["per"].get(name, 0.0)] for name in names]
    table(["system call", f"whole answer ({whole['requests']})", f"chunk ({chunk['requests']} x {STREAM_CHUNKS})"],
          [row for row in rows if max(row[1:]) >= 0.02] + [["all", sum(whole["per"].values()), sum(chunk["per"].values())]])
    print(f"Journal: {whole['journal_bytes_per_request']:,.0f} bytes for one request (intent and outcome).\n")


def print_cpu(result):
    rows, nginx = [], {}
    for name, got in result["cpu"].items():
        if name.startswith("nginx, "):
            nginx[name[7:]] = got["cpu_us"]["nginx"]
    for name, got in result["cpu"].items():
        cpu = got["cpu_us"]
        who = "nginx" if name.startswith("nginx") else "gateway"
        beside = nginx.get(name[6:]) if name.startswith("chat, ") else None
        rows.append([name, cpu[who], f"{cpu[who] / beside:.1f} x" if beside else "", cpu["mock"], cpu["redis"], cpu["postgres"],
                     got.get("records_per_fsync", 0.0), str(got["new_connections"]), got["per_second"], str(got["not_200"] + got["errors"])])
    print(f"Processor time of one request in us, {CPU_CONNECTIONS} connections, kept alive. req/s is of the whole machine, which "
          "client, provider, Redis and Postgres share; dialled: connections that the provider got.")
    table(["request", "gateway", "to nginx", "provider", "Redis", "Postgres", "rec/fsync", "dialled", "req/s", "failed"], rows)


def print_steps(result):
    print("Time on the clock of each step in us, mean, from gatehouse_step_seconds. parse, inspect and decide never wait: on a quiet core their "
          "time is\ntheir processor time. identify waits for the store on a key's first use, admit for Redis, record for fdatasync, serve for the "
          "backend.")
    rows = [[name] + [got["steps_us"].get(step, 0.0) for step in STEPS] + [sum(got["steps_us"].get(s, 0) for s in STEPS[:6])]
            for name, got in result["cpu"].items() if "identify" in got["steps_us"]]
    table(["request"] + STEPS + ["before serve"], rows)


def print_latency(result):
    print("Latency on the clock in us, same answer: client to provider, through nginx, through the gateway. Added: gateway less direct.")
    rows = []
    for row in result["latency"]:
        direct, gateway, nginx = row["direct"], row["gateway"], row.get("nginx")
        few = min(got["requests"] for got in (direct, gateway, nginx) if got) < 100 # too few for a hundredth
        rows.append([f"{row['kind']}, {row['connections']}", direct["p50_us"], "-" if few else direct["p99_us"],
                     nginx["p50_us"] if nginx else "-", nginx["p99_us"] if nginx and not few else "-", gateway["p50_us"],
                     "-" if few else gateway["p99_us"], gateway["p50_us"] - direct["p50_us"],
                     "-" if few else gateway["p99_us"] - direct["p99_us"], gateway["first_p50_us"] - direct["first_p50_us"],
                     row["loop_lag_ms"]])
    table(["answer, connections", "direct p50", "p99", "nginx p50", "p99", "gateway p50", "p99", "added p50", "added p99",
           "added to first byte p50", "loop lag ms"], rows)


def print_memory(result):
    print("Memory of the gateway in MB. Goal: at most 40 idle without a model. The model's file is mapped: its pages count as file.")
    table(["state", "resident", "anonymous", "file", "PSS", "threads"],
          [[name, m["rss_mb"], m["anonymous_mb"], m["file_mb"], m["pss_mb"], str(m["threads"])] for name, m in result["memory"].items()])
    print(f"Start in s, demo model of {result['model_mb']:.1f} MB. Goal: at most 3 to the first text.")
    table(["start", "ready", "first text"], [[str(i + 1), s["ready_s"], s["first_text_s"]] for i, s in enumerate(result["start"])])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="a third of the time, figures that mean less")
    args = parser.parse_args()
    bench = Bench(args.build, args.quick)
    start = time.monotonic()
    bench.run()
    args.output.write_text(json.dumps(bench.result, indent=1) + "\n")
    print_syscalls(bench.result)
    print_memory(bench.result)
    print_latency(bench.result)
    print_steps(bench.result)
    print_cpu(bench.result)
    print(f"took {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()

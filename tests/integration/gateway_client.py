"""A running stack and a plain HTTP client for the end-to-end tests. Real gateway, real Postgres, real Redis, mock provider."""
import http.client
import json
import pathlib
import shutil
import signal
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "deploy")]
import stack as stacks  # noqa: E402
import tap  # noqa: E402

# the runner ends a test that takes too long by SIGTERM: its servers must end with it
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by the runner"))

POLICY = """
version: 1
classes:
  default: internal
  markings: {confidential: [CONFIDENTIAL], secret: ["TOP SECRET"]}
  detectors: {card: confidential, iban: confidential, email: internal, private_key: secret, aws_key: secret, github_token: secret, slack_token: secret, jwt: confidential}
backends:
  local:
    engine: {file: "@MODEL@", max_sequences: 4, queue_max: 8}
    max_class: secret
  narrow-engine:
    engine: {file: "@MODEL@", max_sequences: 1, queue_max: 1}
    max_class: secret
  mock:
    provider: {base_url: "@MOCK_URL@", ca_file: "@CA_FILE@", connect_timeout_ms: 2000, first_byte_timeout_ms: 1500, idle_timeout_ms: 1500, total_timeout_ms: 20000}
    max_class: internal
  patient:
    provider: {base_url: "@MOCK_URL@", ca_file: "@CA_FILE@", first_byte_timeout_ms: 20000}
    max_class: internal
  dead:
    provider: {base_url: "https://localhost:1/v1", ca_file: "@CA_FILE@", connect_timeout_ms: 1000}
    max_class: internal
models:
  demo: {description: local, routes: [{backend: local, model: demo}]}
  external: {description: provider first, routes: [{backend: mock, model: gpt-mock}, {backend: local, model: demo}]}
  external-only: {routes: [{backend: mock, model: gpt-mock}]}
  overflow: {routes: [{backend: narrow-engine, model: demo}, {backend: mock, model: gpt-mock}]}
  late: {routes: [{backend: patient, model: "gpt-mock:late"}]}
  through-dead: {routes: [{backend: dead, model: x}, {backend: local, model: demo}]}
  dead-only: {routes: [{backend: dead, model: x}]}
  reserved: {description: for admins, routes: [{backend: local, model: demo}]}
@FAULTS@
limits:
  wide: {requests_per_minute: 60000, requests_burst: 10000, tokens_per_minute: 100000000, tokens_burst: 100000000, on_store_failure: open}
  narrow: {requests_per_minute: 6, requests_burst: 2, tokens_per_minute: 6000, tokens_burst: 2000, on_store_failure: closed}
  few-tokens: {requests_per_minute: 60000, requests_burst: 10000, tokens_per_minute: 600, tokens_burst: 1500, on_store_failure: closed}
guards:
  standard:
    input: {card: mask, iban: mask, email: tag, private_key: block, aws_key: block, github_token: block, slack_token: force_local, jwt: mask}
    output: {card: mask, iban: mask, email: tag, private_key: block, aws_key: mask, github_token: mask, slack_token: mask, jwt: mask}
roles:
  employee: {models: [demo, external, external-only, overflow, late, through-dead, dead-only, @FAULT_NAMES@], max_class: confidential, limits: wide, guard: standard}
  narrow: {models: [demo], max_class: internal, limits: narrow, guard: standard}
  few-tokens: {models: [demo, mock-slow], max_class: internal, limits: few-tokens, guard: standard}
  admin: {models: ["*"], max_class: secret, limits: wide, guard: standard}
"""
FAULTS = ["status-500", "status-429", "status-401", "hang", "stall", "cut", "no-finish", "error-event", "bad-json", "html", "redirect",
          "split-utf8", "slow", "huge-line", "echo", "card", "key"]


def policy():
    rows = "".join(f'  mock-{f}: {{routes: [{{backend: mock, model: "gpt-mock:{f}"}}]}}\n' for f in FAULTS)
    rows += '  fallback-500: {routes: [{backend: mock, model: "gpt-mock:status-500"}, {backend: local, model: demo}]}\n'
    rows += '  fallback-cut: {routes: [{backend: mock, model: "gpt-mock:cut"}, {backend: local, model: demo}]}\n'
    rows += '  fallback-hang: {routes: [{backend: mock, model: "gpt-mock:hang"}, {backend: local, model: demo}]}\n'
    names = ", ".join([f"mock-{f}" for f in FAULTS] + ["fallback-500", "fallback-cut", "fallback-hang"])
    return POLICY.replace("@FAULTS@\n", rows).replace("@FAULT_NAMES@", names)


def new_stack(**options):
    """A stack in a temporary folder on ports of its own; use it in a with statement."""
    folder = tempfile.mkdtemp(prefix="gh-test-")
    binary = options.pop("binary", tap.BUILD / "gateway/gatehouse")
    options.setdefault("policy", policy())
    options.setdefault("demo_provider", True)
    if options.get("demo_idp"):
        options["idp_port"] = stacks.free_port()
    stack = TestStack(folder, binary, port=stacks.free_port(), admin_port=stacks.free_port(), mock_port=stacks.free_port(), quiet=True,
                      **options)
    return stack


class TestStack(stacks.Stack):
    def stop(self):
        super().stop()
        log = self.log_tail("gateway", 400)
        if "ERROR: " in log or "runtime error" in log or "WARNING: ThreadSanitizer" in log:
            tap.note("the gateway's log holds a sanitizer report:\n" + log)
            self.sanitizer_report = True
        shutil.rmtree(self.dir, ignore_errors=True)

    sanitizer_report = False

    # ---- requests ----

    def connection(self, timeout=30):
        return http.client.HTTPSConnection("localhost", self.port, context=self.ssl_context(), timeout=timeout)

    def request(self, method, path, body=None, key=None, headers=None, timeout=60):
        """(status, headers, body bytes)"""
        connection = self.connection(timeout)
        all_headers = dict(headers or {})
        if key:
            all_headers.setdefault("authorization", f"Bearer {key}")
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            all_headers.setdefault("content-type", "application/json")
        connection.request(method, path, body.encode() if isinstance(body, str) else body, all_headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, data

    def chat(self, key, text="What is Gatehouse?", model="demo", headers=None, timeout=60, **fields):
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        status, got, data = self.request("POST", "/v1/chat/completions", body, key, headers, timeout)
        return status, got, json.loads(data) if not fields.get("stream") or status != 200 else parse_events(data)

    def open_stream(self, key, text, model="demo", timeout=60, **fields):
        """An open streaming answer: (connection, response)."""
        connection = self.connection(timeout)
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}], **fields}
        connection.request("POST", "/v1/chat/completions", json.dumps(body),
                           {"authorization": f"Bearer {key}", "content-type": "application/json"})
        return connection, connection.getresponse()

    def mock_requests(self):
        try:
            return [json.loads(line) for line in (self.dir / "mock-requests.jsonl").read_text().splitlines()]
        except OSError:
            return []

    def audit_rows(self, request_id=None):
        args = ["audit", "list", "--json", "--limit", "1000"] + (["--request", request_id] if request_id else [])
        return [json.loads(line) for line in self.cli(*args).stdout.splitlines() if line.startswith("{")]

    def wait_shipped(self, timeout=15):
        """Until the records are in Postgres. An outcome is recorded after the last byte of its answer: at first, wait for those too."""
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and self.metric("gatehouse_audit_outcomes_total") < self.metric("gatehouse_audit_intents_total"):
            time.sleep(0.02)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.metric("gatehouse_audit_ship_lag_records") == 0:
                return
            time.sleep(0.05)
        raise AssertionError("the journal was not shipped in time")

    def wait_metric(self, name, at_least, timeout=10):
        deadline = time.monotonic() + timeout
        while self.metric(name) < at_least:
            tap.check(time.monotonic() < deadline, f"{name} stays below {at_least}")
            time.sleep(0.02)

    def wait_idle(self, timeout=10):
        """Until no call is in flight and the engine rests."""
        deadline = time.monotonic() + timeout
        while sum(map(self.metric, ("gatehouse_requests_in_flight", "gatehouse_engine_running", "gatehouse_engine_waiting"))) > 0:
            tap.check(time.monotonic() < deadline, "calls go on that should have ended")
            time.sleep(0.05)

    def metric(self, name, *labels):
        """The sum of the family's samples that have all these labels ('provider="corp"')."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                   if line.split("{")[0].split(" ")[0] == name and all(label in line for label in labels))

    def readiness(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        data = json.loads(answer.read())
        connection.close()
        return answer.status, {c["name"]: c for c in data["checks"]}

    def request_until(self, status, *args, timeout=10, **options):
        """The answer of this status, as soon as what the test changed has reached the gateway; or the last other one."""
        deadline = time.monotonic() + timeout
        while True:
            answer = self.request(*args, **options)
            if answer[0] == status or time.monotonic() > deadline:
                return answer
            time.sleep(0.05)

    def new_key(self, *roles, **options):
        key = self.make_key(roles=roles or ("employee",), **options)
        deadline = time.monotonic() + 5
        while self.request("GET", "/v1/models", key=key)[0] != 200:
            tap.check(time.monotonic() < deadline, "a new key is not accepted")
            time.sleep(0.02)
        return key


def parse_events(data):
    """The events of a stream: (list of data objects, [DONE] seen, list of (name, object) of named events)"""
    events, named, done = [], [], False
    for block in data.decode().split("\n\n"):
        name, lines = None, []
        for line in block.split("\n"):
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                lines.append(line[6:])
        if not lines:
            continue
        text = "\n".join(lines)
        if text == "[DONE]":
            done = True
        elif name:
            named.append((name, json.loads(text)))
        else:
            tap.check(not done, "an event after [DONE]")
            events.append(json.loads(text))
    return events, done, named


def text_of(events):
    return "".join(e["choices"][0]["delta"].get("content", "") for e in events if e.get("choices"))


def finish_of(events):
    reasons = [e["choices"][0]["finish_reason"] for e in events if e.get("choices") and e["choices"][0]["finish_reason"]]
    return reasons[0] if len(reasons) == 1 else reasons

#!/usr/bin/env python3
"""What the gateway does when something it needs is away, full, expired, taken or wrong; reload and drain. Suite security."""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gateway_client import new_stack, parse_events, policy, stacks, tap, text_of  # noqa: E402
from tap import case, check, equal  # noqa: E402

keys = {}


def wait_for(what, happens, timeout=10):
    deadline = time.monotonic() + timeout
    while not happens():
        check(time.monotonic() < deadline, f"{what} did not happen within {timeout} s")
        time.sleep(0.05)


def start_fails(gw, *says):
    """The gateway must end by itself with a sentence; what it said."""
    try:
        gw.start_gateway(wait=20)
    except stacks.StackError as error:
        for text in says:
            check(text in str(error), f"{text!r} is not said: {error}")
        gw.end("gateway")
        return
    gw.end("gateway")
    raise AssertionError("it started")


# ---- while running ----


@case
def test_redis__away_the_limits_own_failure_mode_decides(gw):
    equal(gw.chat(keys["narrow"], max_tokens=1)[0], 200)
    gw.end("redis", signal.SIGKILL)
    wait_for("the loss of Redis to be seen", lambda: gw.chat(keys["narrow"], max_tokens=1)[0] == 503)
    status, headers, body = gw.chat(keys["narrow"], max_tokens=1)
    equal((status, body["error"]["code"]), (503, "limits_unavailable"))
    check("retry-after" in headers)
    equal(gw.chat(keys["employee"], max_tokens=1)[0], 200, "a limit that says open lets through")
    wait_for("the loss to be told", lambda: not gw.readiness()[1]["redis"]["ok"])
    equal(gw.readiness()[0], 200)
    gw.start_redis()
    wait_for("the return of Redis", lambda: gw.chat(keys["narrow"], max_tokens=1)[0] in (200, 429))


@case
def test_redis__that_hangs_is_answered_within_the_deadline(gw):
    pid = gw.processes["redis"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        status, _, body = gw.chat(keys["narrow"], max_tokens=1)
        equal((status, body["error"]["code"]), (503, "limits_unavailable"))
        check(time.monotonic() - started < 5, "it waited for a hanging Redis")
        equal(gw.chat(keys["employee"], max_tokens=1)[0], 200)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for("the return of Redis", lambda: gw.chat(keys["narrow"], max_tokens=1)[0] in (200, 429))


@case
def test_postgres__away_known_keys_work_and_the_journal_carries_on(gw):
    gw.wait_shipped()
    gw.stop_postgres(immediate=True)
    answers = [gw.chat(keys["employee"], max_tokens=1) for _ in range(3)]
    equal([a[0] for a in answers], [200, 200, 200])
    wait_for("the loss of Postgres to be seen", lambda: not gw.readiness()[1]["postgres"]["ok"])
    equal(gw.readiness()[0], 200)
    equal(gw.chat("gh_unknown", max_tokens=1)[0], 401)
    gw.start_postgres()
    gw.wait_shipped(30)
    listed = {row["request_id"] for row in gw.audit_rows()}
    for _, headers, _ in answers:
        check(headers["x-request-id"] in listed, "a request made meanwhile is not in Postgres")


@case
def test_reload__a_typo_keeps_the_old_policy_and_says_so(gw):
    file = gw.dir / "policy.yaml"
    good = file.read_text()
    file.write_text(good.replace("guards:", "gards:"))
    gw.processes["gateway"].send_signal(signal.SIGHUP)
    wait_for("the refusal to be logged", lambda: "policy.refused" in gw.log_tail("gateway", 2000))
    line = [json.loads(x) for x in gw.log_tail("gateway", 2000).splitlines() if '"policy.refused"' in x][-1]
    check("policy.yaml:" in line["detail"] and "gards" in line["detail"], line["detail"])
    equal(gw.chat(keys["employee"], max_tokens=1)[0], 200)
    file.write_text(good)


@case
def test_reload__new_policy_and_certificate_without_dropping_a_stream(gw):
    connection, answer = gw.open_stream(keys["employee"], "hello", model="mock-slow", timeout=30)
    first = answer.readline()
    file = gw.dir / "policy.yaml"
    old = file.read_text()
    file.write_text(old.replace("  demo: {description: local, routes", "  fresh: {routes: [{backend: local, model: demo}]}\n  demo: {description: local, routes"))
    serial = cert_serial(gw)
    for name in ("server.pem", "names"):
        (gw.dir / "certs" / name).unlink()
    subprocess.run([str(stacks.ROOT / "certs/make-dev-ca.sh"), str(gw.dir / "certs"), "localhost", "127.0.0.1", "::1"], check=True)
    gw.processes["gateway"].send_signal(signal.SIGHUP)
    wait_for("the new certificate", lambda: cert_serial(gw) != serial)
    wait_for("the new policy", lambda: gw.chat(keys["admin"], model="fresh", max_tokens=1)[0] == 200)
    events, done, _ = parse_events(first + answer.read())
    check(done and "mock provider" in text_of(events), "the stream went on to its end")
    connection.close()
    file.write_text(old)
    gw.processes["gateway"].send_signal(signal.SIGHUP)


def cert_serial(gw):
    import ssl
    with socket.create_connection(("127.0.0.1", gw.port), timeout=5) as raw:
        with gw.ssl_context().wrap_socket(raw, server_hostname="localhost") as tls:
            return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True))


@case
def test_drain__a_stream_ends_whole_and_nothing_new_is_taken(gw):
    connection, answer = gw.open_stream(keys["employee"], "hello", model="mock-slow", timeout=30)
    first = answer.readline()
    process = gw.processes["gateway"]
    process.send_signal(signal.SIGTERM)
    wait_for("the listener to close", lambda: stacks.port_free("127.0.0.1", gw.port) or refused(gw))
    events, done, _ = parse_events(first + answer.read())
    check(done and "mock provider" in text_of(events), "the stream was cut by the drain")
    connection.close()
    equal(process.wait(40), 0, "exit status after a drain")
    gw.processes.pop("gateway")
    gw.start_gateway()
    gw.wait_shipped()
    equal(gw.cli("audit", "verify", check=False).returncode, 0)


@case
def test_drain__cuts_what_is_too_late_whatever_it_was_doing(gw):
    import threading
    body = [json.dumps({"model": m, "messages": [{"role": "user", "content": "hello " * 50}]}) for m in ("demo", "external", "mock-slow")]

    def ask(i, over):
        while not over.is_set():
            connection = gw.connection(5)
            try:
                for _ in range(5):
                    connection.request("POST", "/v1/chat/completions", body[i % 3], {"authorization": f"Bearer {keys['employee']}"})
                    connection.getresponse().read()
            except OSError:
                time.sleep(0.01)
            except Exception as error:  # half an answer
                check(type(error).__module__ == "http.client", error)
            finally:
                connection.close()

    gw.end("gateway")
    gw.extra_config["drain_timeout_ms"] = 0
    gw.write_config()
    for _ in range(4):
        process = gw.start_gateway()
        over = threading.Event()
        threads = [threading.Thread(target=ask, args=(i, over)) for i in range(12)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        equal(process.wait(40), 0, "exit status")
        over.set()
        for thread in threads:
            thread.join()
        gw.processes.pop("gateway")
    del gw.extra_config["drain_timeout_ms"]
    gw.write_config()
    gw.start_gateway()
    gw.wait_shipped()
    equal(gw.cli("audit", "verify", check=False).returncode, 0)


def refused(gw):
    try:
        socket.create_connection(("127.0.0.1", gw.port), timeout=1).close()
        return False
    except OSError:
        return True


# ---- at start ----


@case
def test_start__postgres_away_says_what_to_do(gw):
    gw.end("gateway")
    gw.stop_postgres()
    start_fails(gw, "is Postgres running")
    gw.start_postgres()
    gw.start_gateway()


@case
def test_start__redis_away_serves_by_the_failure_modes(gw):
    gw.end("gateway")
    gw.end("redis")
    gw.start_gateway()
    equal(gw.chat(keys["employee"], max_tokens=1)[0], 200)
    equal(gw.chat(keys["narrow"], max_tokens=1)[0], 503)
    gw.start_redis()
    wait_for("Redis to be found", lambda: gw.chat(keys["narrow"], max_tokens=1)[0] in (200, 429))


@case
def test_start__port_taken(gw):
    gw.end("gateway")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", gw.port))
        taken.listen()
        done = gw.cli("serve", check=False, timeout=30)
    equal(done.returncode, 1)
    check(str(gw.port) in done.stderr and "the server cannot start" in done.stderr, done.stderr)
    gw.start_gateway()


@case
def test_start__expired_certificate(gw):
    gw.end("gateway")
    certs = gw.dir / "certs"
    shutil.copy(certs / "server.pem", certs / "server.good")
    expired = ["openssl", "x509", "-req", "-in", str(certs / "e.csr"), "-CA", str(certs / "ca.pem"), "-CAkey", str(certs / "ca.key"), "-set_serial", "7",
               "-out", str(certs / "server.pem")]
    subprocess.run(["openssl", "req", "-new", "-key", str(certs / "server.key"), "-subj", "/CN=localhost", "-out", str(certs / "e.csr")], check=True,
                   stderr=subprocess.DEVNULL)
    subprocess.run([*expired, "-days", "-1"], check=True, stderr=subprocess.DEVNULL)
    start_fails(gw, "expired")
    os.replace(certs / "server.good", certs / "server.pem")
    gw.start_gateway()


@case
def test_start__key_file_open_to_others(gw):
    gw.end("gateway")
    os.chmod(gw.dir / "keys/kek", 0o644)
    start_fails(gw, "chmod 600")
    os.chmod(gw.dir / "keys/kek", 0o600)
    gw.start_gateway()


@case
def test_start__configuration_and_policy_errors_name_the_place(gw):
    gw.end("gateway")
    conf = gw.dir / "gatehouse.conf"
    good = conf.read_text()
    conf.write_text(good + "lisen_port = 1\n")
    start_fails(gw, "gatehouse.conf:", "unknown option")
    conf.write_text(good)
    file = gw.dir / "policy.yaml"
    text = file.read_text()
    file.write_text(text.replace("max_class: secret", "max_clas: secret", 1))
    start_fails(gw, "policy.yaml:", "max_clas")
    file.write_text(text)
    gw.start_gateway()


@case
def test_start__model_files_that_are_none(gw):
    gw.end("gateway")
    file = gw.dir / "policy.yaml"
    text = file.read_text()
    model = gw.model.read_bytes()
    hostile = gw.dir / "hostile.gguf"
    for data in (b"", b"GGUF", model[:1000], model[: len(model) // 2], b"GGUF\x63\0\0\0" + model[8:], b"not a model at all" * 100,
                 model[:16] + b"\xff" * 8 + model[24:]):
        hostile.write_bytes(data)
        file.write_text(text.replace(str(gw.model), str(hostile)))
        start_fails(gw, "the policy cannot be loaded", "backend local")
    file.write_text(text)
    gw.start_gateway()


# ---- a full disk under the journal ----


@case
def test_journal__a_full_disk_is_503_and_recovers(gw):
    small = pathlib.Path(tempfile.mkdtemp(prefix="gh-small-"))
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(small)],
                                                   stderr=subprocess.DEVNULL).returncode == 0
    if not mounted:
        small.rmdir()
        raise tap.Skip("a small file system cannot be mounted here (root is needed)")
    conf = gw.dir / "gatehouse.conf"
    good = conf.read_text()
    gw.end("gateway")
    try:
        conf.write_text(good.replace(f"journal_dir = {gw.dir / 'journal'}", f"journal_dir = {small}/journal").replace("instance = gw1", "instance = gw2"))
        gw.start_gateway()
        equal(gw.chat(keys["employee"], max_tokens=1)[0], 200)
        ballast = small / "ballast"
        fd = os.open(ballast, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            while os.write(fd, b"x" * 4096) > 0:
                pass
        except OSError:
            pass
        os.close(fd)
        for _ in range(60):
            before = len(gw.mock_requests())
            status, _, body = gw.chat(keys["employee"], "x" * 3000, model="external-only", max_tokens=1)
            if status == 503:
                break
        equal((status, body["error"]["code"]), (503, "audit_unavailable"))
        equal(len(gw.mock_requests()), before, "what could not be recorded was not sent")
        equal(gw.readiness()[0], 503)
        ballast.unlink()
        wait_for("the journal to take records again", lambda: gw.chat(keys["employee"], max_tokens=1)[0] == 200, 20)
        wait_for("to be ready again", lambda: gw.readiness()[0] == 200, 20)
        gw.wait_shipped(20)
        equal(gw.cli("audit", "verify", check=False).returncode, 0)
    finally:
        gw.end("gateway")
        conf.write_text(good)
        subprocess.run(["umount", str(small)], check=False)
        small.rmdir()
    gw.start_gateway()


def main():
    check(policy())
    with new_stack() as gw:
        for role in ("employee", "admin", "narrow"):
            keys[role] = gw.new_key(role, owner=f"owner-{role}")
        code = tap.run(gw)
    return 1 if gw.sanitizer_report else code


sys.exit(main())

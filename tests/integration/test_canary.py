#!/usr/bin/env python3
"""What a person sends, proves itself with and is answered stands nowhere in clear: logs, metrics, Redis, the journal, Postgres. Suite security."""
import base64
import http.client
import json
import pathlib
import secrets
import socket
import subprocess
import sys
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gateway_client import new_stack, stacks, tap, text_of  # noqa: E402
from tap import case, check, equal  # noqa: E402

CHAT = "/v1/chat/completions"


def new_canary():
    return "canary" + secrets.token_hex(12)


prompt, blocked, stop, header, label, field, owner = (new_canary() for _ in range(7))
hidden = {"prompt": prompt, "blocked prompt": blocked, "stop string": stop, "header": header, "label": label, "field name": field}


def ask(gw, key, text, model, **fields):
    return gw.chat(key, text, model=model, headers={"x-canary": header, "user-agent": header}, **fields)


def leave(gw, key, model, wait):
    connection, answer = gw.open_stream(key, f"{prompt} {prompt} " * 4, model=model)
    equal(answer.status, 200)
    answer.read(wait)
    answer.close()
    connection.close()


# ---- what a call can come to; each leaves the canaries where the gateway handles them ----


@case
def test_calls__answered_whole_and_streamed(gw):
    for model in ("mock-echo", "demo"):
        for stream in (False, True):
            status, _, got = ask(gw, gw.key, f"Say {prompt} again", model, stream=stream, stop=[stop])
            equal(status, 200, model)
            text = text_of(got[0]) if stream else got["choices"][0]["message"]["content"]
            check(model != "mock-echo" or prompt in text, "the answer holds the canary")


@case
def test_calls__refused(gw):
    key_block = f"-----BEGIN PRIVATE KEY-----\n{blocked}AASC\n-----END PRIVATE KEY-----"
    body = {"model": "demo", "messages": [{"role": "user", "content": prompt}]}
    equal(ask(gw, gw.key, f"look: {key_block}", "demo")[0], 403)
    equal(ask(gw, gw.key, f"CONFIDENTIAL {prompt}", "external-only")[0], 403)
    equal(gw.request("POST", CHAT, body, gw.key, {"x-data-class": label})[0], 400)
    equal(gw.request("POST", CHAT, {**body, field: 1}, gw.key)[0], 400)
    equal(gw.request("POST", CHAT, json.dumps(body)[:-1], gw.key)[0], 400)
    equal(gw.request("POST", CHAT, body, gw.key + "x")[0], 401)
    equal(gw.request("POST", CHAT, body, headers={"cookie": f"__Host-gatehouse={header}"})[0], 401)
    equal(gw.request("GET", f"/{prompt}?{prompt}", key=gw.key)[0], 404)
    equal(gw.request("GET", f"/auth/link?token={prompt}")[0], 400)


@case
def test_calls__providers_that_fail(gw):
    for fault in ("status-500", "status-401", "cut", "error-event", "bad-json", "no-finish", "html"):
        for stream in (False, True):
            ask(gw, gw.key, f"{prompt} and {prompt}", f"mock-{fault}", stream=stream)
    equal(ask(gw, gw.key, "word " * 6000 + prompt, "demo")[0], 400)


@case
def test_calls__clients_that_leave(gw):
    leave(gw, gw.key, "mock-slow", 50)
    leave(gw, gw.key, "demo", 1)
    gw.wait_idle()


@case
def test_calls__by_a_session(gw):
    token = urllib.parse.parse_qs(urllib.parse.urlparse(gw.admin_link()).query)["token"][0]
    headers = {"origin": gw.url, "sec-fetch-site": "same-origin", "content-type": "application/x-www-form-urlencoded"}
    status, got, _ = gw.request("POST", "/auth/link", f"token={token}", headers=headers)
    equal(status, 303)
    cookie = got["set-cookie"].split(";")[0]
    session = json.loads(gw.request("GET", "/auth/session", headers={"cookie": cookie})[2])
    body = {"model": "mock-echo", "messages": [{"role": "user", "content": prompt}], "stream": True}
    good = {"cookie": cookie, "origin": gw.url, "x-csrf-token": session["csrf_token"]}
    equal(gw.request("POST", CHAT, body, headers=good)[0], 200)
    for missing, wrong in (("x-csrf-token", None), ("origin", "https://elsewhere.example"), ("origin", None)):
        sent = {k: v for k, v in {**good, missing: wrong}.items() if v is not None}
        equal(gw.request("POST", CHAT, body, headers=sent)[0], 403, f"{missing}: {wrong}")
    hidden.update({"link token": token, "session cookie": cookie.split("=", 1)[1], "CSRF token": session["csrf_token"]})


# ---- where they must not stand ----


def forms(secret):
    """A text as it is, in hexadecimal (pg_dump of bytea) and in base64 at each of its three offsets."""
    raw = secret.encode()
    coded = [base64.b64encode(b"\0" * shift + raw)[4 if shift else 0:-4] for shift in range(3)]
    return [raw, raw.hex().encode(), *coded]


def search(where, data):
    check(len(data) > 0, f"{where} is empty: nothing was looked at")
    for name, secret in hidden.items():
        for form in forms(secret):
            at = data.find(form)
            check(at < 0, f"the {name} stands in {where}: ...{data[max(0, at - 60):at + 20]!r}")


def redis(gw, *words):
    """One command, its answer as it came."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(str(gw.socket_dir / "redis.sock"))
        s.sendall(b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(w), w) for w in words), b"*1\r\n$4\r\nQUIT\r\n"]))
        got = b""
        while more := s.recv(65536):
            got += more
    return got


@case
def test_canary__is_really_in_what_was_recorded(gw):
    """The twin of the searches: with the key the content is there, so that not finding it means something."""
    gw.wait_shipped()
    rows = gw.audit_rows()
    shown = "".join(gw.cli("audit", "show", r["request_id"], "--content").stdout for r in rows if r["request_id"] and r["status"] == "ok")
    check(prompt in shown and stop in shown, "the audit does not hold the prompt")
    check(blocked not in shown, "what was blocked is not kept")


@case
def test_canary__logs(gw):
    for log in sorted(gw.dir.glob("*.log")):
        if log.name != "mock.log" and log.stat().st_size > 0:
            search(log.name, log.read_bytes())
    check(owner not in (gw.dir / "gateway.log").read_text(), "the owner's name stands in the log")


@case
def test_canary__metrics_and_readiness(gw):
    for path in ("/metrics", "/readyz"):
        connection = http.client.HTTPConnection("127.0.0.1", gw.admin_port, timeout=10)
        connection.request("GET", path)
        page = connection.getresponse().read()
        connection.close()
        search(path, page)
        check(owner.encode() not in page, f"the owner's name stands in {path}")


@case
def test_canary__redis(gw):
    gw.chat(gw.narrow_key, prompt, max_tokens=1)
    keys = [line for line in redis(gw, b"KEYS", b"*").split(b"\r\n") if line.startswith(b"gh:")]
    check(keys, "no limit stands in Redis")
    data = b"\n".join(keys + [redis(gw, b"GET", key) for key in keys])
    search("Redis", data)
    check(owner.encode() not in data, "the owner's name stands in Redis")


@case
def test_canary__journal(gw):
    files = [f for folder in gw.dir.glob("journal*") for f in folder.rglob("*") if f.is_file()]
    search("the journal", b"".join(f.read_bytes() for f in files))


@case
def test_canary__every_table(gw):
    gw.wait_shipped()
    dump = subprocess.run([stacks.find_postgres("pg_dump"), "-h", str(gw.socket_dir / "pg"), "-U", "postgres", "--data-only", "gatehouse"],
                          stdout=subprocess.PIPE, check=True, cwd="/").stdout
    check(dump.count(b"\nCOPY ") >= 6, "the dump has too few tables")
    search("Postgres", dump)
    # the owner's name is allowed where it belongs: keys, sessions, the mapping
    for table in dump.split(b"\nCOPY ")[1:]:
        name = table.split(b" ", 1)[0].decode()
        data = table.split(b"\n\\.\n", 1)[0]
        found = [f for f in forms(owner)[:2] if f in data]
        check(not found or name.startswith("identity.") or "mapping" in name, f"the owner's name stands in {name}")


@case
def test_canary__files_of_the_database(gw):
    """The write-ahead log and the tables themselves: also what was written and taken back."""
    files = [f for f in (gw.dir / "postgres").rglob("*") if f.is_file() and f.stat().st_size > 0]
    check(files, "no database files")
    for file in files:
        search(str(file.relative_to(gw.dir)), file.read_bytes())


@case
def test_canary__the_process(gw):
    pid = gw.processes["gateway"].pid
    limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    equal(core.split()[4:6], ["0", "0"], "core dumps")
    search("its command line", pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())
    check(not list(gw.dir.glob("**/core*")), "a core file")


def main():
    with new_stack() as gw:
        gw.key, gw.narrow_key = gw.new_key("employee", owner=owner), gw.new_key("narrow", owner=owner)
        hidden["API key"] = gw.key
        code = tap.run(gw)
    return 1 if gw.sanitizer_report else code


sys.exit(main())

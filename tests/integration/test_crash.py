#!/usr/bin/env python3
"""The audit's promise under violence: Postgres stopped at once, the gateway killed in mid-stream, records tampered with. Suite audit."""
import json
import pathlib
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gateway_client import new_stack, tap  # noqa: E402
from tap import case, check, equal  # noqa: E402

state = {}


def answered_in_background(gw, key, ids, stop):
    """Asks again and again; keeps the request ids of everything that was answered with 200."""
    while not stop.is_set():
        try:
            status, headers, _ = gw.chat(key, "What are the data classes?", max_tokens=12, timeout=10)
        except Exception:  # the connection dies with the gateway
            time.sleep(0.05)
            continue
        if status == 200:
            ids.append(headers["x-request-id"])


@case
def test_kill9__every_answered_request_is_in_the_audit(gw):
    ids, stop = [], threading.Event()
    workers = [threading.Thread(target=answered_in_background, args=(gw, state["key"], ids, stop), daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    try:
        kill_in_mid_stream(gw, state["key"], ids)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    check(len(ids) > 5, f"only {len(ids)} requests were answered")
    gw.start_postgres()
    gw.start_gateway()
    gw.wait_shipped()
    seen = {row["request_id"] for row in gw.audit_rows()}
    lost = [i for i in ids if i not in seen]
    equal(lost, [], f"of {len(ids)} answered requests these are not in the audit")
    equal(gw.chat(state["key"], max_tokens=2)[0], 200, "it serves again")


def wait_for_answers(ids, n, what):
    deadline = time.monotonic() + 60
    while len(ids) < n:
        check(time.monotonic() < deadline, f"{what}: {len(ids)} answers, {n} were awaited")
        time.sleep(0.05)


def kill_in_mid_stream(gw, key, ids):
    wait_for_answers(ids, 4, "with Postgres")
    gw.stop_postgres(immediate=True)
    wait_for_answers(ids, len(ids) + 4, "while Postgres is away: the journal carries on")
    equal(gw.readiness()[0], 200, "ready without Postgres")
    connection, answer = gw.open_stream(key, "hello", model="mock-slow")
    state["cut"] = answer.getheader("x-request-id")
    ids.append(state["cut"])
    check(answer.readline().startswith(b"data: "), "a stream is under way")
    gw.end("gateway", signal.SIGKILL)
    connection.close()


@case
def test_verify__says_intact_after_all_that(gw):
    gw.wait_shipped()
    done = gw.cli("audit", "verify", check=False)
    equal(done.returncode, 0, done.stdout + done.stderr)
    check("intact" in done.stdout, done.stdout)


@case
def test_list__a_cut_call_has_no_outcome(gw):
    rows = gw.audit_rows(state["cut"])
    check(rows, "the cut call is listed")
    check("no outcome" in json.dumps(rows), json.dumps(rows))


@case
def test_verify__names_the_record_whose_byte_was_flipped(gw):
    """As the database's owner could: past the triggers."""
    columns = gw.psql("select string_agg(column_name, ' ') from information_schema.columns where table_schema = 'audit' and table_name = 'records' "
                      "and data_type = 'bytea'", database="gatehouse").split()
    check("canonical" in columns, columns)
    seq = gw.psql("select max(seq) / 2 from audit.records where instance = 'gw1'", database="gatehouse")
    for column in columns:
        flip = (f"set session_replication_role = replica; update audit.records set {column} = set_byte({column}, octet_length({column}) / 2, "
                f"get_byte({column}, octet_length({column}) / 2) # 1) where instance = 'gw1' and seq = {seq} and {column} is not null "
                "and octet_length(" + column + ") > 0 returning 1")
        if gw.psql(flip, database="gatehouse") is True:
            continue  # this record has none
        done = gw.cli("audit", "verify", check=False)
        equal(done.returncode, 1, f"{column}: {done.stdout}{done.stderr}")
        check(f"gw1:{seq}" in done.stdout + done.stderr, f"{column}: {done.stdout}{done.stderr}")
        gw.psql(flip, database="gatehouse")
        equal(gw.cli("audit", "verify", check=False).returncode, 0, f"{column} put back")


@case
def test_verify__notices_a_deleted_record(gw):
    seq = gw.psql("select max(seq) / 3 from audit.records where instance = 'gw1'", database="gatehouse")
    gw.psql(f"set session_replication_role = replica; delete from audit.records where instance = 'gw1' and seq = {seq}", database="gatehouse")
    done = gw.cli("audit", "verify", check=False)
    equal(done.returncode, 1)
    check(f"gw1:{seq}" in done.stdout + done.stderr or "missing" in done.stdout + done.stderr, done.stdout + done.stderr)


def main():
    with new_stack() as gw:
        state["key"] = gw.new_key("employee", owner="crash")
        code = tap.run(gw)
    return 1 if gw.sanitizer_report else code


sys.exit(main())

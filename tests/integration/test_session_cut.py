#!/usr/bin/env python3
"""Access that ends while an answer is on its way: the stream stops within a second, says why, and nothing goes on behind it. Suite security."""
import json
import pathlib
import sys
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gateway_client import new_stack, parse_events, tap, text_of  # noqa: E402
from sso_browser import WITHIN_S, Browser, open_stream, wait_end  # noqa: E402
from tap import case, check, equal  # noqa: E402


def signed_in(gw):
    """A browser that has signed in by a link of its own."""
    browser = Browser(gw)
    link = gw.admin_link()
    token = urllib.parse.parse_qs(urllib.parse.urlsplit(link).query)["token"][0]
    page = browser.fetch(f"{gw.url}/auth/link", "POST", urllib.parse.urlencode({"token": token}),
                         {"content-type": "application/x-www-form-urlencoded", "origin": gw.url, "sec-fetch-site": "same-origin"})
    equal(page.status, 303, page)
    check(browser.who() is not None, "the session is known")
    return browser


def second_client(browser):
    """The same cookie in another client, as a second tab has it."""
    other = Browser(browser.stack)
    other.cookies = dict(browser.cookies)
    check(other.who() is not None)
    return other


def outcome(gw, request_id):
    deadline = time.monotonic() + 15
    while True:
        lines = gw.cli("audit", "show", request_id, "--json", check=False).stdout.splitlines()
        rows = [row for row in (json.loads(line) for line in lines if line.startswith("{")) if row["kind"] == "outcome"]
        if rows:
            return rows[0]
        check(time.monotonic() < deadline, "no outcome is recorded")
        time.sleep(0.1)


def was_cut(gw, answer, since, code, idle=True):
    """The rest of a stream that must end by now with one error event; and what is recorded of it."""
    ended, data = wait_end(answer)
    check(ended - since < WITHIN_S, f"the stream went on for {ended - since:.2f} s")
    events, done, _ = parse_events(data)
    check(not done, "[DONE] after a cut")
    equal(events[-1].get("error", {}).get("code"), code, "the last event")
    equal([e for e in events[:-1] if "error" in e], [], "earlier errors")
    if idle:
        gw.wait_idle()
    row = outcome(gw, answer.getheader("x-request-id"))
    equal((row["status"], row["error_code"]), ("cut", code))
    return row, events


@case
def test_cut__logout_in_another_client_ends_the_stream(gw):
    browser = signed_in(gw)
    other = second_client(browser)
    connection, answer = open_stream(gw, browser)
    since = time.monotonic()
    equal(other.api("POST", "/auth/logout").status, 204)
    row, events = was_cut(gw, answer, since, "session_ended")
    check(int(row["released_bytes"]) >= len(text_of(events[:-1])), "what was sent before is recorded")
    connection.close()
    equal(browser.fetch(f"{gw.url}/auth/session").status, 401)


@case
def test_cut__the_engine_stops_writing_and_its_queue_is_left(gw):
    """More answers than the engine makes at once: what writes and what waits for a place are both stopped."""
    browser = signed_in(gw)
    other = second_client(browser)
    cookie = browser.session_cookie()
    body = json.dumps({"model": "demo", "stream": True, "temperature": 2.0, "max_tokens": 700,
                       "messages": [{"role": "user", "content": "Count from 1 to 500, one number per line."}]})
    connections = [gw.connection() for _ in range(8)]  # no more than wait in the queue, if none is taken yet
    for connection in connections:
        connection.request("POST", "/v1/chat/completions", body, {**browser.own_headers(), "cookie": f"{cookie.name}={cookie.value}"})
    since = time.monotonic()
    equal(other.api("POST", "/auth/logout").status, 204)
    cut = 0
    for connection in connections:
        answer = connection.getresponse()
        data = answer.read()
        check(b"[DONE]" in data or b"session_ended" in data, data[-300:])
        cut += b"session_ended" in data
        connection.close()
    check(time.monotonic() - since < WITHIN_S, f"{time.monotonic() - since:.2f} s")
    check(cut > 0, "no answer was cut")
    gw.wait_idle(2)


@case
def test_cut__other_sessions_of_the_same_person_go_on(gw):
    first, second = signed_in(gw), signed_in(gw)
    cut, whole = open_stream(gw, first), open_stream(gw, second)
    since = time.monotonic()
    equal(second_client(first).api("POST", "/auth/logout").status, 204)
    was_cut_quickly, _ = wait_end(cut[1])
    check(was_cut_quickly - since < WITHIN_S)
    _, rest = wait_end(whole[1])
    check(rest.endswith(b"data: [DONE]\n\n"), rest[-200:])
    for connection, _ in (cut, whole):
        connection.close()
    equal(outcome(gw, whole[1].getheader("x-request-id"))["status"], "ok")
    equal(second.api("POST", "/auth/logout").status, 204)


@case
def test_cut__a_request_without_the_csrf_token_ends_nothing(gw):
    browser = signed_in(gw)
    connection, answer = open_stream(gw, browser)
    other = second_client(browser)
    other.csrf = "0" * 64
    equal(other.api("POST", "/auth/logout").status, 403)
    _, rest = wait_end(answer)
    check(rest.endswith(b"data: [DONE]\n\n"), rest[-200:])
    connection.close()
    equal(second_client(browser).api("POST", "/auth/logout").status, 204)


@case
def test_cut__signing_in_anew_ends_the_stream_of_the_old_session(gw):
    browser = signed_in(gw)
    connection, answer = open_stream(gw, browser)
    token = urllib.parse.parse_qs(urllib.parse.urlsplit(gw.admin_link()).query)["token"][0]
    since = time.monotonic()
    page = browser.fetch(f"{gw.url}/auth/link", "POST", urllib.parse.urlencode({"token": token}),
                         {"content-type": "application/x-www-form-urlencoded", "origin": gw.url, "sec-fetch-site": "same-origin"})
    equal(page.status, 303, page)
    was_cut(gw, answer, since, "session_ended")
    connection.close()


@case
def test_cut__ended_from_a_list(gw):
    for path in ("/auth/sessions", "/auth/admin/sessions"):  # one's own, the administrator's view
        browser, other = signed_in(gw), signed_in(gw)
        mine = [s["id"] for s in browser.api("GET", "/auth/sessions").json()["sessions"] if s["current"]]
        equal(len(mine), 1)
        check(mine[0] in [s["id"] for s in other.api("GET", path).json()["sessions"]], "it is listed")
        connection, answer = open_stream(gw, browser)
        since = time.monotonic()
        equal(other.api("DELETE", f"{path}/{mine[0]}").status, 204)
        was_cut(gw, answer, since, "session_ended")
        connection.close()
        check(other.who() is not None, "who ended it goes on")
        equal(other.api("POST", "/auth/logout").status, 204)


@case
def test_cut__a_revoked_keys_stream_ends_and_no_other(gw):
    key, other = gw.new_key(owner="one"), gw.new_key(owner="one")
    story = "Tell me a long story, " + "word " * 300
    streams = [gw.open_stream(k, story, model="mock-slow") for k in (key, key, other)]
    for _, answer in streams:
        check(answer.status == 200 and answer.readline(), "the stream has begun")
    since = time.monotonic()
    gw.cli("key", "revoke", key.split("_")[1])
    for _, answer in streams[:2]:
        was_cut(gw, answer, since, "revoked_api_key", idle=False)
    _, rest = wait_end(streams[2][1])
    check(rest.endswith(b"data: [DONE]\n\n"), rest[-200:])
    for connection, _ in streams:
        connection.close()
    equal([gw.request("GET", "/v1/models", key=k)[0] for k in (key, other)], [401, 200])
    gw.wait_idle()


@case
def test_cut__a_deleted_keys_stream_ends(gw):
    """As after a restore of an older database."""
    key = gw.new_key(owner="two")
    connection, answer = gw.open_stream(key, "Tell me a long story, " + "word " * 300, model="mock-slow")
    check(answer.status == 200 and answer.readline(), "the stream has begun")
    since = time.monotonic()
    gw.psql(f"delete from identity.api_keys where key_id = '{key.split('_')[1]}'", database="gatehouse")
    was_cut(gw, answer, since, "revoked_api_key")
    connection.close()


@case
def test_cut__before_the_first_text(gw):
    """A call that waits for its provider has sent nothing yet: it is an ordinary 401."""
    browser = signed_in(gw)
    other = second_client(browser)
    cookie = browser.session_cookie()
    for stream in (True, False):
        connection = gw.connection()
        body = {"model": "late", "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
        begun = gw.metric("gatehouse_audit_intents_total") + 1
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {**browser.own_headers(), "cookie": f"{cookie.name}={cookie.value}"})
        gw.wait_metric("gatehouse_audit_intents_total", begun)
        since = time.monotonic()
        equal(other.api("POST", "/auth/logout").status, 204)
        answer = connection.getresponse()
        data = json.loads(answer.read())
        check(time.monotonic() - since < WITHIN_S)
        equal((answer.status, data["error"]["code"]), (401, "session_ended"))
        connection.close()
        gw.wait_idle()
        equal(outcome(gw, answer.getheader("x-request-id"))["status"], "cut")
        browser = signed_in(gw)
        other, cookie = second_client(browser), browser.session_cookie()


@case
def test_cut__many_streams_of_one_session_at_once(gw):
    browser = signed_in(gw)
    streams = [open_stream(gw, browser) for _ in range(8)]
    since = time.monotonic()
    equal(second_client(browser).api("POST", "/auth/logout").status, 204)
    for connection, answer in streams:
        ended, data = wait_end(answer)
        check(ended - since < WITHIN_S and b"session_ended" in data, data[-200:])
        connection.close()
    gw.wait_idle()


def main():
    with new_stack() as gw:
        code = tap.run(gw)
    return 1 if gw.sanitizer_report else code


sys.exit(main())

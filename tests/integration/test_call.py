#!/usr/bin/env python3
"""The way of a request, end to end: answers, errors, routes, guard, provider faults. Suite security (refusals) and everything between."""
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gateway_client import FAULTS, finish_of, new_stack, tap, text_of  # noqa: E402
from tap import case, check, equal  # noqa: E402

CARD = "4111 1111 1111 1111"
keys = {}


def refused(answer, status, code, param="(any)"):
    equal(answer[0], status, "status")
    error = answer[2]["error"] if isinstance(answer[2], dict) else json.loads(answer[2])["error"]
    equal(error["code"], code, "code")
    check(set(error) == {"message", "type", "param", "code"}, f"error fields {sorted(error)}")
    check(len(error["message"]) > 10 and error["message"].rstrip()[-1] in ".!", f"a sentence: {error['message']!r}")
    if param != "(any)":
        equal(error["param"], param, "param")
    return error


# ---- answers ----


@case
def test_chat__answers_whole_with_usage(gw):
    status, headers, body = gw.chat(keys["employee"])
    equal(status, 200)
    equal(body["object"], "chat.completion")
    equal(body["model"], "demo")
    choice = body["choices"][0]
    equal((choice["index"], choice["message"]["role"], choice["finish_reason"]), (0, "assistant", "stop"))
    check(len(choice["message"]["content"]) > 5)
    usage = body["usage"]
    check(usage["prompt_tokens"] > 5 and usage["completion_tokens"] > 2)
    equal(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
    equal(headers["x-gatehouse-class"], "internal")
    equal(headers["x-gatehouse-route"], "local")
    check(len(headers["x-request-id"]) == 26)


@case
def test_chat__stream_is_the_same_text_as_the_whole(gw):
    _, _, whole = gw.chat(keys["employee"], "How do I create an API key?")
    status, headers, (events, done, named) = gw.chat(keys["employee"], "How do I create an API key?", stream=True)
    equal(status, 200)
    check(headers["content-type"].startswith("text/event-stream"))
    equal(text_of(events), whole["choices"][0]["message"]["content"])
    equal(finish_of(events), "stop")
    check(done and not named, "a plain client gets [DONE] and no event of ours")
    equal(events[0]["choices"][0]["delta"]["role"], "assistant")
    check(all("usage" not in e for e in events), "no usage unless asked")
    check(len({e["id"] for e in events}) == 1)


@case
def test_chat__usage_in_a_stream_when_asked(gw):
    _, _, (events, done, _) = gw.chat(keys["employee"], stream=True, stream_options={"include_usage": True})
    check(done)
    equal(events[-1]["choices"], [])
    check(events[-1]["usage"]["completion_tokens"] > 2)
    check(all(e["usage"] is None for e in events[:-1]))


@case
def test_chat__max_tokens_ends_with_length(gw):
    _, _, body = gw.chat(keys["employee"], max_tokens=3)
    equal(body["choices"][0]["finish_reason"], "length")
    equal(body["usage"]["completion_tokens"], 3)


@case
def test_chat__stop_string_is_not_sent(gw):
    _, _, whole = gw.chat(keys["employee"])
    word = whole["choices"][0]["message"]["content"].split()[2]
    _, _, body = gw.chat(keys["employee"], stop=[word])
    text = body["choices"][0]["message"]["content"]
    check(word not in text and whole["choices"][0]["message"]["content"].startswith(text))
    equal(body["choices"][0]["finish_reason"], "stop")


@case
def test_chat__same_seed_same_answer(gw):
    one, two = (gw.chat(keys["employee"], temperature=1.5, seed=7)[2]["choices"][0]["message"]["content"] for _ in range(2))
    equal(one, two)


@case
def test_chat__own_events_for_who_understands_them(gw):
    _, _, (events, done, named) = gw.chat(keys["employee"], stream=True, headers={"x-gatehouse-events": "1"})
    check(done and named[0][0] == "gatehouse")
    equal(named[0][1]["class"], "internal")
    equal(named[0][1]["route_kind"], "engine")


@case
def test_chat__content_parts_and_null_fields(gw):
    body = {"model": "demo", "messages": [{"role": "developer", "content": "Be brief."},
                                          {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "!"}]}],
            "temperature": 0, "stop": None, "tools": None, "seed": None, "n": 1, "user": "someone", "response_format": {"type": "text"}}
    status, _, _ = gw.request("POST", "/v1/chat/completions", body, keys["employee"])
    equal(status, 200)
    # an SDK's own answer, given back as the next question's history
    said = {"role": "assistant", "content": "Hi.", "refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": None}
    for extra in ({}, {"annotations": [], "tool_calls": []}):
        body["messages"] = [{"role": "user", "content": "Hello"}, {**said, **extra}, {"role": "user", "content": "And?"}]
        equal(gw.request("POST", "/v1/chat/completions", {**body, "max_tokens": 1}, keys["employee"])[0], 200)


@case
def test_models__lists_only_what_the_caller_may_use(gw):
    names = {role: {m["id"] for m in json.loads(gw.request("GET", "/v1/models", key=keys[role])[2])["data"]} for role in keys}
    check("reserved" in names["admin"] and "reserved" not in names["employee"])
    equal(names["narrow"], {"demo"})
    status, _, body = gw.request("GET", "/v1/models/demo", key=keys["narrow"])
    equal((status, json.loads(body)["id"]), (200, "demo"))
    refused(gw.request("GET", "/v1/models/reserved", key=keys["narrow"]), 404, "model_not_found")
    refused(gw.request("GET", "/v1/models/no%2Fsuch%20one", key=keys["narrow"]), 404, "model_not_found")
    refused(gw.request("GET", "/v1/models"), 401, "missing_credentials")


# ---- refusals: credentials and bodies ----


@case
def test_identify__refusals(gw):
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    good = keys["employee"]
    broken = good[:-8] + ("A" if good[-8] != "A" else "B") + good[-7:]
    refused(gw.request("POST", "/v1/chat/completions", body), 401, "missing_credentials")
    for key in ("nonsense", broken, good + "x", "gh_", good[:20]):
        refused(gw.request("POST", "/v1/chat/completions", body, key), 401, "invalid_api_key")
    refused(gw.request("POST", "/v1/chat/completions", body, good, {"x-api-key": good}), 401, "invalid_api_key")
    for name in ("x-api-key", "api-key"):
        equal(gw.request("POST", "/v1/chat/completions", body, headers={name: good})[0], 200)


@case
def test_identify__expired_and_revoked(gw):
    short = gw.new_key("employee", owner="short", expires="1h")
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    equal(gw.request("POST", "/v1/chat/completions", body, short)[0], 200)
    gw.psql("update identity.api_keys set expires_at = now() - interval '1 second' where subject = 'short'", database="gatehouse")
    refused(gw.request_until(401, "POST", "/v1/chat/completions", body, short), 401, "expired_api_key")
    key = gw.new_key("employee", owner="gone")
    key_id = next(r["key_id"] for r in json.loads(gw.cli("key", "list", "--json").stdout) if r["key_id"] in key)
    equal(gw.request("POST", "/v1/chat/completions", body, key)[0], 200)
    gw.cli("key", "revoke", key_id)
    refused(gw.request_until(401, "POST", "/v1/chat/completions", body, key), 401, "revoked_api_key")


@case
def test_parse__refusals(gw):
    user = {"role": "user", "content": "hi"}
    base = {"model": "demo", "messages": [user]}
    table = [
        (b"", "invalid_json"), (b"{", "invalid_json"), (b"[]", "invalid_json"), (b'"x"', "invalid_json"), (b"{}", "missing_field"),
        (b'{"model":"demo","model":"x","messages":[{"role":"user","content":"hi"}]}', "invalid_json"),
        (b'{"model":"demo","messages":[{"role":"user","role":"system","content":"hi"}]}', "invalid_json"),
        (b'{"model":"demo","messages":[{"role":"user","content":"\xff\xfe"}]}', "invalid_json"),
        (b'{"model":"demo","messages":[{"role":"user","content":"\\ud800"}]}', "invalid_json"),
        (b'{"model":"demo","messages":[{"role":"user","content":"a\\u0000b"}]}', "invalid_json"),
        (b"[" * 100000 + b"]" * 100000, "invalid_json"), (b'{"a":' * 5000 + b"1" + b"}" * 5000, "invalid_json"),
        (b'{"model":"demo","messages":[{"role":"user","content":"hi"}]} trailing', "invalid_json"),
        (dict(base, messages=[]), "invalid_value"), (dict(base, messages="hi"), "invalid_value"), ({"messages": [user]}, "missing_field"),
        ({"model": "demo"}, "missing_field"), (dict(base, model=7), "invalid_value"), (dict(base, model=""), "invalid_value"),
        (dict(base, model="m" * 500), "invalid_value"), (dict(base, messages=[{"role": "user"}]), "missing_field"),
        (dict(base, messages=[{"role": "robot", "content": "x"}]), "invalid_value"),
        (dict(base, messages=[{"role": "user", "content": 5}]), "invalid_value"),
        (dict(base, messages=[{"role": "user", "content": []}]), "invalid_value"),
        (dict(base, messages=[dict(user, evil=1)]), "unknown_field"),
        (dict(base, messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), "unsupported_field"),
        (dict(base, messages=[user] * 3000), "invalid_value"),
        (dict(base, temperature=3), "invalid_value"), (dict(base, temperature="hot"), "invalid_value"), (dict(base, top_p=-1), "invalid_value"),
        (dict(base, max_tokens=0), "invalid_value"), (dict(base, max_tokens=-5), "invalid_value"), (dict(base, max_tokens=1.5), "invalid_value"),
        (dict(base, max_tokens=5, max_completion_tokens=6), "invalid_value"), (dict(base, n=2), "unsupported_field"),
        (dict(base, stop=["x"] * 9), "invalid_value"), (dict(base, stop=""), "invalid_value"), (dict(base, seed="x"), "invalid_value"),
        (dict(base, stream="yes"), "invalid_value"), (dict(base, stream_options={"include_usage": True}), "invalid_value"),
        (dict(base, stream=True, stream_options={"evil": 1}), "unknown_field"),
        (dict(base, tools=[{"type": "function"}]), "unsupported_field"), (dict(base, logprobs=True), "unsupported_field"),
        (dict(base, response_format={"type": "json_object"}), "unsupported_field"),
        (dict(base, chat_template="{{ evil }}"), "unknown_field"), (dict(base, priority=9), "unknown_field"),
        ({**base, "é" * 200: 1}, "unknown_field"), (b'{"model":"demo","messages":[{"role":"user","content":"hi"}],"temperature":1e999}', "invalid_json"),
        (dict(base, seed=1 << 64), "invalid_json"), (b'{"model":"demo","messages":[{"role":"user","content":"hi"}],"top_p":NaN}', "invalid_json"),
        (b'{"model":"demo","messages":[{"role":"user","content":"' + b"x" * 200000 + b'"}]', "invalid_json"),
        (b'\xef\xbb\xbf{"model":"demo","messages":[{"role":"user","content":"hi"}]}', "invalid_json"),
        (b'{"model":"demo","messages":[{"role":"user","content":"hi"}],"metadata":[' + b"[]," * 200000 + b"[]]}", "invalid_json"),
    ]
    for body, code in table:
        answer = gw.request("POST", "/v1/chat/completions", body, keys["employee"])
        try:
            refused(answer, 400, code)
        except AssertionError as error:
            raise AssertionError(f"{str(body)[:90]}: {error}") from error
    equal(gw.request("POST", "/v1/chat/completions", dict(base, max_tokens=1), keys["employee"])[0], 200)


@case
def test_parse__oversize_body(gw):
    body = {"model": "demo", "messages": [{"role": "user", "content": "x" * (9 << 20)}]}
    try:
        status = gw.request("POST", "/v1/chat/completions", body, keys["employee"])[0]
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # cut while sending: as good
    equal(status, 413)
    equal(gw.chat(keys["employee"], max_tokens=1)[0], 200)


@case
def test_routes__unknown_paths_and_methods(gw):
    refused(gw.request("GET", "/v1/nothing", key=keys["employee"]), 404, "not_found")
    refused(gw.request("GET", "/v1/chat/completions", key=keys["employee"]), 405, "method_not_allowed")
    refused(gw.request("DELETE", "/v1/models", key=keys["employee"]), 405, "method_not_allowed")
    for path in ("/../etc/passwd", "/assets/../../etc/passwd", "/assets/%2e%2e/secret", "//", "/metrics", "/readyz"):
        equal(gw.request("GET", path)[0], 404, path)
    for method, path, allow in (("GET", "/v1/chat/completions", "POST"), ("OPTIONS", "/v1/chat/completions", "POST"), ("PUT", "/v1/models", "GET"),
                                ("POST", "/", "GET, HEAD")):
        status, headers, _ = gw.request(method, path, headers={"origin": "https://elsewhere.example"})
        equal((status, headers.get("allow")), (405, allow), f"{method} {path}")
        check(not any(name.startswith("access-control-") for name in headers), "no other origin is let in")
    status, headers, body = gw.request("HEAD", "/")
    equal((status, body), (200, b""))
    status, headers, _ = gw.request("GET", "/")
    equal(status, 200)
    check("trusted-types 'none'" in headers["content-security-policy"])


@case
def test_engine__context_overflow_says_the_figures(gw):
    refused(gw.chat(keys["employee"], "word " * 6000), 400, "context_length_exceeded")
    refused(gw.chat(keys["employee"], "hi", max_tokens=1000000), 400, "context_length_exceeded")


# ---- policy ----


@case
def test_decide__unknown_and_forbidden_models_look_alike(gw):
    one = refused(gw.chat(keys["employee"], model="no-such-model"), 404, "model_not_found", "model")
    two = refused(gw.chat(keys["employee"], model="reserved"), 404, "model_not_found", "model")
    equal(one, two)
    equal(gw.chat(keys["admin"], model="reserved", max_tokens=1)[0], 200)


@case
def test_decide__card_and_label_keep_a_request_in_the_house(gw):
    before = len(gw.mock_requests())
    status, headers, _ = gw.chat(keys["employee"], f"My card is {CARD}, what now?", model="external", headers={"x-data-class": "confidential"})
    equal(status, 200)
    equal((headers["x-gatehouse-route-kind"], headers["x-gatehouse-class"]), ("engine", "confidential"))
    equal(len(gw.mock_requests()), before, "requests at the provider")
    gw.wait_shipped()
    rows = gw.audit_rows(headers["x-request-id"])
    text = json.dumps(rows)
    check("ceiling" in gw.cli("audit", "show", headers["x-request-id"]).stdout, "the audit shows why")
    check(CARD not in text)


@case
def test_decide__each_source_of_a_class(gw):
    for text, label, kind, cls in (("hello", None, "provider", "internal"), ("hello", "public", "provider", "public"),
                                   ("hello", "internal", "provider", "internal"), ("hello", "confidential", "engine", "confidential"),
                                   ("CONFIDENTIAL: plans", None, "engine", "confidential"), ("CONFIDENTIAL: plans", "public", "engine", "confidential"),
                                   (f"card {CARD}", None, "engine", "confidential"), (f"card {CARD}", "public", "engine", "confidential")):
        status, headers, _ = gw.chat(keys["employee"], text, model="external", headers={"x-data-class": label} if label else None, max_tokens=2)
        equal(status, 200, f"{text!r} {label}")
        equal((headers["x-gatehouse-route-kind"], headers["x-gatehouse-class"]), (kind, cls), f"{text!r} labelled {label}")


@case
def test_decide__wrong_label_denies(gw):
    refused(gw.chat(keys["employee"], model="external", headers={"x-data-class": "top-secret-ish"}), 400, "class_unknown")
    refused(gw.chat(keys["employee"], model="external", headers={"x-data-class": ""}), 400, "class_unknown")


@case
def test_decide__class_above_every_route_is_refused(gw):
    before = len(gw.mock_requests())
    refused(gw.chat(keys["employee"], model="external-only", headers={"x-data-class": "confidential"}), 403, "class_too_high")
    refused(gw.chat(keys["employee"], "TOP SECRET stuff"), 403, "class_too_high")
    equal(gw.chat(keys["admin"], "TOP SECRET stuff", max_tokens=1)[0], 200)
    equal(len(gw.mock_requests()), before)


@case
def test_guard__blocked_input_is_not_forwarded(gw):
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----"
    refused(gw.chat(keys["admin"], f"fix this {key}"), 403, "content_blocked")


@case
def test_guard__masked_input_is_what_the_provider_gets(gw):
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    status, headers, _ = gw.chat(keys["employee"], "mail a@example.com please", model="external-only")
    equal((status, headers["x-gatehouse-class"]), (200, "internal"))
    check("a@example.com" in json.dumps(gw.mock_requests()[-1]["body"]), "tagged text goes as it is")
    status, headers, body = gw.chat(keys["employee"], f"read {jwt} now", model="external", max_tokens=4)
    equal((status, headers["x-gatehouse-route-kind"]), (200, "engine"))
    gw.wait_shipped()
    shown = gw.cli("audit", "show", headers["x-request-id"], "--content").stdout
    check("JWT_MASKED" in shown and jwt not in shown)


@case
def test_guard__masks_a_streamed_answer_at_any_chunking(gw):
    _, _, (events, done, _) = gw.chat(keys["employee"], model="mock-card", stream=True)
    text = text_of(events)
    check(done)
    check("4111" not in text and "CARD_MASKED" in text, text)
    _, _, body = gw.chat(keys["employee"], model="mock-card")
    equal(body["choices"][0]["message"]["content"], text)


@case
def test_guard__stops_an_answer_that_policy_blocks(gw):
    _, _, (events, done, named) = gw.chat(keys["employee"], model="mock-key", stream=True, headers={"x-gatehouse-events": "1"})
    equal((text_of(events), finish_of(events), done), ("Here it is: ", "content_filter", True))
    _, headers, body = gw.chat(keys["employee"], model="mock-key")
    equal((body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]), ("Here it is: ", "content_filter"))
    gw.wait_shipped()
    check("blocked" in json.dumps(gw.audit_rows(headers["x-request-id"])))


@case
def test_guard__force_local_keeps_a_request_in_the_house(gw):
    token = "xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx"
    before = len(gw.mock_requests())
    status, headers, _ = gw.chat(keys["admin"], f"what is {token}?", model="external", max_tokens=2)
    equal((status, headers["x-gatehouse-route-kind"], len(gw.mock_requests())), (200, "engine", before))


@case
def test_guard__stop_strings_are_looked_at_like_messages(gw):
    before = len(gw.mock_requests())
    refused(gw.chat(keys["employee"], model="external-only", stop=["END", CARD]), 403, "class_too_high")
    refused(gw.chat(keys["employee"], model="external-only", stop="CONFIDENTIAL"), 403, "class_too_high")
    refused(gw.chat(keys["admin"], stop="-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----"), 403,
            "content_blocked")
    status, headers, _ = gw.chat(keys["employee"], model="external", stop=[CARD], max_tokens=2)
    equal((status, headers["x-gatehouse-route-kind"]), (200, "engine"))
    equal(len(gw.mock_requests()), before, "requests at the provider")
    gw.wait_shipped()
    shown = gw.cli("audit", "show", headers["x-request-id"], "--content").stdout
    check("CARD_MASKED" in shown and CARD not in shown, shown)
    status, headers, _ = gw.chat(keys["employee"], model="external-only", stop=["a harmless end"])
    equal((status, gw.mock_requests()[-1]["body"]["stop"]), (200, ["a harmless end"]))
    gw.wait_shipped()
    check("a harmless end" in gw.cli("audit", "show", headers["x-request-id"], "--content").stdout, "what left is recorded")


@case
def test_inspect__long_text_is_scanned_by_a_worker_and_all_of_it(gw):
    before = len(gw.mock_requests())
    long = "lorem ipsum dolor sit amet " * 12000
    status, headers, _ = gw.chat(keys["employee"], long, model="external-only")
    equal((status, headers["x-gatehouse-class"], len(gw.mock_requests())), (200, "internal", before + 1))
    equal(gw.mock_requests()[-1]["body"]["messages"][0]["content"], long)
    refused(gw.chat(keys["employee"], long + CARD + long, model="external-only"), 403, "class_too_high")
    equal(len(gw.mock_requests()), before + 1)


@case
def test_record__what_cannot_be_recorded_is_not_sent(gw):
    before = len(gw.mock_requests())
    refused(gw.chat(keys["employee"], "<" * (3 << 20), model="external-only"), 400, "invalid_value", "messages")
    equal(len(gw.mock_requests()), before)


# ---- providers ----


@case
def test_provider__streams_and_counts(gw):
    status, headers, (events, done, _) = gw.chat(keys["employee"], model="external-only", stream=True, stream_options={"include_usage": True})
    equal((status, headers["x-gatehouse-route-kind"], done), (200, "provider", True))
    check(text_of(events).startswith("This is the mock provider."))
    check(events[-1]["usage"]["completion_tokens"] > 10)


@case
def test_provider__gets_our_own_serialisation_alone(gw):
    gw.request("POST", "/v1/chat/completions", '{ "messages" : [ {"content":"h\\u0069","role":"user","name":"bob"} ], "model":"external-only",'
               ' "user":"carol", "metadata":{"a":"b"}, "temperature": 0.5 }', keys["employee"], {"x-secret-header": "1", "cookie": "a=b"})
    seen = gw.mock_requests()[-1]
    equal(seen["body"], {"model": "gpt-mock", "messages": [{"role": "user", "content": "hi"}], "stream": True,
                         "stream_options": {"include_usage": True}, "temperature": 0.5})
    check(not seen["has_key"] and "x-secret-header" not in seen["headers"] and "cookie" not in seen["headers"])


@case
def test_provider__faults_before_the_first_byte_are_http_errors(gw):
    for fault, status, code in (("status-500", 503, "upstream_unavailable"), ("status-429", 503, "upstream_unavailable"),
                                ("status-401", 502, "upstream_refused"), ("redirect", 502, "upstream_refused"),
                                ("hang", 504, "upstream_timeout"), ("html", 502, "upstream_broken"), ("huge-line", 502, "upstream_broken")):
        for stream in (False, True):
            answer = gw.chat(keys["employee"], model=f"mock-{fault}", stream=stream)
            try:
                refused(answer, status, code)
            except AssertionError as error:
                raise AssertionError(f"{fault} stream={stream}: {error}") from error


@case
def test_provider__a_broken_stream_never_ends_cleanly(gw):
    for fault, code in (("cut", "upstream_broken"), ("stall", "upstream_timeout"), ("no-finish", "upstream_broken"),
                        ("error-event", "upstream_broken"), ("bad-json", "upstream_broken")):
        status, _, (events, done, _) = gw.chat(keys["employee"], model=f"mock-{fault}", stream=True)
        equal(status, 200, fault)
        check(not done, f"{fault}: [DONE] after a broken stream")
        equal(events[-1].get("error", {}).get("code"), code, fault)
        check(len(text_of(events[:-1])) > 10, f"{fault}: what came before is there")
        refused(gw.chat(keys["employee"], model=f"mock-{fault}"), 504 if fault == "stall" else 502, code)


@case
def test_provider__characters_cut_between_writes_arrive_whole(gw):
    _, _, (events, done, _) = gw.chat(keys["employee"], model="mock-split-utf8", stream=True)
    check(done)
    equal(text_of(events), "Grüße, 世界 👋🏽.")


@case
def test_fallback__next_route_when_the_first_cannot(gw):
    for model in ("fallback-500", "through-dead", "fallback-hang"):
        status, headers, body = gw.chat(keys["employee"], model=model)
        equal((status, headers["x-gatehouse-route"]), (200, "local"), model)
    refused(gw.chat(keys["employee"], model="dead-only"), 503, "upstream_unavailable")


@case
def test_fallback__a_full_engine_queue_goes_out_only_where_the_class_allows(gw):
    import concurrent.futures

    def ask(label):
        return gw.chat(keys["employee"], "Count from 1 to 20.", model="overflow", temperature=2.0, max_tokens=600, headers={"x-data-class": label})

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        free = list(pool.map(ask, ["internal"] * 16))
        bound = list(pool.map(ask, ["confidential"] * 16))
    equal({a[0] for a in free}, {200}, "with a provider behind it nobody is refused")
    kinds = [a[1]["x-gatehouse-route-kind"] for a in free]
    check("provider" in kinds and "engine" in kinds, kinds)
    check({a[0] for a in bound} <= {200, 503}, "confidential")
    check(all(a[1]["x-gatehouse-route-kind"] == "engine" for a in bound if a[0] == 200), "confidential data went out")
    busy = [a for a in bound if a[0] == 503]
    check(busy, "the queue was never full")
    refused(busy[0], 503, "engine_busy")
    check("retry-after" in busy[0][1])


@case
def test_fallback__never_after_the_first_text(gw):
    _, _, (events, done, _) = gw.chat(keys["employee"], model="fallback-cut", stream=True)
    check(not done)
    equal(events[-1]["error"]["code"], "upstream_broken")


# ---- limits ----


@case
def test_limits__requests(gw):
    key = gw.new_key("narrow", owner="busy")
    answers = [gw.chat(key, max_tokens=1) for _ in range(4)]
    equal([a[0] for a in answers], [200, 200, 429, 429])
    refused(answers[2], 429, "rate_limit_exceeded")
    check(1 <= int(answers[2][1]["retry-after"]) <= 20)
    equal(answers[0][1]["x-ratelimit-limit-requests"], "2")
    equal(answers[1][1]["x-ratelimit-remaining-requests"], "0")


@case
def test_limits__tokens_are_settled_to_what_was_used(gw):
    key = gw.new_key("few-tokens", owner="thrifty")
    for _ in range(3):  # each reserves more than half of the burst and gives most of it back
        equal(gw.chat(key, max_tokens=900)[0], 200)
    refused(gw.chat(key, max_tokens=5000), 429, "request_too_large_for_limit")


# ---- clients that leave, many at once ----


@case
def test_cancel__a_client_that_leaves_frees_the_engine(gw):
    connection, answer = gw.open_stream(keys["employee"], "hello", model="mock-slow")
    answer.read(50)
    connection.sock.close() if connection.sock else None
    answer.close()
    connection.close()
    gw.wait_idle()
    gw.wait_shipped()
    rows = [r for r in gw.audit_rows() if r.get("status") == "cancelled"]
    check(rows, "the audit has a cancelled call")


@case
def test_waiting__a_comment_at_least_every_ten_seconds(gw):
    started = time.monotonic()
    connection, answer = gw.open_stream(keys["employee"], "hello", model="late")
    line = answer.readline()
    equal(line, b": waiting\n")
    check(time.monotonic() - started < 10)
    rest = answer.read()
    check(rest.endswith(b"data: [DONE]\n\n") and b'"mock ' in rest, rest[-300:])
    connection.close()


@case
def test_cancel__clients_that_leave_at_any_moment(gw):
    import random
    import socket
    body = {m: json.dumps({"model": m, "stream": i % 2 == 0, "messages": [{"role": "user", "content": "What is Gatehouse? " * 50}]}).encode()
            for i, m in enumerate(("demo", "external", "mock-slow", "fallback-500", "no-such-model"))}
    chance = random.Random(7)
    for i in range(150):
        model = chance.choice(list(body))
        with socket.create_connection(("127.0.0.1", gw.port), timeout=10) as raw:
            with gw.ssl_context().wrap_socket(raw, server_hostname="localhost") as tls:
                tls.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer " + keys["employee"].encode()
                            + b"\r\ncontent-length: %d\r\n\r\n" % len(body[model]) + body[model])
                time.sleep(chance.random() * 0.03)
                if i % 3 == 0:  # a reset, not a polite end
                    raw_linger(tls)
    gw.wait_idle(20)
    equal(gw.chat(keys["employee"], max_tokens=1)[0], 200)


def raw_linger(sock):
    import socket
    import struct
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@case
def test_many__streams_at_once_all_whole(gw):
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda i: gw.chat(keys["employee"], f"What is class number {i % 3}?", stream=True, model="demo" if i % 2 else "external"),
                                range(24)))
    for status, _, got in answers:
        check(status == 200 and got[1] or status == 503, f"status {status}")
    check(sum(a[0] == 200 for a in answers) >= 12)


# ---- what is recorded is what happened ----


def outcome(gw, request_id):
    deadline = time.monotonic() + 15
    while True:  # an outcome waits for no client: it may not be durable yet, nor shipped
        lines = gw.cli("audit", "show", request_id, "--json", check=False).stdout.splitlines()
        rows = [row for row in (json.loads(line) for line in lines if line.startswith("{")) if row["kind"] == "outcome"]
        if rows:
            return rows[0]
        check(time.monotonic() < deadline, "no outcome is recorded")
        time.sleep(0.1)


@case
def test_outcome__released_is_what_the_client_was_sent(gw):
    for stream in (False, True):
        _, headers, got = gw.chat(keys["employee"], model="mock-cut", stream=stream)
        row = outcome(gw, headers["x-request-id"])
        equal((row["status"], row["error_code"]), ("error", "upstream_broken"))
        sent = len(text_of(got[0][:-1])) if stream else 0
        equal(int(row["released_bytes"]), sent, f"stream={stream}")
        check(0 < int(row["completion_tokens"]) <= 12, f"pieces are counted once: {row['completion_tokens']}")
    _, headers, body = gw.chat(keys["employee"], model="external-only")
    equal(int(outcome(gw, headers["x-request-id"])["released_bytes"]), len(body["choices"][0]["message"]["content"]))


@case
def test_limits__leaving_early_does_not_give_the_prompt_back(gw):
    key = gw.new_key("few-tokens", owner="leaver")
    for _ in range(2):
        connection, answer = gw.open_stream(key, "many words here " * 100, model="mock-slow", max_tokens=20)
        equal(answer.status, 200)
        answer.read(50)
        answer.close()
        connection.close()
        gw.wait_idle()
    equal(gw.chat(key, "x", model="mock-slow", max_tokens=700)[0], 429, "two long prompts were read by the provider")


@case
def test_cancel__while_the_workers_are_busy(gw):
    """A client that leaves before a worker has made its prompt: nothing of its call may be needed any more."""
    import concurrent.futures
    long = "4111 1111 1111 1112, a@b, eyJhbGciOi.x " * 150000  # nearly findings: slow to look through
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(gw.chat, keys["employee"], long, model="external-only") for _ in range(4)]
        time.sleep(0.3)
        for i in range(12):
            connection = gw.connection()
            body = {"model": "demo", "messages": [{"role": "user", "content": "hello " * (1 if i % 2 else 100000)}], "stop": ["zzz"]}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"authorization": f"Bearer {keys['employee']}"})
            time.sleep(0.05)
            connection.close()
        for answer in busy:
            equal(answer.result()[0], 200)
    equal(gw.chat(keys["employee"], max_tokens=1)[0], 200)


# ---- metrics ----


@case
def test_metrics__format_and_closed_labels(gw):
    gw.chat(keys["employee"], max_tokens=1)
    gw.chat(keys["employee"], model="no-such-model")
    import http.client
    connection = http.client.HTTPConnection("127.0.0.1", gw.admin_port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    seen = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            check(name not in seen, f"{name} described twice")
            seen.add(name)
        elif not line.startswith("#"):
            check(line.split("{")[0].split(" ")[0].startswith(("gatehouse_", "process_")), line)
            float(line.rsplit(" ", 1)[1])
    check("no-such-model" not in text and 'model="other"' in text, "a client's words are no label")
    for family in ("gatehouse_requests_total", "gatehouse_step_seconds_bucket", "gatehouse_ttft_seconds_bucket", "gatehouse_tokens_total"):
        check(family in text, family)
    connection.request("GET", "/livez")
    equal(connection.getresponse().read(), b"ok\n")


@case
def test_secrets__stand_in_no_log(gw):
    logs = "".join((gw.dir / f"{n}.log").read_text(errors="replace") for n in ("gateway", "redis"))
    for secret in [*keys.values(), CARD, "What is Gatehouse?", *((gw.dir / "keys" / n).read_text().strip() for n in ("kek", "pseudonym", "pepper"))]:
        check(secret not in logs, "a secret or a prompt stands in a log")


@case
def test_audit__verifies_and_every_answer_is_there(gw):
    gw.wait_shipped()
    done = gw.cli("audit", "verify", check=False)
    equal(done.returncode, 0, done.stdout + done.stderr)
    check("intact" in done.stdout)


def main():
    check(FAULTS)
    with new_stack() as gw:
        for role in ("employee", "admin", "narrow"):
            keys[role] = gw.new_key(role, owner=f"owner-{role}")
        code = tap.run(gw)
    return 1 if gw.sanitizer_report else code


sys.exit(main())

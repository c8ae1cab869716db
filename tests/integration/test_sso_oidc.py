#!/usr/bin/env python3
"""Single sign-on end to end: a whole stack with a real OpenID provider (deploy/demo_idp), driven as a browser drives it."""
import base64
import contextlib
import http.client
import json
import pathlib
import re
import ssl
import sys
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gateway_client import new_stack, policy, tap  # noqa: E402
from sso_browser import Browser, open_stream, wait_end  # noqa: E402
from tap import case, check, equal, note  # noqa: E402

CALLBACK = "/auth/oidc/corp/callback"
FETCH_EVERY_S = 1.1  # the keys of a provider are fetched at most once a second for sign-ins
IDENTITY = """
identity:
  providers:
    corp:
      label: Demo company account
      oidc:
        issuer: "@IDP_URL@"
        client_id: gatehouse
        client_secret_file: "@IDP_SECRET_FILE@"
        scopes: [openid, profile, email, groups]
        ca_file: "@CA_FILE@"
        bearer: {audiences: ["@URL@/v1", "urn:gatehouse:opaque"], introspection: true}
  mapping:
    - {group: llm-admins, role: admin}
    - {group: llm-users, role: employee}
    - {group: llm-analysts, role: narrow}
  service_accounts:
    batch: {roles: [narrow], provider: corp, client_id: svc-batch}
"""
USERS = [
    {"id": "mallory", "name": "Mallory", "email": "m@example.com", "groups": ["llm-admins"], "disabled": True, "about": "", "hidden": True},
    {"id": "many", "name": "Many Groups", "email": "many@example.com", "about": "", "hidden": True,
     "groups": [f"department-{i:03}" for i in range(299)] + ["llm-users"]},
    {"id": "mover", "name": "Mover", "email": "mover@example.com", "groups": ["llm-analysts"], "about": "", "hidden": True},
    {"id": "用户", "name": "用户 ÅÄÖ 🙂", "email": "user@example.com", "groups": ["llm-users"], "about": "", "hidden": True},
]


def control(gw, name, **arguments):
    connection = (http.client.HTTPSConnection("localhost", gw.idp_port, context=ssl.create_default_context(cafile=str(gw.ca_file)), timeout=10)
                  if gw.idp_tls else http.client.HTTPConnection("127.0.0.1", gw.idp_port, timeout=10))
    connection.request("POST", f"/test/{name}", json.dumps(arguments))
    answer = connection.getresponse()
    data = json.loads(answer.read())
    equal(answer.status, 200, f"control {name}")
    connection.close()
    return data


@contextlib.contextmanager
def fault(gw, path, how):
    control(gw, "fault", path=path, how=how)
    try:
        yield
    finally:
        control(gw, "fault", path=path)


def signed_in(gw, user):
    browser = Browser(gw)
    page = browser.sign_in(user)
    check(browser.session_cookie() is not None, f"no session for {user}: {page}")
    check(browser.who() is not None, "a session that /auth/session does not know")
    return browser


def token(gw, client="svc-batch", resource=None, **fields):
    """An access token by client credentials, from the provider itself."""
    connection = (http.client.HTTPSConnection("localhost", gw.idp_port, context=gw.ssl_context(), timeout=10) if gw.idp_tls
                  else http.client.HTTPConnection("127.0.0.1", gw.idp_port, timeout=10))
    basic = base64.b64encode(f"{client}:{gw.key('idp-service')}".encode()).decode()
    form = {"grant_type": "client_credentials", "scope": "llm", "resource": resource or f"{gw.url}/v1", **fields}
    connection.request("POST", "/token", urllib.parse.urlencode(form),
                       {"authorization": f"Basic {basic}", "content-type": "application/x-www-form-urlencoded"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    check("access_token" in answer, f"the provider gave no token: {answer.get('error')}")
    return answer["access_token"]


# ---- signing in ----


@case
def test_sign_in__roles_and_models_follow_the_groups(gw):
    models = {}
    for user, role in (("alice", "admin"), ("bob", "employee"), ("carol", "narrow")):
        browser = signed_in(gw, user)
        who = browser.who()
        check(role in who["roles"], f"{user} has {who['roles']}")
        models[user] = browser.models()
    check("reserved" in models["alice"] and "reserved" not in models["bob"], "the administrator's model")
    equal(models["carol"], {"demo"})
    check(models["alice"] > models["bob"] > models["carol"], "the lists differ by role")


@case
def test_sign_in__the_session_cookie_is_fenced(gw):
    browser = signed_in(gw, "bob")
    cookie = browser.session_cookie()
    check("httponly" in cookie.attributes and "secure" in cookie.attributes and cookie.path == "/", str(cookie.attributes))
    check(cookie.same_site in ("lax", "strict"))
    left = [c.name for c in browser.cookies.values() if "signin" in c.name]
    equal(left, [], "cookies of the sign-in that are left")
    for page in browser.visited:
        if page.url.startswith(gw.url) and CALLBACK not in page.url:
            check("code=" not in page.url and "code=" not in page.headers.get("location", ""), f"a code goes on: {page.url}")


@case
def test_sign_in__the_request_asks_for_pkce_and_long_secrets(gw):
    page = Browser(gw).fetch(f"{gw.url}/auth/oidc/corp/start")
    url = urllib.parse.urlsplit(page.headers["location"])
    asked = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
    equal(f"{url.scheme}://{url.netloc}", gw.idp_url)
    equal(asked["redirect_uri"], f"{gw.url}{CALLBACK}")
    equal((asked["response_type"], asked["code_challenge_method"]), ("code", "S256"))
    check(all(len(asked[name]) >= 22 for name in ("state", "nonce", "code_challenge")), "128 bits at least")
    other = Browser(gw).fetch(f"{gw.url}/auth/oidc/corp/start")
    check(asked["state"] not in other.headers["location"], "state is not fixed")


@case
def test_sign_in__who_is_in_no_group_or_disabled_does_not_come_in(gw):
    for user in ("dave", "mallory"):
        browser = Browser(gw)
        page = browser.sign_in(user)
        check(browser.session_cookie() is None and browser.who() is None, f"{user} came in")
        check(400 <= page.status < 600 and page.url.startswith(gw.url), f"{user}: {page.status}")
        check(re.search(r"sign", page.text, re.I) and len(page.text) > 100, f"a page that says what to do: {page}")
    check(signed_in(gw, "bob"), "and the twin does")


@case
def test_sign_in__names_of_any_script_and_300_groups(gw):
    browser = signed_in(gw, "用户")
    equal(browser.who()["roles"], ["employee"])
    check("用户" in json.dumps(browser.who(), ensure_ascii=False), "the name is whole")
    equal(signed_in(gw, "many").who()["roles"], ["employee"])


@case
def test_sign_in__returns_to_our_own_pages_alone(gw):
    browser = Browser(gw)
    page = browser.sign_in("bob", return_to="/")
    equal(urllib.parse.urlsplit(page.url).path, "/")
    for evil in ("https://evil.example/", "//evil.example", "/\\evil.example", "/auth/../..//evil.example", "javascript:alert(1)", "/%0d%0ax: y"):
        browser = Browser(gw)
        page = browser.sign_in("bob", return_to=evil)
        check(all("evil" not in p.headers.get("location", "") or p.headers["location"].startswith(gw.idp_url) for p in browser.visited), evil)
        check(page.url.startswith(f"{gw.url}/"), evil)


@case
def test_sign_in__where_there_is_one_provider_nobody_chooses(gw):
    for query, start in (("", "/auth/oidc/corp/start"), ("?return_to=/%3Fnew%3D1", "/auth/oidc/corp/start?return_to=%2F%3Fnew%3D1"),
                         ("?return_to=//evil.example", "/auth/oidc/corp/start")):
        page = Browser(gw).fetch(f"{gw.url}/auth/sign-in{query}")
        equal((page.status, page.headers.get("location")), (303, start))


@case
def test_callback__is_for_the_browser_that_began_and_holds_once(gw):
    browser = Browser(gw)
    stopped = browser.sign_in("bob", stop_at=CALLBACK)
    callback = stopped.headers["location"]
    stranger = Browser(gw)
    page = stranger.go(callback, from_site="127.0.0.1")
    check(page.status >= 400 and stranger.session_cookie() is None, "another browser comes in with this one's answer")
    kept = dict(browser.cookies)
    browser.go(callback, from_site="127.0.0.1")
    check(browser.who() is not None, "the browser itself comes in")
    browser.cookies = kept
    page = browser.go(callback, from_site="127.0.0.1")
    check(page.status >= 400 and browser.session_cookie() is None, "the answer holds twice")


@case
def test_callback__changed_answers_are_refused(gw):
    for change in ({"state": "x" * 43}, {"code": "x"}, {"iss": "https://evil.example"}, {"code": None}, {"state": None}, {"error": "access_denied"}):
        browser = Browser(gw)
        url = urllib.parse.urlsplit(browser.sign_in("bob", stop_at=CALLBACK).headers["location"])
        answer = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()} | change
        query = urllib.parse.urlencode({k: v for k, v in answer.items() if v is not None})
        page = browser.go(f"{gw.url}{CALLBACK}?{query}", from_site="127.0.0.1")
        check(page.status >= 400 and browser.session_cookie() is None, f"came in with {change}")


# ---- keys and outages ----


@case
def test_sign_in__keys_change_without_a_failed_sign_in(gw):
    signed_in(gw, "bob")
    for drop in (False, True, False):
        time.sleep(FETCH_EVERY_S)
        control(gw, "rotate", drop=drop)
        started = time.monotonic()
        signed_in(gw, "bob")
        note(f"keys rotated ({'old ones gone' if drop else 'old ones kept'}): signed in after {time.monotonic() - started:.3f} s")


@case
def test_sign_in__an_outage_says_so_and_touches_nobody_else(gw):
    inside = signed_in(gw, "carol")
    time.sleep(FETCH_EVERY_S)
    for how in ("500", "html"):
        with fault(gw, "/token", how):
            browser = Browser(gw)
            page = browser.sign_in("bob")
            check(page.status in (502, 503, 504) and browser.session_cookie() is None, f"{how}: {page.status}")
            equal(inside.models(), {"demo"})
    signed_in(gw, "bob")


# ---- the end ----


@case
def test_logout_at_the_provider__ends_the_session_and_its_stream(gw):
    browser, other = signed_in(gw, "bob"), signed_in(gw, "alice")
    browser.who()
    connection, answer = open_stream(gw, browser)
    sent = browser.leave_provider()
    ended, data = wait_end(answer)
    connection.close()
    check(b"[DONE]" not in data, "the answer was complete before it could be cut")
    status = browser.api("GET", "/v1/models").status
    gone = time.monotonic()
    note(f"from the provider's logout: stream ended after {ended - sent:.3f} s, next request refused ({status}) by {gone - sent:.3f} s")
    equal(status, 401)
    check(browser.who() is None, "the session lives on")
    check(ended - sent <= 2, f"the stream went on for {ended - sent:.2f} s")  # the promise is 1 s; the rest is room for a busy machine
    check(other.who() is not None, "another person's session ended")


@case
def test_logout__ends_this_session_alone(gw):
    one, two = signed_in(gw, "bob"), signed_in(gw, "bob")
    page = one.api("POST", "/auth/logout")
    check(page.status in (200, 204, 303), f"logout: {page.status}")
    check(one.who() is None, "the session lives on")
    check(two.who() is not None, "the other session ended too")


# ---- refresh ----


@case
def test_refresh__takes_over_what_the_directory_says_now(gw):
    browser = signed_in(gw, "mover")
    equal(browser.who()["roles"], ["narrow"])
    before = browser.session_cookie().value
    control(gw, "user", id="mover", groups=["llm-users"])
    page = browser.api("POST", "/auth/refresh")
    check(page.status in (200, 204), f"refresh: {page}")
    equal(browser.who()["roles"], ["employee"])
    after = browser.session_cookie().value
    check(before != after, "the token is a new one")
    browser.session_cookie().value = before
    equal(browser.api("GET", "/v1/models").status, 401, "the old token")


@case
def test_refresh__ends_the_session_when_the_provider_refuses(gw):
    browser = signed_in(gw, "carol")
    control(gw, "user", id="carol", disabled=True)
    try:
        page = browser.api("POST", "/auth/refresh")
        equal(page.status, 401, "refresh of somebody who has left")
        check(browser.who() is None, "the session lives on")
    finally:
        control(gw, "user", id="carol", disabled=False)
    signed_in(gw, "carol")


@case
def test_refresh__works_again_as_soon_as_the_provider_does(gw):
    browser = signed_in(gw, "carol")
    with fault(gw, "/token", "500"):
        equal(browser.api("POST", "/auth/refresh").status, 503)
    deadline = time.monotonic() + 8  # the provider is left alone for a moment; the session is not locked beyond that
    while (page := browser.api("POST", "/auth/refresh")).status == 503 and time.monotonic() < deadline:
        time.sleep(0.2)
    equal(page.status, 200)


# ---- metrics ----


CORP = 'provider="corp"'


def counted(gw, name, *labels):
    return gw.metric(name, *(CORP if name != "gatehouse_logins_total" else 'method="corp"', *labels))


@contextlib.contextmanager
def grows(gw, *series):
    """Each series by one at least; what is counted after the answer has its moment."""
    before = [counted(gw, *one) for one in series]
    yield
    for one, was in zip(series, before):
        deadline = time.monotonic() + 10
        while counted(gw, *one) <= was:
            check(time.monotonic() < deadline, f"{one} stays {was}")
            time.sleep(0.02)


@case
def test_metrics__say_of_each_provider_what_works_and_what_does_not(gw):
    ok, error = 'result="ok"', 'result="error"'
    token_requests = ("gatehouse_sso_requests_total", 'kind="token"')
    with grows(gw, (*token_requests, ok), ("gatehouse_logins_total", ok), ("gatehouse_sign_in_seconds_count",)):
        browser = signed_in(gw, "bob")
    for kind in ("discovery", "jwks"):
        check(counted(gw, "gatehouse_sso_requests_total", f'kind="{kind}"', ok) >= 1, kind)
    with fault(gw, "/token", "500"), grows(gw, (*token_requests, error), ("gatehouse_logins_total", 'result="unavailable"')):
        Browser(gw).sign_in("bob")
    with grows(gw, (*token_requests, ok), ("gatehouse_session_refreshes_total", ok)):
        check(browser.api("POST", "/auth/refresh").status in (200, 204))
    other = signed_in(gw, "alice")
    with fault(gw, "/token", "500"), grows(gw, (*token_requests, error), ("gatehouse_session_refreshes_total", 'result="unavailable"')):
        equal(other.api("POST", "/auth/refresh").status, 503)
    with grows(gw, ("gatehouse_logout_messages_total", 'result="refused"')):
        status, _, _ = gw.request("POST", "/auth/oidc/corp/logout", "logout_token=x.y.z", headers={"content-type": "application/x-www-form-urlencoded"})
        equal(status, 400)
    with grows(gw, ("gatehouse_logout_messages_total", ok)):
        browser.leave_provider()
    control(gw, "user", id="carol", disabled=False)
    carol = signed_in(gw, "carol")
    control(gw, "user", id="carol", disabled=True)
    try:
        with grows(gw, (*token_requests, 'result="refused"'), ("gatehouse_session_refreshes_total", 'result="refused"')):
            equal(carol.api("POST", "/auth/refresh").status, 401)
    finally:
        control(gw, "user", id="carol", disabled=False)
    equal(gw.metric("gatehouse_sso_requests_total"), counted(gw, "gatehouse_sso_requests_total"), "no other provider")


# ---- machines ----


def ask(gw, bearer):
    status, _, body = gw.request("GET", "/v1/models", key=bearer)
    return status, {m["id"] for m in json.loads(body)["data"]} if status == 200 else set()


@case
def test_bearer__client_credentials_of_a_service_account(gw):
    good = token(gw)
    equal(ask(gw, good), (200, {"demo"}))
    equal(ask(gw, good), (200, {"demo"}), "from the cache")
    head, payload, signature = good.split(".")
    forged = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged["client_id"] = forged["sub"] = "admin"
    forged = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")
    for name, bad in (("another client", token(gw, "svc-other")), ("another audience", token(gw, resource=f"{gw.url}/scim/v2")),
                      ("another payload", f"{head}.{forged}.{signature}"), ("a cut signature", good[:-8]), ("no signature", f"{head}.{payload}.")):
        status, models = ask(gw, bad)
        check(status in (401, 403) and not models, f"{name}: {status}")
    equal(ask(gw, good)[0], 200)


@case
def test_bearer__opaque_tokens_are_asked_about(gw):
    good = token(gw, resource="urn:gatehouse:opaque")
    check("." not in good, "this provider's opaque token has no dots")
    equal(ask(gw, good), (200, {"demo"}))
    equal(ask(gw, good[:-2] + "xx")[0], 401, "a token that the provider does not know")


@case
def test_bearer__tokens_of_old_and_new_keys(gw):
    old = token(gw)
    time.sleep(FETCH_EVERY_S)
    control(gw, "rotate", drop=False)
    signed_in(gw, "bob")  # brings the new keys; unknown keys of tokens that anybody can send cause a fetch in half a minute only
    new = token(gw)
    equal([ask(gw, t)[0] for t in (new, old)], [200, 200])


@case
def test_audit__sign_ins_are_recorded_and_no_token_is_logged(gw):
    signed_in(gw, "bob")
    bearer = token(gw)
    ask(gw, bearer)
    log = (gw.dir / "gateway.log").read_text(errors="replace")
    for secret in (gw.key("idp-client"), bearer, bearer.split(".")[2]):
        check(secret not in log, "a secret in the log")
    gw.wait_shipped()
    rows = gw.audit_rows()
    check(any("session.start" in json.dumps(row) for row in rows), "session.start in the audit")
    check(not any(bearer.split(".")[2] in json.dumps(row) for row in rows), "a token in the audit")


if __name__ == "__main__":
    with new_stack(policy=policy() + IDENTITY, demo_idp=True, idp_test=True, idp_tls=True, idp_users=USERS) as gw:
        code = tap.run(gw)
    sys.exit(code or (1 if gw.sanitizer_report else 0))

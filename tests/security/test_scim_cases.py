#!/usr/bin/env python3
"""SCIM: who may write the directory, what bodies and filters may say, and what is left to a person who has been deactivated. Each attack with
its valid twin, against a whole stack.

    test_scim_cases.py [PATTERN]      test_scim_cases.py --mutate     (a build with -Dmutations=true)
"""
import http.client
import itertools
import json
import pathlib
import secrets
import sys
import time
import urllib.parse
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]
from cases import Suite
from fake_idp import Key
from scim_client import API_AUDIENCE, CORE, ENTERPRISE, PATCH, SCIM_AUDIENCE, STRICT_AUDIENCE, TOKEN, World

MEMBERS_MAX, OPERATIONS_MAX, VALUES_MAX, EMAILS_MAX, FAILURES_MAX = 10000, 256, 60000, 16, 20
w = World()
name = lambda: f"c{uuid.uuid4().hex[:12]}@example.com"
addresses = (f"127.1.{i >> 8}.{i & 255}" for i in itertools.count(1))  # wrong tokens are counted by address: each case has its own


def refusals():
    return [json.loads(line) for line in w.gw.log_tail("gateway", 4000).splitlines() if line.startswith("{") and '"scim.refused"' in line]


def ask(method, path, body=None, raw=None, address=None, cookies=None, **headers):
    """(status, JSON or None). Headers: authorization=None leaves it out; a list sends it several times."""
    if raw is None and body is not None:
        raw = json.dumps(body)
    all_headers = {"authorization": f"Bearer {TOKEN}", **({"content-type": "application/scim+json"} if raw is not None else {}),
                   **{k.replace("_", "-"): v for k, v in headers.items()}}
    connection = http.client.HTTPSConnection("127.0.0.1", w.gw.port, context=w.gw.ssl_context(), timeout=30,
                                             source_address=(address or "127.0.0.1", 0))
    connection.putrequest(method, "/scim/v2" + path)
    data = raw.encode() if isinstance(raw, str) else raw
    if data is not None:
        connection.putheader("content-length", str(len(data)))
    for key, value in all_headers.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                connection.putheader(key, one)
    connection.endheaders()
    try:
        if data is not None:
            connection.send(data)
    except OSError:
        pass  # refused before it was all there
    answer = connection.getresponse()
    got = answer.read()
    connection.close()
    return answer.status, json.loads(got) if got.strip() else None


def scim(*request, **more):
    """As a case wants it: done, or the check that was against it, which the operator's log says; else the status."""
    def run():
        chosen = [part() if callable(part) else part for part in request]
        options = {k: v() if callable(v) else v for k, v in more.items()}
        before = len(refusals())
        status, answer = ask(*chosen, **options)
        if status < 300:
            return {"ok": True, "answer": answer}
        assert status < 500, (status, answer)
        assert answer["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:Error"] and answer["status"] == str(status), answer
        after = refusals()
        return {"ok": False, "check": after[-1]["check"] if len(after) > before else f"status {status}", "detail": answer["detail"]}
    return run


def new_user(**more):
    return "/Users/" + w.user(name(), **more)["id"]


def new_group():
    return "/Groups/" + w.group("g " + uuid.uuid4().hex, [w.user(name())["id"]])["id"]


def patch(*operations):
    return {"schemas": [PATCH], "Operations": list(operations)}


def patch_user(*operations, **user):
    return scim("PATCH", lambda: new_user(**user), patch(*operations))


def patch_group(*operations):
    return scim("PATCH", new_group, patch(*operations))


def create(**over):
    return scim("POST", "/Users", lambda: {k: v for k, v in {"schemas": [CORE], "userName": name(), "active": True, **over}.items() if v is not None})


def text(raw):
    """A new user's body as it is written; NAME stands for a new name."""
    return scim("POST", "/Users", raw=lambda: raw.replace(b"NAME", name().encode()) if isinstance(raw, bytes) else raw.replace("NAME", name()))


def listing(query):
    return scim("GET", "/Users?" + query)


def filtered(words, kind="Users"):
    return listing("filter=" + urllib.parse.quote(words)) if kind == "Users" else scim("GET", f"/{kind}?filter=" + urllib.parse.quote(words))


def within_a_second(attempt, ok=False):
    """What was revoked is refused at once; what only the directory's snapshot says, when that has been read again."""
    def run():
        began = time.monotonic()
        while True:
            reply = attempt()
            if reply["ok"] == ok or time.monotonic() - began > 1:
                return reply
            time.sleep(0.02)
    return run


listed = filtered('userName eq "nobody"')
created = create()
patched = patch_user({"op": "replace", "path": "displayName", "value": "x"})
group_patched = lambda: patch_group({"op": "replace", "path": "displayName", "value": "x" + uuid.uuid4().hex})()
suite = Suite("scim", sources="gateway/*.c", prefixes=("scim.",))
case = suite.case

# ---- tokens ----


def token(value, address=True, **more):
    """value: the Authorization header, or what makes it."""
    return lambda: scim("GET", "/Users?count=1", authorization=value() if callable(value) else value, address=next(addresses), **more)()


held = token(f"Bearer {TOKEN}")
for what, header in (("no token", None), ("empty header", ""), ("Basic", "Basic " + TOKEN), ("two tokens", [f"Bearer {TOKEN}", f"Bearer {TOKEN}"]),
                     ("no scheme", TOKEN)):
    case(f"token: {what}", "scim.token", token(header), held)
case("token in the query", "scim.token", lambda: scim("GET", f"/Users?access_token={TOKEN}", authorization=None, address=next(addresses))(), held)
case("token as x-api-key", "scim.token", lambda: scim("GET", "/Users", authorization=None, x_api_key=TOKEN, address=next(addresses))(), held)
case("token and a cookie", "scim.token", token(f"Bearer {TOKEN}", cookie=lambda: admin_cookie()), held)
case("an administrator's session", "scim.token", token(None, cookie=lambda: admin_cookie()), held)
case("an administrator's API key", "scim.token", token(lambda: "Bearer " + w.gw.new_key("admin")), held)
for what, value in (("wrong", "x" * 64), ("cut", TOKEN[:-1]), ("short", TOKEN[:8]), ("with more behind", TOKEN + "0"), ("in capitals", TOKEN.upper())):
    case(f"token: {what}", "scim.access_token", token(f"Bearer {value}"), held)


def admin_cookie():
    cookie = w.signed_in(name(), groups=("llm-admins",)).session_cookie()
    return f"{cookie.name}={cookie.value}"


def service_token(**over):
    return lambda: "Bearer " + w.access_token(**{"aud": SCIM_AUDIENCE, "client_id": "svc-scim", **over})


served = token(service_token())
now = lambda: int(time.time())
case("access token of the API's audience", "scim.access_token", token(service_token(aud=API_AUDIENCE)), served)
case("access token of another audience", "scim.access_token", token(service_token(aud="https://elsewhere")), served)
case("access token, expired", "scim.access_token", token(service_token(iat=now() - 900, exp=now() - 600)), served)
case("access token of another issuer", "scim.access_token", token(lambda: "Bearer " + w.second.mint(w.second.at_claims(aud=SCIM_AUDIENCE, client_id="svc-scim"),
                                                                                                    typ="at+jwt")), served)
case("access token with another's key", "scim.access_token", token(lambda: "Bearer " + w.idp.mint(
    w.idp.at_claims(aud=SCIM_AUDIENCE, client_id="svc-scim"), key=Key("RSA", "rsa-1"), typ="at+jwt")), served)
case("ID token in its place", "scim.access_token", token(lambda: "Bearer " + w.idp.mint(w.idp.id_claims(nonce=None))), served)
case("access token of another client", "scim.writer", token(service_token(client_id="svc-other", sub="ada", groups=["llm-users"])), served)
case("access token of an employee", "scim.writer", token(service_token(client_id="web", sub="ada", groups=["llm-users"])),
     token(service_token(client_id="web", sub="ada", groups=["llm-admins"])))
case("access token of a person without a role", "scim.access_token", token(service_token(client_id="web", sub="ada")), served)


def deactivated_admin(deactivated):
    email = name()
    w.user(email, active=not deactivated)
    attempt = token(service_token(client_id="web", sub=email, email=email, groups=["llm-admins"], iat=now() + 2))
    return within_a_second(attempt, ok=not deactivated)()


case("access token of an administrator who is deactivated", "scim.access_token", lambda: deactivated_admin(True), lambda: deactivated_admin(False))


def guessing(wrong):
    """The right token from an address that has been wrong so often."""
    address = next(addresses)
    for i in range(wrong):
        status, _ = ask("GET", "/Users?count=1", authorization=f"Bearer {i:064}", address=address)
        assert status == 401, status
    return scim("GET", "/Users?count=1", address=address)()


case("twenty guesses", "scim.throttle", lambda: guessing(FAILURES_MAX), lambda: guessing(FAILURES_MAX - 1))

# ---- heads ----
for what, kind in (("none", None), ("a form", "application/x-www-form-urlencoded"), ("text", "text/plain"), ("nearly", "application/scim+jsonx"),
                   ("twice", ["application/json", "text/plain"])):
    case(f"content type: {what}", "scim.content_type", scim("POST", "/Users", lambda: {"userName": name()}, content_type=kind),
         scim("POST", "/Users", lambda: {"userName": name()}, content_type="application/json; charset=utf-8"))
for method, path in (("PATCH", "/Users"), ("DELETE", "/Groups"), ("PUT", "/Users"), ("POST", "ONE"), ("GET", "/Users/.search"), ("OPTIONS", "/Users")):
    case(f"{method} {path}", "status 405", lambda m=method, p=path: scim(m, new_user() if p == "ONE" else p, {} if m not in ("GET", "DELETE") else None)(), created)
for path in ("/Me", "/Bulk", "/Users/1", "/Users/..%2f..%2fv1%2fmodels", f"/Users/{uuid.uuid4()}", f"/Users/{uuid.uuid4()}/x", "/Users'", "/Schemas/none", "/"):
    case(f"GET {path}"[:24], "status 404", scim("GET", path), lambda: scim("GET", new_user())())
for what, tag in (("stale", 'W/"7"'), ("not a tag", "1"), ("of a longer number", '"11"')):
    case(f"If-Match {what}", "scim.if_match", scim("DELETE", new_user, if_match=tag), scim("DELETE", new_user, if_match='"x", W/"1"'))
for what, tag in (("twice", ['"1"', '"2"']), ("too long", '"1", ' * 40), ("empty", "")):
    case(f"If-Match {what}", "scim.condition", scim("DELETE", new_user, if_match=tag), scim("DELETE", new_user, if_match="*"))
for what, query in (("startIndex=x", "startIndex=x"), ("count=1e3", "count=1e3"), ("count of 20 digits", "count=" + "9" * 20), ("startIndex twice", "startIndex=1&startIndex=2"),
                    ("count empty", "count="), ("count=--1", "count=--1"), ("broken escape", "filter=%zz"), ("a NUL", "filter=a%00b"),
                    ("both lists", "attributes=id&excludedAttributes=id"), ("a long list", "attributes=" + "a," * 600),
                    ("a filter of 1025 bytes", "filter=" + urllib.parse.quote('userName eq "' + "x" * 1011 + '"'))):
    case(f"query: {what}", "scim.query", listing(query), listing("startIndex=1&count=1"))


def page(query, start, most):
    """Bounds are moved, not refused: a page that begins before 1, or is larger than 200, is an attack that got what it wanted."""
    def run():
        status, answer = ask("GET", "/Users?" + query)
        got = answer["startIndex"], answer["itemsPerPage"], len(answer["Resources"])
        bad = status != 200 or got[0] != start or got[1] != got[2] or got[2] > most
        return {"ok": bad, "check": "page", "got": got}
    return run


for query, start, most in (("startIndex=-5&count=1", 1, 1), ("startIndex=0&count=1", 1, 1), ("count=-1", 1, 0), ("count=0", 1, 0), ("count=2000000000", 1, 200),
                           ("startIndex=2000000000", 1000000000, 0)):
    case(f"paging: {query}", "page", page(query, start, most), created)

# ---- bodies ----
deep = lambda n: '{"userName": "NAME", "x": ' + "[" * n + "1" + "]" * n + "}"
case("larger than 1 MiB", "scim.size", text(b'{"userName": "NAME"}' + b" " * (1 << 20)), text(b'{"userName": "NAME"}' + b" " * 1000000))
case("nested nine deep", "scim.depth", text(deep(8)), text(deep(7)), says="scim.shape")
case("nested a million deep", "scim.depth", text('{"x":' + "[" * 1000000), text(deep(7)), says="scim.shape")
case("too many values", "scim.values", text('{"userName": "NAME", "x": [' + "1," * VALUES_MAX + "1]}"), text('{"userName": "NAME", "x": [' + "1," * 50000 + "1]}"), says="scim.shape")
plain = text('{"userName": "NAME"}')
for what, raw in (("empty", ""), ("no JSON", "userName=x"), ("a list", '[{"userName": "x"}]'), ("a text", '"x"'), ("null", "null"), ("cut", '{"userName": "x"'),
                  ("more behind", '{"userName": "NAME"} {}'), ("a name twice", '{"userName": "NAME", "active": false, "active": true}'),
                  ("a name twice below", '{"userName": "NAME", "name": {"givenName": "a", "givenName": "b"}}'),
                  ("not UTF-8", b'{"userName": "NAME", "displayName": "\xff\xfe"}'), ("overlong UTF-8", b'{"userName": "NAME", "displayName": "\xc0\xaf"}'),
                  ("a NUL", '{"userName": "NAME", "displayName": "a\\u0000b"}'), ("half a surrogate", '{"userName": "NAME", "displayName": "\\ud800"}'),
                  ("UTF-16", '{"userName": "x"}'.encode("utf-16"))):
    case(f"body: {what}", "scim.json", text(raw), plain)
case("a name twice in other case", "scim.attribute_twice", text('{"userName": "NAME", "active": false, "Active": true}'), text('{"userName": "NAME", "Active": true}'))
case("a name twice, once with its URN", "scim.attribute_twice", text('{"userName": "NAME", "%s:userName": "root@x"}' % CORE), plain)
for what, value in (("1", 1), ("0", 0), ("yes", "yes"), ("null", None), ("empty", ""), ("a list", [False]), ("an object", {"value": False})):
    case(f"active is {what}", "scim.boolean", text(json.dumps({"userName": "NAME", "active": value})), create(active="False"))
    case(f"patch: active is {what}", "scim.boolean", patch_user({"op": "replace", "path": "active", "value": value}), patch_user({"op": "Replace", "path": "active", "value": "False"}))
case("userName missing", "scim.user_name", create(userName=None), created)
case("userName empty", "scim.user_name", create(userName=""), created)
case("userName null", "scim.user_name", text('{"userName": null}'), created)
case("userName of a blank", "scim.user_name", create(userName=" "), created)
case("userName with a blank at its end", "scim.user_name", lambda: create(userName=name() + " ")(), lambda: create(userName="A " + name())())
case("userName of 256 bytes", "scim.text_length", create(userName="é" * 128), lambda: create(userName=name() + "é" * 100)())
case("userName is a number", "scim.text_type", create(userName=7), created)
case("displayName is an object", "scim.text_type", create(displayName={"a": 1}), create(displayName="x"))
for what, value in (("a line break", "a\r\nb"), ("an escape", "a\x1b[2J"), ("a DEL", "a\x7f")):
    case(f"a name with {what}", "scim.text", create(displayName=value), create(displayName="Zoë \u202e O'Hara <b>"))
case("userName with a line break", "scim.text", lambda: create(userName="\n" + name())(), created)
case("name is a text", "scim.complex_type", create(name="Ada"), create(name={"givenName": "Ada"}))
case("e-mail address is a text", "scim.complex_type", create(emails=["a@x"]), create(emails=[{"value": "a@x"}]))
case("enterprise extension is a list", "scim.complex_type", create(**{ENTERPRISE: []}), create(**{ENTERPRISE: {}}))
addresses_of = lambda n: [{"value": f"{i}@x"} for i in range(n)]
case("too many e-mail addresses", "scim.emails_max", create(emails=addresses_of(EMAILS_MAX + 1)), create(emails=addresses_of(EMAILS_MAX)))
case("one address more", "scim.emails_max", patch_user({"op": "add", "path": "emails", "value": addresses_of(1)}, emails=addresses_of(EMAILS_MAX)),
     patch_user({"op": "add", "path": "emails", "value": addresses_of(1)}, emails=addresses_of(EMAILS_MAX - 1)))
one_more = {"op": "add", "path": 'emails[type eq "work"].value', "value": "w@x"}
case("one address more, by its type", "scim.emails_made", patch_user(one_more, emails=addresses_of(EMAILS_MAX)), patch_user(one_more, emails=addresses_of(EMAILS_MAX - 1)))
long = "x" * 255
case("more than 16 KiB in all", "scim.document", create(emails=[{"value": long, "display": long, "type": long, "primary": False}] * 16, title=long, nickName=long, displayName=long,
                                                         name={k: long for k in ("formatted", "familyName", "givenName", "middleName", "honorificPrefix")}, locale=long,
                                                         **{ENTERPRISE: {k: long for k in ("department", "division", "organization", "costCenter")}}),
     create(emails=[{"value": long, "display": long, "type": long}] * 16))


def taken(kind, first, second):
    """A name is one person's."""
    def run():
        mark = uuid.uuid4().hex
        put = lambda text: {k: v.replace("MARK", mark) for k, v in text.items()}
        assert ask("POST", kind, put(first))[0] == 201
        return scim("POST", kind, put(second))()
    return run


for what, kind, first, second in (("userName", "/Users", {"userName": "mARK@x"}, {"userName": "Mark@X"}), ("externalId", "/Users", {"userName": "1MARK", "externalId": "eMARK"}, {"userName": "2MARK", "externalId": "EMARK"}),
                                  ("displayName", "/Groups", {"displayName": "gMARK"}, {"displayName": "GMARK"})):
    first = {k: v.replace("mARK", "aMARK") for k, v in first.items()}
    second = {k: v.replace("Mark@X", "AMARK@X") for k, v in second.items()}
    case(f"{what} of another, in other case", "status 409", taken(kind, first, second), taken(kind, first, {k: "b" + v for k, v in second.items()}))
case("renamed to another's name", "status 409", lambda: (lambda taken: scim("PATCH", new_user(), patch({"op": "replace", "path": "userName", "value": taken.upper()}))())(w.user(name())["userName"]),
     lambda: scim("PATCH", new_user(), patch({"op": "replace", "path": "userName", "value": name()}))())

# ---- groups ----
member = lambda: w.user(name())["id"]
group_of = lambda *members: scim("POST", "/Groups", lambda: {"displayName": "g " + uuid.uuid4().hex, "members": [m() if callable(m) else m for m in members]})
made_group = group_of(lambda: {"value": member()})
case("group without a name", "scim.display_name", scim("POST", "/Groups", {"members": []}), group_of())
case("group with an empty name", "scim.display_name", scim("POST", "/Groups", {"displayName": ""}), group_of())
for what, value in (("a name", {"value": "ada"}), ("no value", {"display": "x"}), ("a number", {"value": 1}), ("an array of Postgres", {"value": "{" + str(uuid.uuid4())[:-2] + "}"}),
                    ("two ids", {"value": f"{uuid.uuid4()},{uuid.uuid4()}"}), ("a text", "x"), ("null", None)):
    case(f"member is {what}", "scim.member_id", group_of(value), made_group)
case("member who is not there", "scim.member_known", group_of({"value": str(uuid.uuid4())}), made_group)
case("member who was deleted", "scim.member_known", group_of(lambda: (lambda i: (ask("DELETE", "/Users/" + i), {"value": i})[1])(member())), made_group)
case("group as a member", "scim.member_known", group_of(lambda: {"value": new_group().split("/")[-1]}), made_group)
many = lambda n: scim("POST", "/Groups", lambda: {"displayName": "g " + uuid.uuid4().hex, "members": [{"value": member()}] * n})
case("too many members", "scim.members_max", many(MEMBERS_MAX + 1), many(MEMBERS_MAX))

# ---- patches ----
for what, operation in (("no op", {"path": "title", "value": "x"}), ("op is a number", {"op": 1, "path": "title", "value": "x"}), ("op is unknown", {"op": "move", "path": "title", "value": "x"}),
                        ("path is a list", {"op": "add", "path": ["title"], "value": "x"}), ("no value", {"op": "add", "path": "title"}), ("a text", "x"), ("a list", [])):
    case(f"operation: {what}", "scim.operation", patch_user(operation), patched)
case("no operations", "scim.operation", patch_user(), patched)
case("operations are an object", "scim.operation", scim("PATCH", new_user, {"Operations": {"op": "remove", "path": "title"}}), patched)
for path in ("sudo", "displayname2", "name.sudo", "emails[type eq \"work\"].sudo", "emails[sudo eq \"x\"].value", "members", ENTERPRISE + ":sudo", "name[givenName eq \"x\"].sudo",
             "urn:own:thing", "emails[", "emails[type eq \"work\"", "emails[type ne \"work\"].value", "name..givenName", "../userName", "userName ", "x" * 2000, "é", "password.x.y"):
    case(f"path {path[:24]!r}", "scim.path", patch_user({"op": "replace", "path": path, "value": "x"}), patched)
for path in ("active.sub", "active[value eq \"x\"]", "userName.value"):
    case(f"path {path!r} of a simple one", "scim.path_simple", patch_user({"op": "replace", "path": path, "value": "True"}), patched, says="scim.path")
case("brackets behind name", "scim.path_complex", patch_user({"op": "replace", "path": 'name[givenName eq "a"].familyName', "value": "x"}),
     patch_user({"op": "replace", "path": "name.familyName", "value": "x"}), says="scim.path")
for path in ("id", "meta", "groups", "schemas", "ID", CORE + ":id"):
    case(f"{path[-12:]} is written", "scim.read_only", patch_user({"op": "replace", "path": path, "value": str(uuid.uuid4())}),
         patch_user({"op": "replace", "value": {path: str(uuid.uuid4()), "title": "x"}}))
for path in ("userName", "active", CORE + ":active"):
    case(f"{path[-8:]} is removed", "scim.required", patch_user({"op": "remove", "path": path}), patch_user({"op": "remove", "path": "displayName"}))
case("userName is emptied", "scim.user_name", patch_user({"op": "replace", "path": "userName", "value": ""}), patched)
case("removal of nothing named", "scim.no_target", patch_user({"op": "remove", "value": {"title": ""}}), patch_user({"op": "remove", "path": "title"}))
case("an attribute twice in a value", "scim.key_twice", patch_user({"op": "replace", "value": {"active": False, "ACTIVE": True}}), patch_user({"op": "replace", "value": {"active": False}}))
twice = '{"Operations": [{"op": "remove", "path": "members", "value": [{"value": "%s"}], "%s": []}]}' % (uuid.uuid4(), "VALUE")
case("an operation that says its value twice", "scim.operation_twice", scim("PATCH", new_group, raw=twice), scim("PATCH", new_group, raw=twice.replace("VALUE", "comment")))
operations = [{"op": "replace", "path": "title", "value": str(i)} for i in range(OPERATIONS_MAX + 1)]
case("too many operations", "scim.operations_max", patch_user(*operations), patch_user(*operations[1:]))
case("one bad operation of three", "scim.path", patch_user(operations[0], {"op": "add", "path": "sudo", "value": "x"}, operations[1]), patch_user(*operations[:3]))
case("a group's id is written", "scim.group_read_only", patch_group({"op": "replace", "path": "id", "value": str(uuid.uuid4())}),
     lambda: patch_group({"op": "replace", "value": {"id": str(uuid.uuid4()), "displayName": "x" + uuid.uuid4().hex}})())
case("a group's name is removed", "scim.group_required", patch_group({"op": "remove", "path": "displayName"}), patch_group({"op": "remove", "path": "externalId"}))
case("a group's name is emptied", "scim.group_name", patch_group({"op": "replace", "path": "displayName", "value": ""}), group_patched)
case("a member's sub-attribute", "scim.path_members", patch_group({"op": "add", "path": "members.value", "value": []}), patch_group({"op": "add", "path": "members", "value": []}), says="scim.path")
case("a member is replaced in brackets", "scim.members_filter", patch_group({"op": "replace", "path": f'members[value eq "{uuid.uuid4()}"]', "value": []}),
     patch_group({"op": "remove", "path": f'members[value eq "{uuid.uuid4()}"]'}), says="scim.path")
case("members by their name", "scim.members_filter", patch_group({"op": "remove", "path": f'members[display eq "{uuid.uuid4()}"]'}), patch_group({"op": "remove", "path": "members"}), says="scim.path")
case("brackets behind a group's name", "scim.path_group", patch_group({"op": "replace", "path": 'displayName[value eq "a"]', "value": uuid.uuid4().hex}), group_patched, says="scim.path")

# ---- filters ----
for what, words in (("an attribute that is none", 'sudo eq "x"'), ("always true", 'userName eq "x" or 1 eq 1'), ("password", 'password eq "x"'), ("a column", 'user_name eq "x"'),
                    ("a group's attribute", 'members eq "x"'), ("a long name", "a" * 200 + ' eq "x"')):
    case(f"filter: {what}", "scim.filter_attribute", filtered(words), listed, says="scim.filter")
for what, words in (("nothing", ""), ("an operator that is not taken", 'userName gt "a"'), ("no value", "userName eq"), ("a value without quotes", "userName eq x"), ("quotes open", 'userName eq "x'),
                    ("an escape that is not taken", 'userName eq "\\u0000"'), ("a control character", 'userName eq "\n"'), ("parenthesis open", '(userName eq "x"'), ("active as a number", "active eq 1"),
                    ("active in part", 'active sw "t"'), ("brackets in brackets", 'emails[emails[type eq "x"]]'), ("negated without parentheses", 'not userName eq "x"'), ("a NUL's escape", 'userName eq "\\0"')):
    case(f"filter: {what}", "scim.filter", filtered(words), listed)
case("filter: more behind", "scim.filter_rest", filtered('userName eq "x" ; drop table identity.scim_users'), listed, says="scim.filter")
case("filter: a parenthesis too many", "scim.filter_rest", filtered('userName eq "x")'), listed, says="scim.filter")
case("filter: not UTF-8", "scim.filter_utf8", listing("filter=userName%20eq%20%22%ff%22"), listed, says="scim.filter")
case("filter: nine parentheses", "scim.filter_depth", filtered("(" * 9 + "id pr" + ")" * 9), filtered("(" * 8 + "id pr" + ")" * 8), says="scim.filter")
terms = lambda n: " or ".join(["id pr"] * n)
case("filter: too many terms", "scim.filter_size", filtered(terms(13)), filtered(terms(12)), says="scim.filter")
case("filter in a search: too deep", "scim.filter_depth", scim("POST", "/Users/.search", {"filter": "(" * 9 + "id pr" + ")" * 9}), scim("POST", "/Users/.search", {"filter": "id pr", "count": 1}), says="scim.filter")
case("search with a filter that is a list", "scim.search", scim("POST", "/Users/.search", {"filter": ["id pr"]}), scim("POST", "/Users/.search", {"count": 1}))


def injected(words):
    """The text is a value: it is nobody's name."""
    def run():
        user = w.user(name())
        status, answer = ask("GET", "/Users?filter=" + urllib.parse.quote(words.replace("NAME", user["userName"])))
        return {"ok": status == 200 and answer["totalResults"] == 1} if status == 200 and answer["totalResults"] else {"ok": False, "check": "nobody"}
    return run


for words in ("' OR '1'='1", "NAME'--", "NAME') OR true --", "$1", "%", "_" * 30, "NAME\\\" or userName pr or userName eq \\\"", "NAME\\\\", "E'\\\\x41'", "NAME/**/"):
    case(f"injected: {words}", "nobody", injected(f'userName eq "{words}"'), injected('userName eq "NAME"'))
case("injected into an id", "nobody", injected("id eq \"' OR true --\""), injected('userName eq "NAME"'))
case("injected by co", "nobody", injected('userName eq "NAME" and userName co "%"'), injected('userName eq "NAME" and userName co "@EXAMPLE"'))


# ---- who is deactivated ----
def deactivate(path):
    assert ask("PATCH", path, patch({"op": "replace", "value": {"active": False}}))[0] == 200


def deactivated(of, use, at_once=True):
    """of: makes what the person holds, before the deactivation; use: tries it and gives (accepted, status)."""
    def run(really):
        email = name()
        path = "/Users/" + w.user(email)["id"]
        held = of(email)
        if really:
            deactivate(path)
        attempt = lambda: (lambda accepted, status: {"ok": accepted, "check": f"status {status}"})(*use(held))
        return attempt() if at_once or not really else within_a_second(attempt)()
    return lambda: run(True), lambda: run(False)


models = lambda browser: (lambda page: (page.status == 200, page.status))(browser.fetch(w.gw.url + "/v1/models"))
by_token = lambda value: (lambda status: (status == 200, status))(w.gw.request("GET", "/v1/models", headers={"authorization": "Bearer " + value})[0])
api_token = lambda email, at=0, **more: w.access_token(**{"client_id": "web", "sub": "sub-" + email, "email": email, "groups": ["llm-users"], "iat": now() + at, **more})


def new_key(email):
    return w.gw.new_key(owner=email.upper())


def refreshable(email):
    name = secrets.token_hex(8)
    browser = w.signed_in(email, refresh_token=name)
    w.idp.refresh[name] = {"access_token": "a", "token_type": "Bearer", "id_token": w.idp.mint(w.idp.id_claims(sub="sub-" + email, email=email, nonce=None))}
    return browser


def new_sign_in(email):
    browser, page = w.sign_in(email)
    return page.status == 303 and browser.session_cookie() is not None, page.status


def sign_in_says(email):
    lines = lambda: [json.loads(line) for line in w.gw.log_tail("gateway", 4000).splitlines() if line.startswith("{") and '"sso.refused"' in line]
    before = len(lines())
    accepted, _ = new_sign_in(email)
    after = lines()
    return {"ok": accepted, "check": after[-1]["check"] if len(after) > before else "nothing said"}


def sign_in_case(active):
    email = name()
    w.user(email, active=active)
    return within_a_second(lambda: sign_in_says(email), ok=active)()


case("deactivated: his session", "status 401", *deactivated(w.signed_in, models))
case("deactivated: his API key", "status 401", *deactivated(new_key, by_token))
case("deactivated: the access token he has", "status 401", *deactivated(api_token, by_token))
case("deactivated: an access token that was in use", "status 401", *deactivated(lambda email: (lambda t: (by_token(t), t)[1])(api_token(email)), by_token))
case("deactivated: refresh of his session", "status 401", *deactivated(refreshable, lambda browser: (lambda p: (p.status == 200, p.status))(browser.api("POST", "/auth/refresh"))))
case("deactivated: a new sign-in", "scim.deactivated", lambda: sign_in_case(False), lambda: sign_in_case(True))
case("deactivated: an access token of afterwards", "scim.use_deactivated", *deactivated(lambda email: api_token(email, 2), by_token, at_once=False), says="status 403")
case("deactivated: written in capitals", "status 403", *deactivated(lambda email: api_token(email.upper(), 2), by_token, at_once=False))


def deleted(really):
    email = name()
    path = "/Users/" + w.user(email)["id"]
    if really:
        assert ask("DELETE", path)[0] == 204
    return within_a_second(lambda: sign_in_says(email), ok=not really)()


case("deleted: a new sign-in", "scim.deactivated", lambda: deleted(True), lambda: deleted(False))


def key_made(change):
    email = name()
    path = "/Users/" + w.user(email)["id"]
    change(path)
    done = w.gw.cli("key", "create", "--owner", email, "--role", "employee", check=False)
    return {"ok": done.returncode == 0, "check": "scim.key_owner" if f"the directory has deactivated {email}" in done.stderr else done.stderr}


case("deactivated: a new API key", "scim.key_owner", lambda: key_made(deactivate), lambda: key_made(lambda path: None))
strict_token = lambda email: w.second.mint(w.second.at_claims(aud=STRICT_AUDIENCE, client_id="web", sub="sub-" + email, email=email, groups=["llm-users"]), typ="at+jwt")


def unknown(known):
    email = name()
    if known:
        w.user(email)
    held = strict_token(email)
    return within_a_second(lambda: (lambda accepted, status: {"ok": accepted, "check": f"status {status}"})(*by_token(held)), ok=known)()


case("access token of somebody whom the directory does not know, where it must", "scim.use_required", lambda: unknown(False), lambda: unknown(True), says="status 403")


def role_by_group(lost):
    """A session whose one role came from a group of the directory."""
    email = name()
    user = w.user(email)
    found = w.find("Groups", 'externalId eq "llm-users"')[2]["Resources"]
    group = "/Groups/" + (found[0]["id"] if found else w.group("of the directory", externalId="llm-users")["id"])
    assert w.patch(group, {"op": "add", "path": "members", "value": [{"value": user["id"]}]})[0] == 204
    w.eventually(lambda: w.sign_in(email, groups=())[1].status == 303, 3)
    browser = w.signed_in(email, groups=())
    assert models(browser)[0]
    if lost:
        assert w.patch(group, {"op": "remove", "path": f'members[value eq "{user["id"]}"]'})[0] == 204
    return within_a_second(lambda: (lambda accepted, status: {"ok": accepted, "check": f"status {status}"})(*models(browser)), ok=not lost)()


case("session whose role the directory took", "scim.use_role", lambda: role_by_group(True), lambda: role_by_group(False), says="status 401")


def restart(off):
    w.gw.end("gateway")
    w.gw.env["GH_CHECK_OFF"] = off
    if not off:
        w.gw.env.pop("GH_CHECK_OFF")
    w.gw.start_gateway()


if __name__ == "__main__":
    with w:
        status = suite.main(restart)
    sys.exit(status or (1 if w.gw.sanitizer_report else 0))

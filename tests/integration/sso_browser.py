"""A browser for sign-in tests, as far as sign-in needs one: cookies with their attributes, redirects, forms. Standard library only.

It keeps SameSite as browsers do: a site is a host (ports do not count), a POST from another site brings only cookies with SameSite=None,
a navigation by GET those with Lax too.
"""
import html
import html.parser
import http.client
import json
import time
import urllib.parse

REDIRECTS_MAX = 15


class Page:
    def __init__(self, url, status, headers, body):
        self.url, self.status, self.headers, self.body = url, status, headers, body

    @property
    def text(self):
        return self.body.decode("utf-8", "replace")

    def json(self):
        return json.loads(self.body)

    def forms(self):
        parser = FormParser()
        parser.feed(self.text)
        return parser.forms

    def __repr__(self):
        return f"{self.status} {self.url.split('?')[0]}: {self.text[:300]!r}"


class FormParser(html.parser.HTMLParser):
    """Every form: its action, method and fields that have a value."""

    def __init__(self):
        super().__init__()
        self.forms = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form":
            self.forms.append({"action": attrs.get("action", ""), "method": attrs.get("method", "get").upper(), "fields": {}})
        elif tag == "input" and self.forms and attrs.get("name"):
            self.forms[-1]["fields"][attrs["name"]] = attrs.get("value", "")


class Cookie:
    def __init__(self, line, host):
        pair, *attributes = [part.strip() for part in line.split(";")]
        self.name, _, self.value = pair.partition("=")
        self.attributes = {}
        for attribute in attributes:
            name, _, value = attribute.partition("=")
            self.attributes[name.lower()] = value
        self.host = host
        self.path = self.attributes.get("path", "/")
        self.same_site = self.attributes.get("samesite", "Lax").lower()
        self.gone = self.attributes.get("max-age") in ("0", "-1") or "1970" in self.attributes.get("expires", "")
        if self.name.startswith("__Host-") and ("secure" not in self.attributes or self.path != "/" or "domain" in self.attributes):
            raise AssertionError(f"a browser refuses this cookie: {line}")
        if self.same_site == "none" and "secure" not in self.attributes:
            raise AssertionError(f"a browser refuses this cookie: {line}")

    def fits(self, url, method, from_site):
        if self.host != url.hostname or not url.path.startswith(self.path) or ("secure" in self.attributes and url.scheme != "https"):
            return False
        if from_site is None or from_site == url.hostname or self.same_site == "none":
            return True
        return self.same_site == "lax" and method == "GET"


class Browser:
    def __init__(self, stack):
        self.stack = stack
        self.cookies = {}
        self.csrf = None
        self.visited = []

    # ---- pages ----

    def fetch(self, url, method="GET", body=None, headers=None, from_site=None, timeout=20):
        """One request, no redirect. from_site: the host of the page that leads there; None: typed by the user."""
        parts = urllib.parse.urlsplit(url)
        cookies = "; ".join(f"{c.name}={c.value}" for c in self.cookies.values() if c.fits(parts, method, from_site))
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, context=self.stack.ssl_context(), timeout=timeout)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        all_headers = {"accept": "text/html,application/json", **({"cookie": cookies} if cookies else {}), **(headers or {})}
        connection.request(method, urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, "")), body, all_headers)
        answer = connection.getresponse()
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                self.keep(Cookie(value, parts.hostname))
        page = Page(url, answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        self.visited.append(page)
        return page

    def keep(self, cookie):
        key = (cookie.host, cookie.name, cookie.path)
        if cookie.gone:
            self.cookies.pop(key, None)
        else:
            self.cookies[key] = cookie

    def go(self, url, method="GET", body=None, headers=None, from_site=None, stop_at=None):
        """Follows redirects as a browser does. stop_at: a path that is not gone to; the page that leads there is given back."""
        for _ in range(REDIRECTS_MAX):
            page = self.fetch(url, method, body, headers, from_site)
            location = page.headers.get("location")
            if page.status not in (301, 302, 303, 307, 308) or not location:
                return page
            next_url = urllib.parse.urljoin(url, location)
            # once another site took part in a chain of redirects, the whole chain is cross-site
            host = urllib.parse.urlsplit(url).hostname
            if from_site is not None or host != urllib.parse.urlsplit(next_url).hostname:
                from_site = from_site if from_site not in (None, urllib.parse.urlsplit(next_url).hostname) else host
            url = next_url
            if page.status not in (307, 308):
                method, body, headers = "GET", None, None
            if stop_at and urllib.parse.urlsplit(url).path == stop_at:
                page.headers["location"] = url
                return page
        raise AssertionError(f"more than {REDIRECTS_MAX} redirects, at last to {url.split('?')[0]}")

    def submit(self, page, fields, form=0, **options):
        """Sends a form of the page, with what it holds and `fields`."""
        chosen = page.forms()[form]
        url = urllib.parse.urljoin(page.url, html.unescape(chosen["action"]) or page.url)
        site = urllib.parse.urlsplit(page.url)
        return self.go(url, chosen["method"], urllib.parse.urlencode({**chosen["fields"], **fields}),
                       {"content-type": "application/x-www-form-urlencoded", "origin": f"{site.scheme}://{site.netloc}"},
                       from_site=site.hostname, **options)

    # ---- single sign-on ----

    def sign_in(self, user, provider="corp", return_to=None, stop_at=None):
        """From the gateway's sign-in address by the demo provider's page back to the gateway."""
        query = f"?return_to={urllib.parse.quote(return_to, safe='')}" if return_to else ""
        page = self.go(f"{self.stack.url}/auth/oidc/{provider}/start{query}", stop_at=stop_at)
        if 'name="user"' in page.text:
            page = self.submit(page, {"user": user}, stop_at=stop_at)
        return page

    def leave_provider(self):
        """Signs out at the provider's own page; returns when that was sent (time.monotonic)."""
        page = self.go(f"{self.stack.idp_url}/session/end")
        sent = time.monotonic()
        self.submit(page, {"logout": "yes"})
        return sent

    # ---- the gateway's page ----

    def who(self):
        """What /auth/session says, or None."""
        page = self.fetch(f"{self.stack.url}/auth/session")
        if page.status != 200:
            return None
        self.csrf = page.json().get("csrf_token")
        return page.json()

    def own_headers(self):
        return {"origin": self.stack.url, "sec-fetch-site": "same-origin", "x-csrf-token": self.csrf or "", "content-type": "application/json"}

    def api(self, method, path, body=None):
        headers = {"sec-fetch-site": "same-origin"} if method == "GET" else self.own_headers()
        return self.fetch(f"{self.stack.url}{path}", method, json.dumps(body) if body is not None else None, headers)

    def models(self):
        return {model["id"] for model in self.api("GET", "/v1/models").json()["data"]}

    def session_cookie(self):
        return next((c for c in self.cookies.values() if c.name == "__Host-gatehouse"), None)


# ---- an answer that is on its way ----


def open_stream(gw, browser):
    """A long answer that has begun: (connection, response)."""
    connection = gw.connection(30)
    cookie = browser.session_cookie()
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": "mock-slow", "stream": True, "messages": [
        {"role": "user", "content": "Tell me a long story, " + "word " * 300}]}), {**browser.own_headers(), "cookie": f"{cookie.name}={cookie.value}"})
    answer = connection.getresponse()
    if answer.status != 200 or not answer.readline():
        raise AssertionError(f"the stream did not begin: {answer.status}")
    return connection, answer


WITHIN_S = 3.0  # the promise is a second; the rest is room for a busy machine


def wait_end(answer):
    """When the stream ended (time.monotonic), and what came after the call."""
    data = b""
    try:
        while True:
            line = answer.readline()
            if not line:
                break
            data += line
    except (http.client.HTTPException, OSError):
        pass
    return time.monotonic(), data

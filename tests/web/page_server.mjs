// A stand-in for the gateway's wire format: serves web/dist with the gateway's policy headers, and answers chat requests
// with scripts chosen by the first word of the last message. It is a test double for the page's tests only; the same
// scenarios run against a real gateway when BASE_URL is set (see chat_page.test.mjs).
//
// Run by hand to look at the page: node tests/web/page_server.mjs 8099, then open the printed link.

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { HOSTILE, MIXED } from './lib/samples.mjs';

const DIST = new URL('../../web/dist/', import.meta.url);
export const CSP = [
  "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "font-src 'self'", "connect-src 'self'",
  "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
].join('; ');
const TYPES = { html: 'text/html; charset=utf-8', js: 'text/javascript; charset=utf-8', css: 'text/css; charset=utf-8', svg: 'image/svg+xml', txt: 'text/plain; charset=utf-8' };
const COOKIE = '__session';

const MODELS = [
  { id: 'house-small', description: 'Quick and good for everyday texts.', max_class: 'secret', local_only: true },
  { id: 'house-large', description: 'Slower, for long documents and code.', max_class: 'secret', local_only: true },
  { id: 'cloud-frontier', description: 'The strongest model, for hard questions.', max_class: 'internal', local_only: false },
];

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

// One chat answer in progress, as the gateway writes it.
class Answer {
  constructor(server, response, body, stated) {
    Object.assign(this, { server, response, body, stated, id: `01jd${String(++server.answered).padStart(22, '0')}` });
  }

  open() {
    this.response.writeHead(200, { ...this.server.headers, 'content-type': 'text/event-stream', 'x-request-id': this.id });
  }

  gate(more = {}) {
    const cloud = this.body.model.startsWith('cloud');
    this.send(JSON.stringify({
      request_id: this.id, class: this.stated || 'internal', class_source: this.stated ? 'stated' : 'default', model: this.body.model,
      route: cloud ? 'Example Cloud' : 'engine-0', route_kind: cloud ? 'provider' : 'engine',
      reasons: ['Unmarked text counts as internal.', 'Rule 4: internal text may be answered here.'], masked: {}, ...more,
    }), 'gatehouse');
  }

  send(data, event) {
    this.response.write(`${event ? `event: ${event}\n` : ''}data: ${data}\n\n`);
  }

  chunk(delta, finish = null) {
    this.send(JSON.stringify({ id: `chatcmpl-${this.id}`, object: 'chat.completion.chunk', model: this.body.model, choices: [{ index: 0, delta, finish_reason: finish }] }));
  }

  end(finish = 'stop', usage = { prompt_tokens: 312, completion_tokens: 128, total_tokens: 440 }) {
    this.chunk({}, finish);
    this.send(JSON.stringify({ object: 'chat.completion.chunk', choices: [], usage }));
    this.send('[DONE]');
    this.response.end();
  }

  error(status, code, message, headers = {}) {
    this.server.json(this.response, status, { error: { message, type: 'gatehouse', code } }, { 'x-request-id': this.id, ...headers });
  }

  get gone() {
    return this.response.destroyed || this.response.writableEnded;
  }

  async stream(text, size = 12, pause = 4) {
    for (let at = 0; at < text.length && !this.gone; at += size) {
      this.chunk({ content: text.slice(at, at + size) });
      if (pause)
        await sleep(pause);
    }
  }

  async whole(text, size, pause) {
    this.open();
    this.gate();
    await this.stream(text, size, pause);
    if (!this.gone)
      this.end();
  }
}

const SCRIPTS = {
  async hello(answer) {
    await answer.whole('Hello. This is **an answer** in two parts.\n\nThe second part.');
  },
  async mixed(answer) {
    await answer.whole(MIXED, 40, 2);
  },
  async echo(answer) { // everything the model was told, for looking at what the page sends
    await answer.whole(`\`\`\`json\n${JSON.stringify(answer.body.messages)}\n\`\`\``, 400, 0);
  },
  async steps(answer) { // goes on when the test says so
    answer.open();
    await answer.server.gate('checked');
    answer.response.write(': waiting\n\n');
    await answer.server.gate('waited');
    answer.gate();
    await answer.server.gate('begun');
    answer.chunk({ role: 'assistant', content: '' });
    for (let i = 1; i <= 3; i++) {
      answer.chunk({ content: `Part ${i}.\n\n` });
      await answer.server.gate(`part ${i}`);
    }
    answer.end();
  },
  async endless(answer) {
    answer.open();
    answer.gate();
    while (!answer.gone)
      await answer.stream('Another sentence of an answer that never ends by itself.\n\n', 20, 5);
    answer.server.aborted++;
  },
  async masked(answer) {
    answer.open();
    answer.gate({ class: 'confidential', class_source: 'detector', masked: { card: 1, iban: 2 }, reasons: ['A card number was found and masked.'] });
    await answer.stream('Your card [CARD_MASKED] is noted; write to [EMAIL_MASKED]. [SECRET_MASKED] is only said.\n\nEnd.');
    await sleep(60); // the text has been drawn before the report comes
    answer.gate({ class: 'confidential', class_source: 'detector', masked: { card: 1, iban: 2, email: 1 }, reasons: ['A card number was found and masked.'] });
    answer.end();
  },
  async fallback(answer) {
    answer.open();
    answer.gate({ route: 'Example Cloud', route_kind: 'provider' });
    answer.gate({ route: 'engine-0', route_kind: 'engine', model: 'house-small', reasons: ['Example Cloud did not answer; the house model took over.'] });
    await answer.stream('Answered after a fallback.');
    answer.end('length');
  },
  async big(answer) { // 100 KB in pieces of 32 characters, ten at a time
    const text = MIXED.slice(0, MIXED.indexOf('```\nunclosed')).repeat(118).slice(0, 100_000);
    answer.open();
    answer.gate();
    for (let at = 0; at < text.length && !answer.gone; at += 320) {
      await answer.stream(text.slice(at, at + 320), 32, 0);
      await sleep(1);
    }
    answer.end();
  },
  async code(answer) {
    const lines = Array.from({ length: 400 }, (_, i) => `const line${i} = "${i}"; // <b>${i}</b>`);
    await answer.whole(`Here:\n\n\`\`\`js\n${lines.join('\n')}\n\n\tlast();\n\`\`\`\n\nDone.`, 64, 1);
  },
  async hostile(answer) {
    const name = answer.text.slice('hostile '.length);
    await answer.whole(HOSTILE[name], 997, 0);
  },
  async text(answer) { // answers with what is behind the first word
    await answer.whole(answer.text.slice('text '.length), 16, 1);
  },
  async broken(answer) {
    answer.open();
    answer.gate();
    await answer.stream('Half of an answ');
    answer.send(JSON.stringify({ error: { message: 'The model stopped unexpectedly. What you see is incomplete.', code: 'backend_failed' } }));
    answer.response.end();
  },
  async cut(answer) {
    answer.open();
    answer.gate();
    await answer.stream('Half of an answ');
    await sleep(300); // a reset connection may lose what the browser has not read yet
    answer.response.destroy();
  },
  async denied(answer) {
    answer.error(403, 'class_not_allowed', 'Confidential text may not go to cloud-frontier. Choose house-small or house-large.');
  },
  async limited(answer) { // once; the second try is answered
    if (answer.server.limited++ % 2)
      await answer.whole('Now it worked.');
    else
      answer.error(429, 'rate_limited', 'You have reached 20 requests per minute.', { 'retry-after': '4' });
  },
  async down(answer) {
    answer.error(503, 'audit_unavailable', 'The record cannot be written at present, so nothing was sent to a model.');
  },
  async toolarge(answer) {
    answer.error(413, 'too_large', 'The message is 2.1 MB; at most 1 MB can be sent.');
  },
  async plain502(answer) {
    answer.response.writeHead(502, { 'content-type': 'text/html' }).end('<h1>Bad gateway</h1><script>alert(1)</script>');
  },
  async expired(answer) {
    answer.server.sessions.clear();
    answer.error(401, 'session_ended', 'Your session has ended. Sign in again.');
  },
  async ended(answer) { // in the middle of the answer; `ended elsewhere`: by signing in anew in another tab
    answer.open();
    answer.gate();
    await answer.stream('Half of an answ');
    if (!answer.text.includes('elsewhere'))
      answer.server.sessions.clear();
    answer.send(JSON.stringify({ error: { message: 'Your session has ended. Sign in again.', type: 'authentication_error', param: null, code: 'session_ended' } }));
    answer.response.end();
  },
};

export class PageServer {
  headers = { 'content-security-policy': CSP, 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer', 'cache-control': 'no-store' };
  answered = 0;
  aborted = 0;
  limited = 0;
  requests = [];       // chat requests, as {headers, body}
  sessions = new Map(); // cookie -> CSRF token
  models = MODELS;
  subject = 'ada@example.org';
  name = '';
  roles = ['employee', 'finance'];
  stale = false;       // until it is refreshed
  refreshStatus = 200;
  refreshed = 0;
  signOutUrl = '';     // where the page goes on to
  #turn = 0;
  #gates = new Map();

  async start(port = 0) {
    this.http = createServer((request, response) => this.#route(request, response).catch(error => {
      console.error(error);
      response.destroy();
    }));
    await new Promise(resolve => this.http.listen(port, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${this.http.address().port}`;
    this.signInLink = `${this.url}/auth/once?token=one-time`;
  }

  stop() {
    this.http.closeAllConnections();
    this.http.close();
  }

  // A new session's cookie, and its token.
  #begin() {
    const cookie = `${COOKIE}=${++this.#turn}`;
    this.sessions.set(cookie, `csrf-${this.#turn}`);
    return `${cookie}; HttpOnly; SameSite=Strict; Path=/`;
  }

  // What another tab's refresh does: a new cookie in the browser, a new token, the old ones are dead.
  rotate() {
    this.sessions.clear();
    return this.#begin();
  }

  // Scripts wait here until the test calls pass(name).
  gate(name) {
    return new Promise(resolve => this.#gates.set(name, resolve));
  }

  async pass(name) {
    for (let i = 0; i < 500 && !this.#gates.has(name); i++)
      await sleep(10);
    this.#gates.get(name)();
    this.#gates.delete(name);
  }

  json(response, status, body, headers = {}) {
    response.writeHead(status, { ...this.headers, 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
  }

  async #route(request, response) {
    const { pathname, searchParams } = new URL(request.url, this.url);
    const key = `${request.method} ${pathname}`;
    if (key === 'GET /auth/once' && searchParams.get('token') === 'one-time') {
      return response.writeHead(303, { location: '/', 'set-cookie': this.#begin() }).end();
    }
    if (key === 'GET /rotated')
      return response.writeHead(204, { 'set-cookie': this.rotate() }).end();
    if (key === 'GET /auth/sign-in' || key === 'GET /signed-out')
      return response.writeHead(200, { ...this.headers, 'content-type': TYPES.html }).end(`<!doctype html><html lang="en"><title>x</title><h1>${pathname}</h1>`);
    if (key === 'GET /')
      return this.#file(response, 'index.html');
    if (request.method === 'GET' && /^\/assets\/[\w.-]+$/.test(pathname))
      return this.#file(response, pathname.slice(1));
    const cookie = (request.headers.cookie ?? '').split('; ').find(cookie => cookie.startsWith(`${COOKIE}=`));
    if (!cookie)
      return this.json(response, 401, { error: { message: 'No credentials were sent.', code: 'missing_credentials' } });
    if (!this.sessions.has(cookie))
      return this.json(response, 401, { error: { message: 'Your session has ended. Sign in again.', code: 'session_ended' } });
    return this.#signedIn(key, this.sessions.get(cookie), request, response);
  }

  async #signedIn(key, csrf, request, response) {
    if (!['GET', 'HEAD'].includes(request.method) && request.headers['x-csrf-token'] !== csrf)
      return this.json(response, 403, { error: { message: 'The request did not come from this page.', code: 'csrf_failed' } });
    if (this.stale && key.includes(' /v1/'))
      return this.json(response, 401, { error: { message: 'POST /auth/refresh', code: 'session_stale' } });
    switch (key) {
      case 'GET /auth/session':
        return this.json(response, 200, this.#session(csrf));
      case 'POST /auth/refresh':
        this.refreshed++;
        if (this.refreshStatus !== 200) {
          const code = this.refreshStatus === 401 ? 'session_ended' : 'identity_unavailable';
          if (this.refreshStatus === 401)
            this.sessions.clear();
          return this.json(response, this.refreshStatus, { error: { message: 'Not refreshed.', code } });
        }
        this.stale = false;
        return this.json(response, 200, this.#session(''), { 'set-cookie': this.rotate() });
      case 'POST /auth/logout':
        this.sessions.clear();
        return this.signOutUrl ? this.json(response, 200, { url: this.signOutUrl }) : response.writeHead(204, this.headers).end();
      case 'GET /v1/models':
        return this.json(response, 200, { object: 'list', data: this.models.map(({ id, ...gatehouse }) => ({ id, object: 'model', gatehouse })) });
      case 'POST /v1/chat/completions':
        return this.#chat(request, response);
      default:
        return this.json(response, 404, { error: { message: 'No such address.', code: 'not_found' } });
    }
  }

  #session(csrf_token) {
    return { subject: this.subject, name: this.name, email: '', provider: 'corp', roles: this.roles, csrf_token, expires_at: new Date(Date.now() + 28_800_000).toISOString() };
  }

  async #chat(request, response) {
    let text = '';
    for await (const piece of request)
      text += piece;
    const body = JSON.parse(text);
    this.requests.push({ headers: request.headers, body });
    const answer = new Answer(this, response, body, request.headers['x-data-class']);
    answer.text = body.messages.at(-1).content;
    const script = /^\w+/.exec(answer.text)?.[0];
    await (Object.hasOwn(SCRIPTS, script) ? SCRIPTS[script] : SCRIPTS.hello)(answer);
  }

  async #file(response, name) {
    const bytes = await readFile(new URL(name, DIST)).catch(() => null);
    if (!bytes)
      return this.json(response, 404, { error: { message: 'No such file.', code: 'not_found' } });
    response.writeHead(200, { ...this.headers, 'content-type': TYPES[name.split('.').at(-1)] ?? 'application/octet-stream' }).end(bytes);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = new PageServer();
  await server.start(Number(process.argv[2] ?? 8099));
  console.log(`Open ${server.signInLink}`);
}

// A real OpenID provider with demo users, to try single sign-on: `./dev run --demo-idp` starts it, and so do the tests.
//
//   node idp.mjs CONFIG.json [--test]
//
// CONFIG.json is written by deploy/stack.py: {modules, port, issuer, gateway, audiences, client_secret, service_secret, users, tls?: {cert, key}}.
// It listens on 127.0.0.1 alone and asks for no password: whoever opens it may be any of its users. Never an identity provider of anything real.
// Clients: gatehouse (code, PKCE, refresh tokens, back-channel logout) and svc-batch (client credentials).
// --test adds POST /test/... : rotate keys, change users, break answers. See `controls`.
import { randomBytes, generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const testing = process.argv.includes('--test');
const resolve = createRequire(`${config.modules}/`).resolve;
const { default: Provider } = await import(pathToFileURL(resolve('oidc-provider')).href);

// ---- users and keys ----

const users = new Map(config.users.map(user => [user.id, user]));

function newKey(alg) {
  const { privateKey } = alg === 'ES256' ? generateKeyPairSync('ec', { namedCurve: 'P-256' }) : generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg, kid: `${alg}-${randomBytes(4).toString('hex')}` };
}

let keys = [newKey('RS256'), newKey('ES256')];

function account(id) {
  const user = users.get(id);
  if (!user || user.disabled) return undefined;
  const { name, email, groups } = user;
  return {
    accountId: id,
    claims: () => ({ sub: id, preferred_username: id, name, email, email_verified: true, groups }),
  };
}

// ---- the provider ----

// Everything a user could be asked to consent to is granted: the only application is the company's own.
async function grantAll(ctx) {
  const { provider, client, session, params, result } = ctx.oidc;
  const known = result?.consent?.grantId ?? session.grantIdFor(client.clientId);
  const grant = (known && await provider.Grant.find(known)) || new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope(params.scope ?? 'openid');
  for (const resource of [params.resource ?? []].flat()) grant.addResourceScope(resource, 'llm');
  await grant.save();
  return grant;
}

// Access tokens are JWTs, but for one audience, whose tokens must be asked about (introspection).
function resourceServer(ctx, resource) {
  if (!config.audiences.includes(resource)) throw new Error(`no such resource: ${resource}`);
  const format = resource === 'urn:gatehouse:opaque' ? { accessTokenFormat: 'opaque' } : { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } };
  return { scope: 'llm', audience: resource, accessTokenTTL: 300, ...format };
}

function settings() {
  return {
    jwks: { keys },
    cookies: { keys: [cookieKey] },
    pkce: { required: () => true },
    clients: [
      {
        client_id: 'gatehouse', client_secret: config.client_secret, grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'], redirect_uris: [`${config.gateway}/auth/oidc/corp/callback`], post_logout_redirect_uris: [`${config.gateway}/`],
        backchannel_logout_uri: `${config.gateway}/auth/oidc/corp/logout`, backchannel_logout_session_required: true,
      },
      { client_id: 'svc-batch', client_secret: config.service_secret, grant_types: ['client_credentials'], response_types: [], redirect_uris: [] },
      { client_id: 'svc-other', client_secret: config.service_secret, grant_types: ['client_credentials'], response_types: [], redirect_uris: [] },
    ],
    scopes: ['openid', 'offline_access', 'profile', 'email', 'groups', 'llm'],
    claims: { openid: ['sub'], profile: ['name', 'preferred_username'], email: ['email', 'email_verified'], groups: ['groups'] },
    conformIdTokenClaims: false, // claims of the scopes go into the ID token, as with most companies' providers
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
      clientCredentials: { enabled: true },
      dPoP: { enabled: true },
      introspection: { enabled: true, allowedPolicy: (ctx, client) => client.clientId === 'gatehouse' },
      revocation: { enabled: true },
      rpInitiatedLogout: { enabled: true, logoutSource: logoutPage, postLogoutSuccessSource: loggedOutPage },
      resourceIndicators: {
        enabled: true, defaultResource: () => undefined, useGrantedResource: () => true, getResourceServerInfo: resourceServer,
      },
    },
    extraTokenClaims: (ctx, token) => (token.accountId && users.has(token.accountId) ? { groups: users.get(token.accountId).groups } : undefined),
    findAccount: (ctx, id) => account(id),
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
    expiresWithSession: () => true,
    rotateRefreshToken: true,
    loadExistingGrant: grantAll,
    // its own guard refuses addresses of this machine, and the gateway is on this machine
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
    ttl: { AccessToken: 300, ClientCredentials: 300, Grant: 28800, IdToken: 300, Interaction: 600, RefreshToken: 28800, Session: 28800 },
  };
}

const cookieKey = randomBytes(24).toString('hex');
const log = [];
let provider, answer;

// Also after a rotation of keys. Sessions, codes and tokens are kept: they live in the library's store, not in the provider.
function build() {
  provider = new Provider(config.issuer, settings());
  for (const event of ['authorization.error', 'backchannel.error', 'backchannel.success', 'grant.error', 'introspection.error', 'server_error']) {
    provider.on(event, (ctx, error) => {
      const what = error instanceof Error ? `${error.message} ${error.error_description ?? ''} ${error.cause?.message ?? ''}`.trim() : '';
      log.push({ event, what });
      console.log(event, what);
    });
  }
  answer = provider.callback();
}

// ---- pages ----

const escapes = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const escaped = text => String(text).replace(/[&<>"']/g, c => escapes[c]);

function page(title, body) {
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escaped(title)}</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 26rem; margin: 12vh auto; padding: 0 1rem; }
  h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
  p { color: GrayText; margin: .2rem 0 1.2rem; }
  button { font: inherit; display: block; width: 100%; text-align: left; margin: .5rem 0; padding: .7rem 1rem; border: 1px solid GrayText;
           border-radius: .5rem; background: Canvas; color: CanvasText; cursor: pointer; }
  button:hover, button:focus-visible { border-color: Highlight; outline: 2px solid Highlight; }
  small { display: block; color: GrayText; }
</style>
<main><h1>${escaped(title)}</h1>${body}</main></html>`;
}

function send(response, status, html) {
  response.writeHead(status, {
    'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store', 'x-content-type-options': 'nosniff',
    'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
  });
  response.end(html);
}

function signInPage(interaction) {
  const buttons = [...users.values()].filter(user => !user.hidden).map(user =>
    `<button name="user" value="${escaped(user.id)}">${escaped(user.name)}<small>${escaped(user.about)}</small></button>`);
  return page('Who are you?', `<p>A demo identity provider: no password is asked for.</p>
<form method="post" action="/interaction/${escaped(interaction)}">${buttons.join('\n')}</form>`);
}

function logoutPage(ctx, form) {
  ctx.body = page('Sign out', `<p>of the demo identity provider, and of Gatehouse with it.</p>${form}
<button form="op.logoutForm" name="logout" value="yes">Sign out</button><button form="op.logoutForm">Stay signed in</button>`);
}

function loggedOutPage(ctx) {
  ctx.body = page('Signed out', `<p>Gatehouse ends your sessions at once.</p><a href="${escaped(config.gateway)}/">Back to Gatehouse</a>`);
}

function frontPage() {
  return page('Demo identity provider', `<p>It signs people in to <a href="${escaped(config.gateway)}/">Gatehouse</a>.
To see a session end everywhere, <a href="/session/end">sign out here</a>.</p>`);
}

// ---- requests ----

const fields = async request => {
  let text = '';
  for await (const chunk of request) {
    text += chunk;
    if (text.length > 65536) throw new Error('too much');
  }
  return text;
};

async function interact(request, response, uid) {
  const interaction = await provider.interactionDetails(request, response);
  if (interaction.prompt.name === 'consent') return provider.interactionFinished(request, response, { consent: {} }, { mergeWithLastSubmission: true });
  if (request.method !== 'POST') return send(response, 200, signInPage(uid));
  const id = new URLSearchParams(await fields(request)).get('user');
  const result = account(id) ? { login: { accountId: id, amr: ['pwd'], acr: 'urn:gatehouse:demo' } }
    : { error: 'access_denied', error_description: 'this user may not sign in' };
  return provider.interactionFinished(request, response, result);
}

// What tests may do: change a user, rotate the signing keys (drop: forget the old ones), let an address fail (status, "hang", "html", "slow:MS").
const faults = new Map();
const controls = {
  user: ({ id, ...changes }) => Object.assign(users.get(id), changes),
  rotate({ drop }) {
    keys = [newKey('RS256'), newKey('ES256'), ...(drop ? [] : keys)];
    build();
    return keys.map(key => key.kid);
  },
  fault({ path, how }) {
    if (how) faults.set(path, how);
    else faults.delete(path);
    return [...faults];
  },
  async logout({ id, sid }) {
    await (await provider.Client.find('gatehouse')).backchannelLogout(id, sid);
    return 'sent';
  },
  log: () => log.splice(0),
};

async function control(request, response, name) {
  const known = Object.hasOwn(controls, name) && request.method === 'POST';
  const result = known ? await controls[name](JSON.parse(await fields(request) || '{}')) : 'no such control';
  response.writeHead(known ? 200 : 404, { 'content-type': 'application/json' });
  response.end(JSON.stringify(result));
}

// True when the answer was given (or is never to come).
async function fail(response, how) {
  if (how.startsWith('slow:')) {
    await pause(Number(how.slice(5)));
    return false;
  }
  if (how === 'html') send(response, 200, page('Hello', ''));
  else if (how !== 'hang') response.writeHead(Number(how), { 'content-type': 'application/json' }).end('{"error":"server_error"}');
  return true;
}

async function serve(request, response) {
  const { pathname } = new URL(request.url, config.issuer);
  if (testing && pathname.startsWith('/test/')) return control(request, response, pathname.slice(6));
  if (faults.has(pathname) && await fail(response, faults.get(pathname))) return undefined;
  if (pathname === '/') return send(response, 200, frontPage());
  const interaction = /^\/interaction\/([\w-]+)$/.exec(pathname);
  return interaction ? interact(request, response, interaction[1]) : answer(request, response);
}

function onRequest(request, response) {
  serve(request, response).catch(error => {
    console.log(request.method, request.url.split('?')[0], error.message);
    if (!response.headersSent) send(response, 400, page('That did not work', '<p>Start again at Gatehouse.</p>'));
  });
}

build();
const server = config.tls ? https.createServer({ cert: readFileSync(config.tls.cert), key: readFileSync(config.tls.key) }, onRequest)
  : http.createServer(onRequest);
server.listen(config.port, '127.0.0.1', () => console.log(`ready ${config.issuer}`));

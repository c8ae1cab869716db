// What @node-saml/node-saml and jose think of a message. One JSON object a line on stdin, one answer a line on stdout, in order:
//   {kind: "response"|"logout", binding, message, certificate, audience, entity_id, acs_url, skew_ms, request_id, now_ms}
//   {kind: "jwt", token, jwks, issuer, audience, algorithms, skew_s, typ}
// Answer: {ok: true, subject, groups} or {ok: false, why}. {ok: null, why} when the judge itself failed.
import { webcrypto } from 'node:crypto'
import readline from 'node:readline'

globalThis.crypto ??= webcrypto // node 18
const { SAML, ValidateInResponseTo } = (await import('@node-saml/node-saml')).default
const { createLocalJWKSet, jwtVerify } = await import('jose')

function serviceProvider(asked) {
  const known = new Map([[asked.request_id, new Date().toISOString()]])
  return new SAML({
    callbackUrl: asked.acs_url, issuer: asked.entity_id, audience: asked.audience, idpCert: asked.certificate,
    entryPoint: 'https://idp.test/sso', wantAssertionsSigned: true, wantAuthnResponseSigned: false, acceptedClockSkewMs: asked.skew_ms,
    validateInResponseTo: ValidateInResponseTo.always, idpIssuer: asked.issuer, maxAssertionAgeMs: 0,
    cacheProvider: {
      saveAsync: async () => null,
      getAsync: async (key) => known.get(key) ?? null,
      removeAsync: async (key) => (known.delete(key) ? key : null),
    },
  })
}

async function response(asked) {
  const { profile } = await serviceProvider(asked).validatePostResponseAsync({ SAMLResponse: asked.message })
  if (!profile) throw new Error('no profile')
  return { ok: true, subject: profile.nameID ?? null, groups: [profile.attributes?.groups ?? []].flat() }
}

async function logout(asked) {
  const sp = serviceProvider(asked)
  const { profile } = asked.binding === 'redirect'
    ? await sp.validateRedirectAsync(Object.fromEntries(new URLSearchParams(asked.message)), asked.message)
    : await sp.validatePostRequestAsync({ SAMLRequest: asked.message })
  return { ok: true, subject: profile?.nameID ?? null }
}

async function jwt(asked) {
  const { payload } = await jwtVerify(asked.token, createLocalJWKSet(asked.jwks), {
    issuer: asked.issuer, audience: asked.audience, algorithms: asked.algorithms, clockTolerance: asked.skew_s, typ: asked.typ,
    requiredClaims: ['exp', 'iat', 'aud', 'iss'],
  })
  return { ok: true, subject: payload.sub ?? null }
}

const judges = { response, logout, jwt }
for await (const line of readline.createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line)
  const answer = await judges[asked.kind](asked).catch((error) => ({ ok: false, why: `${error.name}: ${error.message}`.slice(0, 200) }))
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}

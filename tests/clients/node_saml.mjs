// A second opinion on SAML responses: each line of standard input is {response, request_id, name, cert, acs, audience, issuer}, each line of
// output what node-saml makes of it: {ok, subject} or {ok: false, why}.
import { SAML } from '@node-saml/node-saml';
import { createInterface } from 'node:readline';

async function judge({ response, request_id: requestId, name, cert, acs, audience, issuer }) {
  const known = new Map([[requestId, new Date().toISOString()]]);
  const saml = new SAML({
    idpCert: cert, callbackUrl: acs, issuer: audience, audience, idpIssuer: issuer,
    wantAssertionsSigned: name === 'inner', wantAuthnResponseSigned: name !== 'inner' && name !== 'either', acceptedClockSkewMs: 60000,
    validateInResponseTo: 'always', maxAssertionAgeMs: 900000,
    cacheProvider: {
      saveAsync: async (key, value) => ({ value, createdAt: Date.now() }),
      getAsync: async key => known.get(key) ?? null,
      removeAsync: async key => (known.delete(key) ? key : null),
    },
  });
  const { profile } = await saml.validatePostResponseAsync({ SAMLResponse: response });
  return { ok: true, subject: profile?.nameID ?? null };
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = await judge(JSON.parse(line));
  } catch (error) {
    answer = { ok: false, why: String(error?.message ?? error).slice(0, 200) };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}

// The official OpenAI SDK against a running gateway. Environment: BASE, KEY, MODEL, PROVIDER_MODEL, BROKEN_MODEL, NARROW_KEY; prints TAP.
// The gateway's certificate authority comes in by NODE_EXTRA_CA_CERTS: the SDK's own TLS checks stay on.
import OpenAI, { APIError, AuthenticationError, BadRequestError, NotFoundError, PermissionDeniedError, RateLimitError } from 'openai';
import assert from 'node:assert/strict';

const { BASE, KEY, MODEL, PROVIDER_MODEL, BROKEN_MODEL, NARROW_KEY } = process.env;
const client = (apiKey, options = {}) => new OpenAI({ baseURL: BASE, apiKey, maxRetries: 0, ...options });
const openai = client(KEY);
const messages = [{ role: 'system', content: 'You are brief.' }, { role: 'user', content: 'What is Gatehouse, in ünïcode 狗?' }];
const cases = {};

cases['models: list and retrieve'] = async () => {
  const ids = [];
  for await (const model of openai.models.list()) ids.push(model.id);
  assert(ids.includes(MODEL));
  assert.equal((await openai.models.retrieve(MODEL)).id, MODEL);
};
cases['models: unknown is NotFoundError with its code'] = async () => {
  const error = await openai.models.retrieve('nope/x y').catch((e) => e);
  assert(error instanceof NotFoundError);
  assert.equal(error.code, 'model_not_found');
  assert.match(error.requestID, /^[0-9a-z]{26}$/);
};
cases['chat: whole answer'] = async () => {
  const answer = await openai.chat.completions.create({ model: MODEL, messages, temperature: 0, max_completion_tokens: 40 });
  assert(answer.choices[0].message.content.length > 0);
  assert.equal(answer.choices[0].message.refusal, null);
  assert(answer.usage.total_tokens > 0);
  assert.match(answer._request_id, /^[0-9a-z]{26}$/);
};
for (const model of ['MODEL', 'PROVIDER_MODEL']) {
  cases[`chat: stream with usage (${model})`] = async () => {
    const stream = await openai.chat.completions.create({
      model: process.env[model], messages, temperature: 0, stream: true, stream_options: { include_usage: true },
    });
    let text = '';
    let usage;
    let finish;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? '';
      finish ??= chunk.choices[0]?.finish_reason ?? undefined;
      usage = chunk.usage ?? usage;
    }
    assert(text.length > 5);
    assert(['stop', 'length'].includes(finish));
    assert(usage.completion_tokens > 0);
  };
}
cases['chat: the stream helper agrees with the whole answer'] = async () => {
  const whole = await openai.chat.completions.create({ model: MODEL, messages, temperature: 0 });
  const stream = openai.chat.completions.stream({ model: MODEL, messages, temperature: 0 });
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
};
cases['chat: abort in mid-stream, then the next call works'] = async () => {
  const stream = await openai.chat.completions.create({ model: PROVIDER_MODEL, messages, stream: true });
  for await (const chunk of stream) {
    assert(chunk.id);
    stream.controller.abort();
    break;
  }
  await openai.chat.completions.create({ model: MODEL, messages, max_tokens: 1 });
};
cases['chat: a stream that breaks upstream raises'] = async () => {
  const stream = await openai.chat.completions.create({ model: BROKEN_MODEL, messages, stream: true });
  let text = '';
  const error = await (async () => {
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? '';
  })().catch((e) => e);
  assert(error instanceof APIError, 'nothing was raised');
  assert.equal(error.code, 'upstream_broken');
  assert(text.length > 5);
};
cases['errors: wrong key is AuthenticationError'] = async () => {
  const error = await client('gh_wrong').chat.completions.create({ model: MODEL, messages }).catch((e) => e);
  assert(error instanceof AuthenticationError);
  assert.equal(error.code, 'invalid_api_key');
};
cases['errors: empty messages is BadRequestError'] = async () => {
  const error = await openai.chat.completions.create({ model: MODEL, messages: [] }).catch((e) => e);
  assert(error instanceof BadRequestError);
  assert.equal(error.param, 'messages');
};
cases['errors: class too high is PermissionDeniedError'] = async () => {
  const error = await openai.chat.completions.create({ model: MODEL, messages }, { headers: { 'X-Data-Class': 'secret' } }).catch((e) => e);
  assert(error instanceof PermissionDeniedError);
  assert.equal(error.code, 'class_too_high');
};
cases['errors: too many requests is RateLimitError, and the SDK can wait it out'] = async () => {
  const narrow = client(NARROW_KEY);
  const error = await (async () => {
    for (let i = 0; i < 5; i++) await narrow.chat.completions.create({ model: MODEL, messages, max_tokens: 1 });
  })().catch((e) => e);
  assert(error instanceof RateLimitError);
  assert(Number(error.headers.get('retry-after')) >= 1);
};

const names = Object.keys(cases);
console.log(`1..${names.length}`);
let failed = 0;
for (const [i, name] of names.entries()) {
  try {
    await cases[name]();
    console.log(`ok ${i + 1} - sdk ${name}`);
  } catch (error) {
    failed++;
    console.log(String(error.stack).replace(/^/gm, '# '));
    console.log(`not ok ${i + 1} - sdk ${name}`);
  }
}
process.exit(failed ? 1 : 0);

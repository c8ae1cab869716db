// The page's side of the gateway's wire format. Nothing here touches the document.

import { SseParser } from './sse.js';
import { t } from './strings.js';

// A refusal or a failure, in the gateway's own words where it has any. `status` 0: no answer was received.
export class ApiError extends Error {
  constructor({ status = 0, code = '', message, retryAfter = 0, requestId = '' }) {
    super(message);
    Object.assign(this, { status, code, retryAfter, requestId });
  }
}

// The session, or null when this browser is not signed in.
export async function fetchSession() {
  const response = await send('/auth/session');
  if (response.status === 401)
    return null;
  return (await checked(response)).json();
}

export async function fetchModels(account) {
  const list = await (await account.request('/v1/models')).json();
  return list.data.map(model => ({
    id: model.id,
    description: model.gatehouse?.description ?? '',
    maxClass: model.gatehouse?.max_class ?? 'public',  // unknown means the least
    localOnly: model.gatehouse?.local_only === true,
  }));
}

// Streams one answer. `on` hears: gate(info), waiting(), text(string), usage(object), finish(reason).
// Resolves at [DONE]; rejects with ApiError, or AbortError when `signal` fired.
export async function streamChat({ account, model, messages, dataClass, signal, on }) {
  const headers = { 'content-type': 'application/json', accept: 'text/event-stream' };
  if (dataClass)
    headers['x-data-class'] = dataClass;
  const body = JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } });
  const response = await account.request('/v1/chat/completions', { method: 'POST', headers, body, signal });
  const requestId = response.headers.get('x-request-id') ?? '';
  let done = false;
  const parser = new SseParser({
    onComment: comment => comment.startsWith('waiting') && on.waiting(),
    onEvent(name, data) {
      if (name === 'gatehouse')
        on.gate(parse(data, requestId));
      else if (data === '[DONE]')
        done = true;
      else if (name === 'message')
        chunk(parse(data, requestId), on, requestId);
    },
  });
  await readAll(response, parser, requestId, () => done);
  if (!done)
    throw new ApiError({ message: t.brokenOff, code: 'stream_ended', requestId });
}

async function readAll(response, parser, requestId, isDone) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    while (!isDone()) {
      const { value, done } = await reader.read();
      if (done)
        return;
      parser.push(value);
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === 'AbortError')
      throw error;
    throw new ApiError({ message: t.brokenOff, code: 'stream_broken', requestId });
  } finally {
    reader.cancel().catch(() => {}); // after [DONE] nothing more is wanted; after an error it has ended already
  }
}

function chunk(data, on, requestId) {
  if (data.error)
    throw new ApiError({ ...data.error, status: 0, message: data.error.message || t.brokenOff, requestId });
  const choice = data.choices?.[0];
  if (typeof choice?.delta?.content === 'string' && choice.delta.content)
    on.text(choice.delta.content);
  if (choice?.finish_reason)
    on.finish(choice.finish_reason);
  if (data.usage)
    on.usage(data.usage);
}

function parse(data, requestId) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError({ message: t.brokenOff, code: 'stream_malformed', requestId });
  }
}

export async function send(path, options = {}) {
  try {
    return await fetch(path, { credentials: 'same-origin', cache: 'no-store', redirect: 'error', ...options });
  } catch (error) {
    if (error.name === 'AbortError')
      throw error;
    throw new ApiError({ message: t.offline, code: 'offline' });
  }
}

export async function checked(response) {
  if (response.ok)
    return response;
  const body = await response.json().catch(() => null);
  throw new ApiError({
    status: response.status,
    code: body?.error?.code ?? '',
    message: body?.error?.message || t.httpError(response.status),
    retryAfter: retryAfter(response.headers.get('retry-after')),
    requestId: response.headers.get('x-request-id') ?? '',
  });
}

// Seconds, from either form of the header (RFC 9110 section 10.2.3), at most an hour.
function retryAfter(value) {
  if (!value)
    return 0;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(3600, Math.max(0, Math.ceil(seconds))) : 0;
}

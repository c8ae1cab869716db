// Who is signed in, and requests in that name.
//
// A session can change under the page: it must be refreshed with its provider (session_stale), another tab has refreshed it, so
// that our CSRF token is of a former one (csrf_failed), or it is over. What can be mended is mended here, once for all requests
// that wait; then each is sent once more, and only when the session is still the same person's.

import { ApiError, checked, fetchSession, send } from './api.js';
import { t } from './strings.js';

const SETTLE_MS = 300; // another tab may be refreshing: its new cookie is on its way

export class Account {
  session = undefined; // undefined: not known yet, null: signed out
  #mending = null;
  #onChange;

  // onChange(session, former): a session was read that is not the one before.
  constructor(onChange) {
    this.#onChange = onChange;
  }

  async read() {
    const former = this.session;
    this.session = await fetchSession();
    this.#onChange(this.session, former);
    return this.session;
  }

  leave() {
    this.session = null;
  }

  // Refused with 401, the session has been read anew: `session` says whether it is over.
  async request(path, options) {
    const asked = this.session;
    try {
      return await checked(await this.#send(path, options));
    } catch (error) {
      if (error.status !== 401 && error.code !== 'csrf_failed')
        throw error;
      this.#mending ??= this.#mend(error).finally(() => { this.#mending = null; });
      await this.#mending;
    }
    if (!samePerson(asked, this.session))
      throw new ApiError({ status: 401, code: 'session_ended', message: t.otherPerson });
    const response = await this.#send(path, options);
    return checked(response).catch(error => {
      throw error.code === 'session_stale' ? new ApiError({ ...error, status: 503, message: t.notConfirmed }) : error;
    });
  }

  // Signs out here; resolves to where the browser goes on to sign out at the provider, or ''.
  async signOut() {
    const response = await this.request('/auth/logout', { method: 'POST' });
    const { url } = response.status === 204 ? {} : await response.json().catch(() => ({}));
    return webAddress(url);
  }

  #send(path, options = {}) {
    const csrf = options.method ? { 'x-csrf-token': this.session?.csrf_token ?? '' } : {};
    return send(path, { ...options, headers: { ...options.headers, ...csrf } });
  }

  // Throws when the session is over, or cannot be known.
  async #mend(error) {
    const refresh = error.code === 'session_stale' ? await this.#send('/auth/refresh', { method: 'POST' }) : null;
    if (error.code === 'session_ended' || refresh?.status === 503)
      await new Promise(resolve => setTimeout(resolve, SETTLE_MS));
    if (!await this.read())
      throw new ApiError({ status: 401, code: 'session_ended', message: t.sessionOver });
  }
}

function samePerson(one, other) {
  return one?.subject === other?.subject && one?.provider === other?.provider;
}

function webAddress(text) {
  const url = typeof text === 'string' && URL.canParse(text) ? new URL(text) : null;
  return url && /^https?:$/.test(url.protocol) ? url.href : '';
}

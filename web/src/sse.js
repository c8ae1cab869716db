// Server-sent events from text that arrives in pieces (WHATWG HTML, "Interpreting an event stream"). EventSource itself
// cannot POST. Comments are handed on too: the gateway sends ": waiting" while a request waits for its place.

const MAX_EVENT_CHARS = 4 * 1024 * 1024;

export class SseParser {
  #rest = '';
  #event = '';
  #data = [];
  #size = 0;

  constructor({ onEvent, onComment }) {
    this.onEvent = onEvent;
    this.onComment = onComment;
  }

  push(text) {
    this.#rest += text;
    // A CR at the very end may be half of a CRLF: it waits for the next piece.
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines)
      this.#line(line);
    if (this.#rest.length > MAX_EVENT_CHARS)
      throw new Error('an event of the stream is too long');
  }

  #line(line) {
    if (line === '')
      return this.#dispatch();
    if (line.startsWith(':'))
      return this.onComment(line.slice(1).trim());
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'event')
      this.#event = value;
    if (field !== 'data')
      return;
    this.#data.push(value);
    this.#size += value.length;
    if (this.#size > MAX_EVENT_CHARS)
      throw new Error('an event of the stream is too long');
  }

  #dispatch() {
    const event = this.#event || 'message';
    const data = this.#data;
    this.#event = '';
    this.#data = [];
    this.#size = 0;
    if (data.length)
      this.onEvent(event, data.join('\n'));
  }
}

// Markdown that arrives in pieces, cut into blocks once each. Knows no DOM, so that node's tests can drive it.
//
// Invariants:
//  1. `tail` is the text behind the last settled block; all before it has been handed out and is never lexed again.
//  2. Only complete lines settle a block, and only one that another block follows: one more character can change what
//     stands before the last line ("a\n#" is a paragraph and a heading, "a\n#b" one paragraph). The incomplete line is
//     lexed for drawing only.
//  3. While a top-level code fence is open, `fence` is set, and its text passes line by line without a lexer.
//  4. Work is linear in the text: a tail over EAGER_CHARS is lexed again only when it has grown by 1/GROWTH. What came
//     since is handed out as 'pending' plain text meanwhile, so the reader still sees it in the same frame.
//  5. For every way of cutting a text into pieces, the settled blocks are those of the text in one piece (tested).
//     Only past MAX_TAIL may they differ: one block that long is cut where it stands.
//
// flush() returns events, in order:
//   {op: 'block', token}            a settled block; it replaces the open one if there was one
//   {op: 'code-open', lang}         an open fence; 'code' appends to it, 'code-close' settles it
//   {op: 'code', text}
//   {op: 'code-close'}
//   {op: 'open', tokens}            last if any: the blocks still being written (mostly one); replaces the former ones
//   {op: 'pending', text}           last if any: show this behind the open blocks, which are as before

import { LIMITS, lex } from './bounded_lexer.js';

const EAGER_CHARS = 4096;
const GROWTH = 32;
const MAX_TAIL = 128 * 1024;

export class BlockStream {
  tail = '';
  fence = null;
  links = Object.create(null); // reference definitions of settled blocks
  lexedChars = 0;              // for tests: how much text the lexer has been given in all
  #judged = 0;                 // how much of the tail has been lexed for settling
  #lexedLength = 0;            // how much of the tail has been lexed for drawing
  #carriageReturn = false;
  #dirty = false;

  push(text) {
    if (this.#carriageReturn)
      text = '\r' + text;
    this.#carriageReturn = text.endsWith('\r'); // may be half of a CRLF
    if (this.#carriageReturn)
      text = text.slice(0, -1);
    this.tail += text.replace(/\r\n?/g, '\n');
    this.#dirty = true;
  }

  flush(final = false) {
    const events = [];
    if (final && this.#carriageReturn) {
      this.tail += '\n';
      this.#carriageReturn = false;
      this.#dirty = true;
    }
    if (!this.#dirty && !final)
      return events;
    this.#dirty = false;
    while (this.fence ? this.#fenceStep(events, final) : this.#lexStep(events, final))
      ;
    return events;
  }

  // Returns whether the rest of the tail needs another step.
  #lexStep(events, final) {
    if (!this.tail)
      return false;
    const waiting = this.tail.length - this.#lexedLength;
    if (!final && this.tail.length > EAGER_CHARS && waiting < this.tail.length / GROWTH && this.#lexedLength) {
      events.push({ op: 'pending', text: this.tail.slice(this.#lexedLength) });
      return false;
    }
    const complete = final ? this.tail.length : this.tail.lastIndexOf('\n') + 1;
    let open = [];
    if (final || complete > this.#judged) {
      open = this.#lexTail(complete);
      const { count, at } = final ? { count: open.length, at: complete } : settledPrefix(open, this.tail);
      for (const token of open.splice(0, count))
        this.#settle(events, token);
      this.tail = this.tail.slice(at);
      this.#judged = complete - at;
      if (final)
        return false;
      if (this.#enterFence(events, open))
        return true;
    }
    this.#lexedLength = this.#judged; // what `open` covers
    if (!open.length || (this.tail.length <= EAGER_CHARS && this.#judged < this.tail.length)) {
      open = this.#lexTail(this.tail.length);
      this.#lexedLength = this.tail.length;
    }
    this.#drawOpen(events, open.filter(token => token.type !== 'space'));
    if (this.#lexedLength < this.tail.length)
      events.push({ op: 'pending', text: this.tail.slice(this.#lexedLength) });
    return false;
  }

  #lexTail(length) {
    this.lexedChars += length;
    return lex(this.tail.slice(0, length), this.links);
  }

  #enterFence(events, open) {
    const last = open.find(token => token.type !== 'space');
    this.fence = last ? openFence(last) : null;
    if (!this.fence)
      return false;
    this.tail = this.tail.slice(this.fence.header);
    this.#judged = this.#lexedLength = 0;
    events.push({ op: 'code-open', lang: last.lang ?? '' });
    return true;
  }

  #drawOpen(events, tokens) {
    const prose = tokens.length === 1 && (tokens[0].type === 'paragraph' || tokens[0].type === 'text');
    if (this.tail.length <= (prose ? LIMITS.inlineChars : MAX_TAIL)) {
      events.push({ op: 'open', tokens });
      return;
    }
    for (const token of tokens)
      this.#settle(events, token);
    this.tail = '';
    this.#judged = this.#lexedLength = 0;
  }

  #settle(events, token) {
    if (token.type === 'def')
      this.links[token.tag] ??= { href: token.href, title: token.title };
    if (token.type !== 'space')
      events.push({ op: 'block', token });
  }

  // Passes the fence's text on. The newline of a line is sent with the line behind it, because the last one before the
  // closing fence is not part of the code.
  #fenceStep(events, final) {
    const { fence } = this;
    let out = '';
    let at = 0;
    let closed = false;
    for (let end; !closed && (end = this.tail.indexOf('\n', at)) >= 0; at = end + 1)
      closed = this.#fenceLine(this.tail.slice(at, end), text => { out += text; });
    let rest = this.tail.slice(at);
    const undecided = fence.mayClose.test(rest) || (fence.indent > 0 && !/\S/.test(rest));
    if (!closed && rest && (final || fence.midLine || !undecided)) {
      closed = this.#fenceLine(rest, text => { out += text; }, !final);
      rest = '';
    }
    this.tail = rest;
    if (out)
      events.push({ op: 'code', text: out });
    if (!closed && !final)
      return false;
    events.push({ op: 'code-close' });
    this.fence = null;
    return rest !== '';
  }

  // One line, or with `partial` the beginning of one whose rest follows. Returns whether it closed the fence.
  #fenceLine(line, emit, partial = false) {
    const { fence } = this;
    if (!fence.midLine && fence.closing.test(line))
      return true;
    if (!fence.midLine) {
      line = stripIndent(line, fence.indent);
      emit((fence.first ? '' : '\n') + line);
      fence.first = false;
    } else {
      emit(line);
    }
    fence.midLine = partial;
    return false;
  }
}

// How many tokens of some complete lines are final whatever follows, and where the text behind them begins.
function settledPrefix(tokens, src) {
  let last = tokens.length - 1;
  while (last >= 0 && tokens[last].type === 'space')
    last--;
  let at = 0;
  for (let i = 0; i < last; i++) {
    if (!src.startsWith(tokens[i].raw, at))
      return { count: 0, at: 0 }; // raw is not the source: never seen, but then nothing may be cut
    at += tokens[i].raw.length;
  }
  return { count: Math.max(0, last), at };
}

// The pattern of marked: the closing fence is at least as long as the opening one, of the same character, and alone.
function openFence(token) {
  if (token.type !== 'code' || token.codeBlockStyle === 'indented')
    return null;
  const head = /^( {0,3})(`{3,}|~{3,})[^\n]*\n/.exec(token.raw);
  if (!head)
    return null;
  const [header, indent, marks] = head;
  const closing = new RegExp(`^ {0,3}${marks}${marks[0]}* *$`);
  const lines = token.raw.slice(header.length).split('\n');
  if (lines.some(line => closing.test(line)))
    return null;
  return {
    header: header.length,
    closing,
    mayClose: new RegExp(`^ *${marks[0]}* *$`), // a beginning of a line that may yet become the closing fence
    indent: marks[0] === '`' ? indent.length : 0,
    first: true,
    midLine: false,
  };
}

function stripIndent(line, columns) {
  const blank = /^\s*/.exec(line)[0].length;
  return line.slice(Math.min(blank, columns));
}

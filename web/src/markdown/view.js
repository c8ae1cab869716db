// A streaming answer in the page: text in, at most one change of the document per animation frame out.
//
// Settled blocks are appended once and never touched again, except at the end, when reference definitions or masks that
// became known after a block had been drawn make it different. They are grouped so that the browser can skip the layout
// of what is off the screen.

import { BlockStream } from './block_stream.js';
import { lex } from './bounded_lexer.js';
import { CodeBlock, patchBlock, renderBlock } from './dom.js';

const BLOCKS_PER_GROUP = 16;
const MAX_SHOWN_CHARS = 1024 * 1024;

export class MarkdownView {
  #stream = new BlockStream();
  #settled = [];    // those blocks that may have to be drawn again at the end
  #open = [];       // the blocks being written: {token, node, parts}
  #code = null;     // or the open fence
  #pending = null;  // text not yet lexed, shown as it stands
  #group = null;
  #shown = 0;
  #frame = 0;

  // `masked` returns the kinds masked so far, as {kind: count}. `onDrawn` runs after each change, in the same frame.
  constructor(root, { masked, onDrawn, tooLong }) {
    this.root = root;
    this.onDrawn = onDrawn;
    this.masked = masked;
    this.tooLong = tooLong;
    this.context = { isMasked: kind => (masked()[kind] ?? 0) > 0 };
  }

  push(text) {
    if (this.#shown >= MAX_SHOWN_CHARS)
      return;
    if (this.#shown + text.length > MAX_SHOWN_CHARS) {
      text = text.slice(0, MAX_SHOWN_CHARS - this.#shown) + `\n\n${this.tooLong}`;
      this.#shown = MAX_SHOWN_CHARS;
    }
    this.#shown += text.length;
    this.#stream.push(text);
    this.#frame ||= requestAnimationFrame(() => this.#draw(false));
  }

  finish() {
    this.#cancelFrame();
    this.#draw(true);
  }

  close() {
    this.#cancelFrame();
  }

  #cancelFrame() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
  }

  #draw(final) {
    this.#frame = 0;
    for (const event of this.#stream.flush(final))
      this[`on ${event.op}`](event);
    if (final) {
      this.#showPending('');
      this.#redrawLate();
    }
    this.onDrawn();
  }

  'on block'({ token }) {
    this.#showPending('');
    if (token.type === 'def') { // draws nothing
      this.#truncateOpen(0);
      return;
    }
    this.#drawOpen(0, token);
    this.#settle(this.#open.shift());
  }

  'on code-open'({ lang }) {
    this.#showPending('');
    this.#truncateOpen(0);
    this.#code = new CodeBlock(lang);
    this.#append(this.#code.node);
  }

  'on code'({ text }) {
    this.#code.append(text);
  }

  'on code-close'() {
    this.#code = null;
  }

  'on open'({ tokens }) {
    this.#showPending('');
    const drawn = tokens.filter(token => token.type !== 'def');
    drawn.forEach((token, i) => this.#drawOpen(i, token));
    this.#truncateOpen(drawn.length);
  }

  'on pending'({ text }) {
    this.#showPending(text);
  }

  #drawOpen(i, token) {
    const old = this.#open[i];
    const block = old ? patchBlock(old, token, this.context) : renderBlock(token, this.context);
    if (block === old)
      return; // changed in place: parts of it are still of the time when it was first drawn
    if (old)
      old.node.replaceWith(block.node);
    else
      this.#append(block.node);
    block.links = this.#linkCount();
    block.masked = this.#maskedNow();
    this.#open[i] = block;
  }

  #truncateOpen(length) {
    for (const block of this.#open.splice(length))
      block.node.remove();
  }

  #showPending(text) {
    if (!text) {
      this.#pending?.remove();
      this.#pending = null;
      return;
    }
    if (!this.#pending) {
      this.#pending = document.createElement('p');
      this.#pending.className = 'verbatim';
      this.root.append(this.#pending);
    }
    this.#pending.textContent = text;
  }

  #append(node) {
    if (!this.#group || this.#group.childElementCount >= BLOCKS_PER_GROUP) {
      this.#group?.classList.add('full');
      this.#group = document.createElement('div');
      this.#group.className = 'blocks';
      this.root.append(this.#group);
    }
    this.#group.append(node);
  }

  #settle({ token, node, links, masked }) {
    if (token.raw.includes('['))
      this.#settled.push({ raw: token.raw, node, links, masked });
  }

  #maskedNow() {
    return JSON.stringify(this.masked());
  }

  #linkCount() {
    return Object.keys(this.#stream.links).length;
  }

  // "[text][id]" whose definition came later, and "[CARD_MASKED]" whose report came later.
  #redrawLate() {
    const links = this.#linkCount();
    const masked = this.#maskedNow();
    for (const block of this.#settled) {
      if (block.links === links && (block.masked === masked || !block.raw.includes('_MASKED]')))
        continue;
      const tokens = lex(block.raw, this.#stream.links).filter(token => token.type !== 'space');
      if (tokens.length !== 1)
        continue;
      block.node.replaceWith(renderBlock(tokens[0], this.context).node);
    }
    this.#settled = [];
  }
}

// Tokens to elements. Every node is made by createElement and createTextNode; there is no path from model text to an
// HTML parser, to an attribute that runs, or to a request. Raw HTML is shown as the text it is, images as links.
//
// A rendered block is {token, node, parts}: `parts` are the rendered children of lists, quotes and tables, so that a
// growing block keeps the elements of all but its last child (the reader may have selected text in them).

import { t } from '../strings.js';
import { codeText } from './bounded_lexer.js';
import { decodeEntities } from './entities.js';
import { destination, safeUrl, textNamesDestination } from './links.js';

const MAX_INLINE_DEPTH = 16;
const LINES_PER_GROUP = 64;
const MASK = /\[([A-Z][A-Z0-9_]{1,40})_MASKED\]/;

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className)
    node.className = className;
  node.append(...children);
  return node;
}

// --- blocks ---

export function renderBlock(token, context) {
  const make = BLOCKS[token.type] ?? verbatim;
  const made = make(token, context);
  return made instanceof Node ? { token, node: made, parts: null } : { token, ...made };
}

// The block for `token`, made from `old` as far as it is the same. The caller puts `.node` in the place of old.node if
// they differ.
export function patchBlock(old, token, context) {
  if (same(old.token, token))
    return old;
  const container = CONTAINERS[token.type];
  if (!old.parts || old.token.type !== token.type || !container || container.head(old.token) !== container.head(token))
    return renderBlock(token, context);
  patchParts(old.parts, container.children(token), container.parent(old.node), context);
  old.token = token;
  return old;
}

function patchParts(parts, tokens, parent, context) {
  let kept = 0;
  while (kept < parts.length && kept < tokens.length && same(parts[kept].token, tokens[kept]))
    kept++;
  if (kept < parts.length && kept < tokens.length) {
    const old = parts[kept];
    const next = patchBlock(old, tokens[kept], context);
    if (next !== old)
      old.node.replaceWith(next.node);
    parts[kept] = next;
    kept++;
  }
  for (const gone of parts.splice(kept))
    gone.node.remove();
  for (const token of tokens.slice(kept)) {
    const part = renderBlock(token, context);
    parent.append(part.node);
    parts.push(part);
  }
}

function same(a, b) {
  return a.type === b.type && a.raw === b.raw && a.loose === b.loose;
}

const visible = tokens => tokens.filter(token => token.type !== 'space' && token.type !== 'def');

const CONTAINERS = {
  list: {
    head: token => `${token.ordered} ${token.start} ${token.loose}`,
    children: token => token.items,
    parent: node => node,
  },
  list_item: {
    head: token => String(token.loose),
    children: token => visible(token.tokens),
    parent: node => node,
  },
  blockquote: {
    head: () => '',
    children: token => visible(token.tokens),
    parent: node => node,
  },
  table: {
    head: token => JSON.stringify([token.align, token.header.map(cell => cell.text)]),
    children: token => token.rows.map(cells => ({ type: 'row', raw: JSON.stringify(cells.map(cell => cell.text)), cells })),
    parent: node => node.querySelector('tbody'),
  },
};

function fill(type, token, node, context) {
  const parts = [];
  const { children, parent } = CONTAINERS[type];
  patchParts(parts, children(token), parent(node), context);
  return { node, parts };
}

const BLOCKS = {
  paragraph: (token, context) => prose('p', token, context),
  text: (token, context) => {
    const node = element('span', '');
    inline(node, token.tokens ?? [token], context);
    return node;
  },
  heading: (token, context) => prose(`h${Math.min(token.depth + 2, 6)}`, token, context), // the page itself has h1 and h2
  hr: () => element('hr'),
  code: token => {
    const code = new CodeBlock(token.lang);
    code.append(codeText(token));
    return code.node;
  },
  list(token, context) {
    const node = element(token.ordered ? 'ol' : 'ul');
    if (token.ordered && Number.isSafeInteger(token.start) && token.start !== 1)
      node.start = Math.min(token.start, 999_999_999);
    return fill('list', token, node, context);
  },
  list_item: (token, context) => fill('list_item', token, element('li', token.task ? 'task' : ''), context),
  blockquote: (token, context) => fill('blockquote', token, element('blockquote'), context),
  table(token, context) {
    const head = element('tr');
    for (const cell of token.header)
      head.append(tableCell('th', cell, context));
    const node = element('div', 'table', element('table', '', element('thead', '', head), element('tbody')));
    scrollable(node, t.table);
    return fill('table', token, node, context);
  },
  row: (token, context) => element('tr', '', ...token.cells.map(cell => tableCell('td', cell, context))),
  checkbox: token => taskMark(token),
  html: token => verbatim(token),
};

function prose(tag, token, context) {
  const node = element(tag);
  node.dir = 'auto';
  inline(node, token.tokens ?? [token], context);
  return node;
}

function tableCell(tag, cell, context) {
  const node = element(tag, cell.align ? `align-${cell.align}` : '');
  inline(node, cell.tokens, context);
  return node;
}

function verbatim(token) {
  const node = element('p', 'verbatim', token.text ?? token.raw ?? '');
  node.dir = 'auto';
  return node;
}

function taskMark(token) {
  const node = element('span', 'task-mark', token.checked ? '☑ ' : '☐ ');
  node.setAttribute('role', 'img');
  node.setAttribute('aria-label', token.checked ? t.taskDone : t.taskOpen);
  return node;
}

// A box that scrolls sideways must be reachable by keyboard.
function scrollable(node, label) {
  node.tabIndex = 0;
  node.setAttribute('role', 'region');
  node.setAttribute('aria-label', label);
}

// --- inline ---

function inline(parent, tokens, context, depth = 0) {
  for (const token of tokens) {
    if (depth > MAX_INLINE_DEPTH) {
      parent.append(token.raw);
      continue;
    }
    (INLINE[token.type] ?? inlineRaw)(parent, token, context, depth);
  }
}

function wrap(tag) {
  return (parent, token, context, depth) => {
    const node = element(tag);
    inline(node, token.tokens, context, depth + 1);
    parent.append(node);
  };
}

const INLINE = {
  text(parent, token, context, depth) {
    if (token.tokens)
      inline(parent, token.tokens, context, depth);
    else
      appendText(parent, decodeEntities(token.text), context);
  },
  verbatim: (parent, token) => parent.append(element('span', 'verbatim', token.text)),
  escape: (parent, token) => parent.append(token.text),
  strong: wrap('strong'),
  em: wrap('em'),
  del: wrap('del'),
  codespan: (parent, token) => parent.append(element('code', '', token.text)),
  br: parent => parent.append(element('br')),
  checkbox: (parent, token) => parent.append(taskMark(token)),
  link(parent, token, context, depth) {
    const url = safeUrl(token.href);
    const label = element(url ? 'a' : 'span');
    inline(label, token.tokens, context, depth + 1);
    parent.append(label);
    if (url)
      makeLink(label, url);
    else
      parent.append(element('span', 'destination', ` (${t.linkRefused})`));
  },
  image(parent, token) {
    const url = safeUrl(token.href);
    const label = element(url ? 'a' : 'span', '', t.image(token.text || token.title || ''));
    parent.append(label);
    if (url)
      makeLink(label, url);
  },
  html(parent, token) {
    if (/^<br\s*\/?>$/i.test(token.raw)) // the one tag: table cells have no other way to break a line
      parent.append(element('br'));
    else
      parent.append(token.raw);
  },
};

function inlineRaw(parent, token) {
  parent.append(token.raw ?? '');
}

function makeLink(node, url) {
  node.href = url.href;
  node.target = '_blank';
  node.rel = 'noopener noreferrer';
  if (!textNamesDestination(node.textContent, url))
    node.after(element('span', 'destination', ` (${destination(url)})`));
}

// Text, in which the guard's replacements become chips. Only kinds that the gateway has reported as masked: a model
// that writes "[CARD_MASKED]" by itself gets no chip.
function appendText(parent, text, context) {
  let found;
  while ((found = MASK.exec(text))) {
    const kind = found[1].toLowerCase();
    parent.append(text.slice(0, found.index));
    if (context.isMasked(kind))
      parent.append(maskChip(kind));
    else
      parent.append(found[0]);
    text = text.slice(found.index + found[0].length);
  }
  parent.append(text);
}

function maskChip(kind) {
  const node = element('span', 'mask', t.maskedSpan(kind));
  node.title = t.maskedSpanWhy;
  return node;
}

// --- code ---

// Lines are elements of their own, in groups that are laid out apart: appending to one long text node makes layout
// grow with the square of the block. The text is kept beside the elements for copying.
export class CodeBlock {
  node = element('figure', 'code');
  #lines = 0;
  #text = [];

  constructor(lang) {
    const name = /^[\w+#.-]{1,24}/.exec(lang ?? '')?.[0] ?? '';
    const copy = element('button', 'quiet copy-code', t.copyCode);
    copy.type = 'button';
    this.code = element('code');
    this.pre = element('pre', '', this.code);
    scrollable(this.pre, name ? t.codeIn(name) : t.code);
    this.node.append(element('figcaption', '', element('span', 'lang', name || t.code), copy), this.pre);
    CODE_TEXT.set(copy, () => this.#text.join(''));
  }

  append(text) {
    if (text === '')
      return;
    this.#text.push(text);
    const lines = text.split('\n');
    if (!this.line)
      this.#newLine();
    this.line.data += lines[0];
    for (const line of lines.slice(1)) {
      this.line.data += '\n'; // inside the line's element, so that selecting and copying gives the exact text
      this.#newLine();
      this.line.data = line;
    }
  }

  #newLine() {
    if (this.#lines++ % LINES_PER_GROUP === 0) {
      this.group = element('span', 'lines');
      this.code.append(this.group);
    }
    this.line = document.createTextNode('');
    this.group.append(element('span', 'line', this.line));
  }
}

// The text behind a "copy code" button; the buttons' clicks are handled once, at the page's root.
const CODE_TEXT = new WeakMap();

export function codeOf(button) {
  return CODE_TEXT.get(button)?.();
}

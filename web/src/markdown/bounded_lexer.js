// marked's lexer with the bounds that text from a model needs. The lexer itself is linear on what we have tried, but
// three shapes still grow without limit: containers nested as deep as the text is long (stack), tables whose rows are
// padded to the header's column count (memory), and very long inline runs (time). Past a bound the text is not lost:
// it is shown as plain text.
//
// The result is tokens. Nothing in this folder ever makes, holds or parses an HTML string.

import { Lexer, Tokenizer } from 'marked';

export const LIMITS = Object.freeze({
  nesting: 24,            // block quotes and lists inside each other
  inlineChars: 16 * 1024, // one paragraph, heading or cell; longer ones get no emphasis or links
  tableColumns: 64,
  tableCells: 20_000,
});

class BoundedTokenizer extends Tokenizer {
  depth = 0;

  nested(parse) {
    if (this.depth >= LIMITS.nesting)
      return undefined;  // not a container for us: the lexer goes on and takes the line as text
    this.depth++;
    try {
      return parse();
    } finally {
      this.depth--;
    }
  }

  blockquote(src) {
    return this.nested(() => super.blockquote(src));
  }

  list(src) {
    return this.nested(() => super.list(src));
  }

  table(src) {
    return tableFits(src) ? super.table(src) : undefined;
  }
}

// Judged from the source, because the tokenizer pads each row to the header's width before anyone could count cells.
function tableFits(src) {
  const header = src.indexOf('\n');
  if (header < 0)
    return true;
  const columns = count(src, '|', 0, header) + 1;
  if (columns > LIMITS.tableColumns)
    return false;
  let cells = columns;
  for (let at = header + 1; at < src.length && src[at] !== '\n'; cells += columns) {
    if (cells > LIMITS.tableCells)
      return false;
    const end = src.indexOf('\n', at);
    if (end < 0)
      break;
    at = end + 1;
  }
  return true;
}

function count(text, char, from, to) {
  let n = 0;
  for (let i = from; i < to; i++)
    n += text[i] === char;
  return n;
}

class BoundedLexer extends Lexer {
  inline(src, tokens = []) {
    if (src.length <= LIMITS.inlineChars)
      return super.inline(src, tokens);
    tokens.push({ type: 'verbatim', raw: src, text: src });
    return tokens;
  }
}

// Tokens of `src`, whose concatenated `raw` is `src`. `links` holds the reference definitions seen before `src`.
// The lexer throws on its own safety checks and the engine on exhausted stack: then the text is one verbatim token.
export function lex(src, links) {
  const lexer = new BoundedLexer({ gfm: true, tokenizer: new BoundedTokenizer() });
  Object.assign(lexer.tokens.links, links);
  try {
    return [...lexer.lex(src)];
  } catch {
    return [{ type: 'verbatim', raw: src, text: src }];
  }
}

// The code of a code token. The lexer adds a newline to a fenced text that ends in an empty line, as HTML would need it.
export function codeText(token) {
  const fenced = token.codeBlockStyle !== 'indented';
  return fenced && token.text.endsWith('\n') ? token.text.slice(0, -1) : token.text;
}

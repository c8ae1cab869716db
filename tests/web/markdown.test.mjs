// The parts of the chat page that know no document: the block splitter, the bounded lexer, links, entities, SSE.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { run } from './lib/tap.mjs';
import { EDGE, HOSTILE, MIXED } from './lib/samples.mjs';

const root = new URL('../../web/', import.meta.url);
if (!existsSync(new URL('node_modules/marked', root))) {
  console.log('Bail out! web/node_modules is not installed: run tests/web/setup.sh');
  process.exit(1);
}
const { BlockStream } = await import(new URL('src/markdown/block_stream.js', root));
const { codeText, lex } = await import(new URL('src/markdown/bounded_lexer.js', root));
const { safeUrl, destination, textNamesDestination } = await import(new URL('src/markdown/links.js', root));
const { decodeEntities } = await import(new URL('src/markdown/entities.js', root));
const { SseParser } = await import(new URL('src/sse.js', root));
const { allows, stricter } = await import(new URL('src/classes.js', root));

// What the stream has settled when it ends: [{type, text}], with fences in the same form as a lexer's code token.
function collect(pieces) {
  const stream = new BlockStream();
  const blocks = [];
  let code = null;
  const hear = events => {
    for (const { op, token, lang, text } of events) {
      if (op === 'block')
        blocks.push(shape(token));
      else if (op === 'code-open')
        code = { type: 'code', lang, text: '' };
      else if (op === 'code')
        code.text += text;
      else if (op === 'code-close')
        blocks.push(code);
    }
  };
  for (const piece of pieces) {
    stream.push(piece);
    hear(stream.flush());
  }
  hear(stream.flush(true));
  return { blocks, stream };
}

function shape(token) {
  if (token.type === 'code')
    return { type: 'code', lang: token.lang ?? '', text: codeText(token) };
  return { type: token.type, depth: token.depth, loose: token.loose, items: token.items?.length, rows: token.rows?.length, raw: token.raw.replace(/\n+$/, '') };
}

// Truth: marked itself over the whole text.
function whole(text) {
  return lex(text.replace(/\r\n?/g, '\n'), {}).filter(token => token.type !== 'space').map(shape);
}

const pieces = (text, n) => Array.from({ length: Math.ceil(text.length / n) }, (_, i) => text.slice(i * n, (i + 1) * n));

// A small generator with a seed: a failing case can be run again.
function random(seed) {
  return () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
}

const LINES = ['a', '# b', '- c', '  - d', '  e', '1. f', '> g', '> - h', '```', '~~~', '```js', '', '', '    i', '| j | k |', '|---|---|', '| l |', '---', '===',
  '<div>', '</div>', '<!--', '-->', '[x]: https://y.example', '[x]', '#', '-', '  ```', '* * *', '- [ ] m', '\t n', 'o  ', '2) p', '<b>q</b>', '>', '   ', '- ```'];

await run([
  ['test_stream__mixed_text_cut_at_every_place', () => {
    const truth = whole(MIXED);
    assert.ok(truth.length >= 18);
    for (let cut = 0; cut <= MIXED.length; cut++)
      assert.deepEqual(collect([MIXED.slice(0, cut), MIXED.slice(cut)]).blocks, truth, `cut at ${cut}`);
    for (const n of [1, 2, 3, 5, 7, 32, 1000])
      assert.deepEqual(collect(pieces(MIXED, n)).blocks, truth, `pieces of ${n}`);
  }],
  ['test_stream__edge_texts_by_character_and_at_every_cut', () => {
    for (const text of EDGE) {
      const truth = whole(text);
      assert.deepEqual(collect(pieces(text, 1)).blocks, truth, JSON.stringify(text));
      for (let cut = 0; cut <= text.length; cut++)
        assert.deepEqual(collect([text.slice(0, cut), text.slice(cut)]).blocks, truth, `${JSON.stringify(text)} cut at ${cut}`);
    }
  }],
  ['test_stream__3000_random_texts_in_random_pieces', () => {
    const next = random(20260);
    for (let i = 0; i < 3000; i++) {
      const text = Array.from({ length: 2 + Math.floor(next() * 10) }, () => LINES[Math.floor(next() * LINES.length)]).join('\n');
      const parts = [];
      for (let at = 0; at < text.length;) {
        const n = 1 + Math.floor(next() * 6);
        parts.push(text.slice(at, at + n));
        at += n;
      }
      assert.deepEqual(collect(parts).blocks, whole(text), `text ${i}: ${JSON.stringify(text)}`);
    }
  }],
  ['test_stream__settled_text_is_not_lexed_again', () => {
    const text = MIXED.slice(0, MIXED.indexOf('```\nunclosed')).repeat(60); // about 60 KB
    const { stream } = collect(pieces(text, 32));
    const factor = stream.lexedChars / text.length;
    console.log(`# mixed ${text.length} characters in pieces of 32: lexed ${factor.toFixed(1)} times the text`);
    assert.ok(factor < 12, `lexed ${factor} times`);
    const twice = collect(pieces(text.repeat(2), 32)).stream.lexedChars / stream.lexedChars;
    assert.ok(twice < 2.2, `twice the text is ${twice} times the work`);
  }],
  ['test_stream__one_long_block_stays_linear', () => {
    const shapes = { list: '- item *x* and more\n', table: '| a | b |\n', quote: '> text of a quote\n', code: 'let x = 1; // a line\n', comment: 'word word word\n' };
    const heads = { table: '| a | b |\n|---|---|\n', code: '```js\n', comment: '<!--\n' };
    for (const [name, line] of Object.entries(shapes)) {
      const text = (heads[name] ?? '') + line.repeat(Math.ceil(100_000 / line.length));
      const { stream } = collect(pieces(text, 32));
      const factor = stream.lexedChars / text.length;
      console.log(`# one ${name} of ${text.length} characters: lexed ${factor.toFixed(1)} times the text`);
      assert.ok(factor < 100, `${name}: ${factor}`);
      if (name === 'code')
        assert.ok(stream.lexedChars < 1000, 'an open fence needs no lexer');
    }
  }],
  ['test_stream__pending_text_is_never_lost_from_sight', () => {
    const text = '- item\n'.repeat(3000);
    const stream = new BlockStream();
    for (const piece of pieces(text, 10)) {
      stream.push(piece);
      const last = stream.flush().at(-1);
      assert.ok(last.op === 'open' || last.op === 'pending');
      if (last.op === 'pending')
        assert.ok(last.text.length > 0 && last.text.length <= 4096, `pending ${last.text.length}`);
    }
  }],
  ['test_lex__hostile_text_ends_soon_and_keeps_every_character', () => {
    for (const [name, text] of Object.entries(HOSTILE)) {
      const before = process.cpuUsage().user;
      const { blocks } = collect(pieces(text, 997));
      const spent = (process.cpuUsage().user - before) / 1e6;
      assert.ok(spent < 5, `${name}: ${spent} s`); // a bound against hanging, not a measurement
      assert.ok(blocks.length > 0, name);
    }
  }],
  ['test_lex__nesting_stops_at_its_limit', () => {
    const depth = token => 1 + Math.max(0, ...(token.tokens ?? token.items ?? []).map(depth));
    assert.ok(depth(lex('>'.repeat(5000) + 'x', {})[0]) < 60);
    assert.ok(depth(lex('- '.repeat(5000) + 'x', {})[0]) < 60);
    assert.equal(lex('> > > x', {})[0].tokens[0].tokens[0].tokens[0].text, 'x');
  }],
  ['test_lex__tables_within_the_limit_only', () => {
    const table = (columns, rows) => `${'|a'.repeat(columns)}|\n${'|-'.repeat(columns)}|\n${'|\n'.repeat(rows)}`;
    assert.equal(lex(table(10, 100), {})[0].type, 'table');
    assert.notEqual(lex(table(80, 1), {})[0].type, 'table');
    assert.notEqual(lex(table(50, 1000), {})[0].type, 'table');
  }],
  ['test_safeUrl__only_web_and_mail', () => {
    for (const href of ['https://a.example/x', 'http://a.example', 'mailto:a@b.example', 'HTTPS://A.example'])
      assert.ok(safeUrl(href), href);
    for (const href of ['javascript:alert(1)', ' java\tscript:alert(1)', 'JAVASCRIPT:x', 'data:text/html,x', 'vbscript:x', 'file:///x', 'blob:https://a/b', '//a.example', '/x', '#x', 'x', '', 'https://', 'about:blank', 'ftp://a'])
      assert.equal(safeUrl(href), null, href);
  }],
  ['test_textNamesDestination__only_the_same_host', () => {
    const url = new URL('https://example.org/path?x');
    for (const text of ['https://example.org/path?x', 'example.org', 'EXAMPLE.org/other', 'http://example.org#a'])
      assert.ok(textNamesDestination(text, url), text);
    for (const text of ['bank.example', 'example.org.evil.example', 'example.orgy', 'https://bank.example@example.org', 'click'])
      assert.ok(!textNamesDestination(text, url), text);
    assert.equal(destination(new URL('https://bank.example@evil.example/')), 'evil.example');
    assert.match(destination(new URL('https://аррӏе.com')), /^xn--/);
    assert.equal(destination(new URL('mailto:a@b.example?subject=x')), 'a@b.example');
  }],
  ['test_decodeEntities__known_numeric_and_unknown', () => {
    assert.equal(decodeEntities('&amp;lt; &lt;b&gt; &#8364;&#x20ac; &nbsp;&copy;'), '&lt; <b> €€ \u00a0©');
    assert.equal(decodeEntities('&constructor; &unknown; &; &#; AT&T'), '&constructor; &unknown; &; &#; AT&T');
    assert.equal(decodeEntities('&#0;&#xD800;&#1114112;'), '\ufffd\ufffd\ufffd');
  }],
  ['test_sse__same_events_for_every_cut', () => {
    const text = ': waiting\n\nevent: gatehouse\ndata: {"a":1}\n\ndata: x\r\ndata:y\r\n\r\n: waiting\ndata: [DONE]\n\nid: 1\nretry: 5\n\ndata: never dispatched';
    const listen = parts => {
      const heard = [];
      const parser = new SseParser({ onEvent: (name, data) => heard.push([name, data]), onComment: comment => heard.push([':', comment]) });
      parts.forEach(part => parser.push(part));
      return heard;
    };
    const truth = [[':', 'waiting'], ['gatehouse', '{"a":1}'], ['message', 'x\ny'], [':', 'waiting'], ['message', '[DONE]']];
    for (let cut = 0; cut <= text.length; cut++)
      assert.deepEqual(listen([text.slice(0, cut), text.slice(cut)]), truth, `cut at ${cut}`);
    assert.deepEqual(listen([...text]), truth);
  }],
  ['test_sse__endless_line_is_refused', () => {
    const parser = new SseParser({ onEvent() {}, onComment() {} });
    assert.throws(() => {
      for (let i = 0; i < 6; i++)
        parser.push('x'.repeat(1024 * 1024));
    });
  }],
  ['test_classes__unknown_is_never_allowed', () => {
    assert.ok(allows('secret', 'confidential') && allows('internal', 'internal') && allows('public', ''));
    assert.ok(!allows('public', 'internal') && !allows('nonsense', 'public'));
    assert.equal(stricter('internal', 'secret'), 'secret');
    assert.equal(stricter('', ''), '');
  }],
]);

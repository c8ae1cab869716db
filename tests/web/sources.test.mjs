// What can be said of the page without a browser: its sources use no way to make elements from strings, and web/dist is
// what web/src gives.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run, skip } from './lib/tap.mjs';

const web = fileURLToPath(new URL('../../web/', import.meta.url));

function filesUnder(folder) {
  return readdirSync(join(web, folder), { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath ?? entry.path, entry.name));
}

const BANNED = /innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySetInnerHTML|DOMParser|createContextualFragment|setHTMLUnsafe|srcdoc|\beval\b|new Function|setAttribute\(\s*['"]style|style=|trustedTypes|localStorage|importScripts|\bon[a-z]+=["']/;

await run([
  ['test_sources__no_way_from_text_to_elements', () => {
    const sources = [...filesUnder('src'), ...filesUnder('static')].filter(name => /\.(js|jsx|html)$/.test(name));
    assert.ok(sources.length > 15);
    for (const name of sources) {
      readFileSync(name, 'utf8').split('\n').forEach((line, i) => {
        const code = line.replace(/(^|\s)\/\/ .*/, '');
        assert.ok(!BANNED.test(code), `${name}:${i + 1}: ${line.trim()}`);
      });
    }
    assert.ok(BANNED.test('node.innerHTML = text') && BANNED.test('<p style="x">'), 'the pattern itself');
  }],

  ['test_dist__few_flat_files_without_eval_or_inline_code', () => {
    const names = filesUnder('dist').map(name => name.slice(web.length)).sort();
    assert.deepEqual(names, ['dist/assets/chat.css', 'dist/assets/chat.js', 'dist/assets/icon.svg', 'dist/assets/notices.txt', 'dist/index.html']);
    const page = readFileSync(join(web, 'dist/index.html'), 'utf8');
    assert.ok(!/<style|<script(?![^>]*\bsrc=)|https?:/.test(page), page);
    const script = readFileSync(join(web, 'dist/assets/chat.js'), 'utf8');
    assert.ok(!/\beval\(|new Function\(|\bimport\(/.test(script));
    const styles = readFileSync(join(web, 'dist/assets/chat.css'), 'utf8');
    assert.ok(!/url\(|@import/.test(styles));
  }],

  ['test_dist__is_what_src_gives', () => {
    if (!existsSync(join(web, 'node_modules/esbuild')))
      skip('web/node_modules is not installed (tests/web/setup.sh)');
    execFileSync(process.execPath, [join(web, 'build.mjs'), '--check'], { stdio: ['ignore', 'ignore', 'inherit'] });
  }],

  ['test_lock__names_no_host_and_pins_every_file', () => {
    for (const folder of [web, fileURLToPath(new URL('.', import.meta.url))]) {
      const text = readFileSync(join(folder, 'package-lock.json'), 'utf8');
      assert.ok(!/https?:/.test(text), folder);
      for (const [name, entry] of Object.entries(JSON.parse(text).packages)) {
        if (name)
          assert.match(entry.integrity ?? '', /^sha512-/, name);
      }
    }
  }],
]);

// Builds dist/ from src/ and static/. With --check nothing is written: it fails when dist/ is not what src/ gives.
// Same sources and same pinned tools give the same bytes, so dist/ can be committed and the C build needs no npm.

import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, 'dist');

const common = { bundle: true, minify: true, write: false, absWorkingDir: root, logLevel: 'warning', legalComments: 'none' };

async function script() {
  const result = await build({
    ...common,
    entryPoints: ['src/main.jsx'],
    format: 'esm',
    target: ['es2022', 'chrome111', 'firefox115', 'safari16.4'],
    jsx: 'automatic',
    jsxImportSource: 'preact',
    charset: 'utf8',
  });
  return result.outputFiles[0].contents;
}

async function styles() {
  const result = await build({ ...common, entryPoints: ['src/chat.css'], target: ['chrome111', 'firefox115', 'safari16.4'] });
  return result.outputFiles[0].contents;
}

// The licences of what is inside chat.js, as they ask.
async function notices() {
  const parts = ['Gatehouse: chat page. Apache-2.0. It contains the software below.\n'];
  for (const [name, file] of [['preact', 'LICENSE'], ['marked', 'LICENSE']]) {
    const { version } = JSON.parse(await readFile(join(root, 'node_modules', name, 'package.json'), 'utf8'));
    const text = await readFile(join(root, 'node_modules', name, file), 'utf8');
    parts.push(`${'-'.repeat(78)}\n${name} ${version}\n\n${text.trim()}\n`);
  }
  return Buffer.from(parts.join('\n'));
}

const files = {
  'index.html': await readFile(join(root, 'static/index.html')),
  'assets/chat.js': await script(),
  'assets/chat.css': await styles(),
  'assets/icon.svg': await readFile(join(root, 'static/icon.svg')),
  'assets/notices.txt': await notices(),
};

if (process.argv.includes('--check')) {
  const stored = (await readdir(dist, { recursive: true, withFileTypes: true })).filter(entry => entry.isFile());
  const wrong = stored.length === Object.keys(files).length ? [] : ['the list of files'];
  for (const [name, bytes] of Object.entries(files)) {
    const old = await readFile(join(dist, name)).catch(() => null);
    if (!old || !old.equals(bytes))
      wrong.push(name);
  }
  if (wrong.length) {
    console.error(`dist/ is not what src/ gives: ${wrong.join(', ')}; run web/build.sh`);
    process.exit(1);
  }
} else {
  await mkdir(join(dist, 'assets'), { recursive: true });
  for (const [name, bytes] of Object.entries(files)) {
    await writeFile(join(dist, name), bytes);
    console.log(`${String(bytes.length).padStart(7)}  ${name}`);
  }
}

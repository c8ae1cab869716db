// The chat page in a real browser. By default against the stand-in of page_server.mjs; with BASE_URL and SIGNIN_LINK set
// (PROMPT and LONG_PROMPT too, if its model needs other words) the cases that need no script run against a real gateway.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CHROMIUM, launch, openPage } from './lib/browser.mjs';
import { HOSTILE } from './lib/samples.mjs';
import { run, skip } from './lib/tap.mjs';
import { PageServer } from './page_server.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
if (!existsSync(join(here, 'node_modules/playwright-core')) || !existsSync(join(here, 'node_modules/axe-core'))) {
  console.log('Bail out! tests/web/node_modules is not installed: run tests/web/setup.sh');
  process.exit(1);
}
if (!CHROMIUM) {
  console.log('TAP version 13\n1..0 # SKIP no Chromium on this machine (set CHROMIUM)');
  process.exit(0);
}

const real = Boolean(process.env.BASE_URL);
const server = real ? null : new PageServer();
await server?.start();
const allModels = server?.models;
const base = real ? process.env.BASE_URL.replace(/\/$/, '') : server.url;
const shots = join(process.env.GH_BUILD_ROOT ?? join(here, '../../build'), 'web-screenshots');
mkdirSync(shots, { recursive: true });
const browser = await launch();

// --- steps ---

const signInLink = () => (real ? process.env.SIGNIN_LINK : server.signInLink);
let storedState; // a real gateway's link works once: its session is used again

async function withPage(body, options = {}, signedIn = true) {
  const opened = await openPage(browser, base, {
    ...options, storageState: signedIn ? storedState : undefined,
    ignoreHTTPSErrors: real, // a test's own certificate authority is not the browser's
  });
  const { page, faults } = opened;
  try {
    if (signedIn && !storedState) {
      await page.goto(signInLink());
      if (real) // the link's own page has the button that uses it: a scanner that only fetches the link does not
        await page.locator('button[type=submit]').click();
    } else
      await page.goto(base);
    if (signedIn) {
      await page.locator('#composer').waitFor();
      await page.locator('.model-choice').waitFor();
      if (real)
        storedState = await page.context().storageState();
    }
    await body(page, faults);
    assert.deepEqual(faults, []);
  } finally {
    await opened.close();
  }
}

// Sends, and does not look for the turn: a session that ends at once takes it from the page again.
async function submit(page, text) {
  await page.fill('#composer', text);
  await page.press('#composer', 'Enter');
}

async function send(page, text) {
  const turns = await page.locator('.turn').count();
  await submit(page, text);
  await page.locator('.turn').nth(turns).waitFor();
}

async function ask(page, text) {
  await send(page, text);
  await lastAnswer(page).locator('.answer-footer').waitFor();
}

const lastAnswer = page => page.locator('.turn').last().locator('.answer');
// Text is read by textContent throughout: innerText is empty for what the browser has not laid out yet.
const scripted = () => real && skip('needs the scripted server');

async function clipboard(page) {
  return page.evaluate(() => navigator.clipboard.readText());
}

async function axe(page) {
  await page.evaluate(readFileSync(join(here, 'node_modules/axe-core/axe.min.js'), 'utf8'));
  const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes.map(node => node.target.join(' ')).join(', ')}`);
}

const ALLOWED_TAGS = new Set(['P', 'H3', 'H4', 'H5', 'H6', 'UL', 'OL', 'LI', 'BLOCKQUOTE', 'HR', 'BR', 'STRONG', 'EM', 'DEL', 'CODE', 'PRE', 'SPAN', 'DIV',
  'FIGURE', 'FIGCAPTION', 'BUTTON', 'TABLE', 'THEAD', 'TBODY', 'TR', 'TH', 'TD', 'A']);
const ALLOWED_ATTRIBUTES = new Set(['class', 'dir', 'href', 'target', 'rel', 'start', 'tabindex', 'role', 'aria-label', 'aria-busy', 'type', 'title']);

// Runs in the page: which elements and attributes of an answer are not among the allowed ones.
function inspect(root, [tags, attributes]) {
  const bad = [];
  let nodes = 0;
  for (const node of root.querySelectorAll('*')) {
    nodes++;
    if (!tags.includes(node.tagName))
      bad.push(node.tagName);
    for (const { name, value } of node.attributes) {
      if (!attributes.includes(name) || (name === 'href' && !/^(https?|mailto):/.test(value)))
        bad.push(`${node.tagName} ${name}=${value.slice(0, 80)}`);
    }
  }
  return { bad, nodes };
}

// One page for many cases, each in a chat of its own; a case that failed gets the next one a new page.
let shared = null;

async function onSharedPage(body) {
  scripted();
  if (!shared) {
    shared = await openPage(browser, base);
    await shared.page.goto(signInLink());
    await shared.page.locator('.model-choice').waitFor();
  }
  try {
    await shared.page.getByRole('button', { name: 'New chat' }).first().click();
    await body(shared.page);
    assert.deepEqual(shared.faults, []);
  } catch (error) {
    await shared.close();
    shared = null;
    throw error;
  }
}

// --- cases ---

const cases = [
  ['test_page__tells_how_to_sign_in', () => withPage(async page => {
    await page.getByRole('heading', { name: 'Please sign in' }).waitFor();
    assert.match(await page.locator('main').textContent(), /one-time link/);
    assert.equal(await page.getByRole('link', { name: 'Sign in' }).getAttribute('href'), '/auth/sign-in');
    await page.getByRole('button', { name: 'Check again' }).click();
    await page.getByRole('alert').waitFor();
    await page.screenshot({ path: join(shots, 'sign-in.png') });
    assert.deepEqual(await axe(page), []);
  }, {}, false)],

  ['test_page__policy_headers_are_those_promised', async () => {
    const policy = (await fetch(base)).headers.get('content-security-policy');
    for (const part of ["default-src 'none'", "script-src 'self'", "require-trusted-types-for 'script'", "trusted-types 'none'", "base-uri 'none'"])
      assert.ok(policy.includes(part), `${part} in ${policy}`);
    assert.ok(!/unsafe|https?:|data:|\*/.test(policy), policy);
  }],

  ['test_chat__question_and_answer', () => withPage(async page => {
    await ask(page, real ? process.env.PROMPT ?? 'Say hello in one short sentence.' : 'hello there');
    assert.ok((await lastAnswer(page).locator('.markdown').textContent()).length > 0);
    const footer = await lastAnswer(page).locator('.answer-footer').textContent();
    assert.match(footer, /Answered (in this building|by)/);
    assert.match(footer, /\d+ \+ \d+ tokens?/);
    assert.match(footer, /Public|Internal|Confidential|Secret/);
    assert.match(footer, /Record \w+/);
    assert.equal(await page.locator('#composer').inputValue(), '');
    if (real) {
      await page.screenshot({ path: join(shots, 'real-answer.png') });
      await ask(page, 'Is my card 4111 1111 1111 1111 safe?');
      await page.locator('.turn').last().getByText('masked', { exact: false }).first().waitFor();
      await page.screenshot({ path: join(shots, 'real-masked.png') });
      return;
    }
    assert.match(footer, /house-small/);
    assert.equal(await lastAnswer(page).locator('strong').textContent(), 'an answer');
    assert.match(await page.getByRole('status').textContent(), /Answer finished, 11 words/);
    const { headers, body } = server.requests.at(-1);
    assert.equal(headers['x-csrf-token'], [...server.sessions.values()].at(-1));
    assert.equal(headers['x-data-class'], undefined);
    assert.deepEqual(body, { model: 'house-small', messages: [{ role: 'user', content: 'hello there' }], stream: true, stream_options: { include_usage: true } });
  })],

  ['test_chat__the_chat_is_sent_again_with_each_message', () => withPage(async page => {
    scripted();
    await ask(page, 'text first answer');
    await send(page, 'denied this one');
    await lastAnswer(page).locator('.error-card').waitFor();
    await ask(page, 'echo');
    assert.deepEqual(server.requests.at(-1).body.messages.map(({ role, content }) => `${role}: ${content}`),
      ['user: text first answer', 'assistant: first answer', 'user: echo']);
  })],

  ['test_stream__shows_stages_and_each_part_as_it_comes', () => withPage(async page => {
    scripted();
    await send(page, 'steps');
    const stage = page.locator('.stage');
    await stage.getByText('Checking your message').waitFor();
    await server.pass('checked');
    await stage.getByText('Waiting for a place').waitFor();
    await server.pass('waited');
    await stage.getByText('The model is reading').waitFor();
    await server.pass('begun');
    for (let i = 1; i <= 3; i++) {
      await lastAnswer(page).getByText(`Part ${i}.`).waitFor();
      assert.equal(await lastAnswer(page).locator('.markdown p').count(), i);
      await stage.getByText('Writing').waitFor();
      await server.pass(`part ${i}`);
    }
    await lastAnswer(page).locator('.answer-footer').waitFor();
    assert.equal(await stage.count(), 0);
  })],

  ['test_stop__ends_the_request_and_keeps_the_text', () => withPage(async page => {
    if (process.env.LONG_MODEL) { // one that is slow enough to be stopped
      await page.locator('.model-choice .opener').click();
      await page.locator('.model-choice .panel').getByText(process.env.LONG_MODEL, { exact: true }).click();
    }
    await send(page, real ? process.env.LONG_PROMPT ?? 'Count from 1 to 500, one number per line.' : 'endless');
    await lastAnswer(page).locator('.markdown p').first().waitFor();
    await page.getByRole('button', { name: 'Stop' }).click();
    await lastAnswer(page).getByText('Stopped by you').waitFor();
    const length = (await lastAnswer(page).locator('.markdown').textContent()).length;
    assert.ok(length > 0);
    await page.waitForTimeout(200);
    assert.equal((await lastAnswer(page).locator('.markdown').textContent()).length, length);
    await page.getByRole('button', { name: 'Send' }).waitFor();
    if (!real) {
      for (let i = 0; i < 100 && !server.aborted; i++)
        await page.waitForTimeout(20);
      assert.equal(server.aborted, 1);
    }
  })],

  ['test_stream__settled_blocks_keep_their_elements', () => withPage(async page => {
    scripted();
    await send(page, 'steps');
    for (const name of ['checked', 'waited', 'begun'])
      await server.pass(name);
    await lastAnswer(page).getByText('Part 1.').waitFor();
    await server.pass('part 1');
    await lastAnswer(page).getByText('Part 2.').waitFor();
    await page.evaluate(() => { window.kept = [...document.querySelectorAll('.markdown p')]; });
    await server.pass('part 2');
    await lastAnswer(page).getByText('Part 3.').waitFor();
    await server.pass('part 3');
    await lastAnswer(page).locator('.answer-footer').waitFor();
    assert.deepEqual(await page.evaluate(() => {
      const now = [...document.querySelectorAll('.markdown p')];
      return window.kept.map((node, i) => node === now[i]);
    }), [true, true]);
  })],

  ['test_stream__a_growing_list_keeps_its_items', () => withPage(async page => {
    scripted();
    await page.evaluate(() => {
      window.items = new Set();
      new MutationObserver(() => {
        for (const item of document.querySelectorAll('.markdown li'))
          window.items.add(item);
      }).observe(document.body, { childList: true, subtree: true, characterData: true });
    });
    await ask(page, `text ${'- an item of *the* list\n'.repeat(60)}`);
    const made = await page.evaluate(() => window.items.size);
    assert.equal(await lastAnswer(page).locator('.markdown li').count(), 60);
    assert.ok(made < 400, `${made} elements made for 60 items`); // each is redrawn only while it is the last
  })],

  ['test_stream__100_KB_with_one_change_per_frame', () => withPage(async page => {
    scripted();
    // Counts: frames, and batches of changes in the answer's text. A batch is one task that changed it.
    await page.evaluate(() => {
      window.counts = { frames: 0, batches: 0, perFrame: 0, worst: 0, nodes: 0 };
      const tick = () => {
        window.counts.frames++;
        window.counts.perFrame = 0;
        requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
      new MutationObserver(records => {
        const inText = records.filter(record => record.target.nodeType === 3 || record.target.closest('.markdown'));
        if (!inText.length)
          return;
        window.counts.batches++;
        window.counts.nodes += inText.reduce((n, record) => n + record.addedNodes.length, 0);
        window.counts.worst = Math.max(window.counts.worst, ++window.counts.perFrame);
      }).observe(document.querySelector('.scroll'), { childList: true, characterData: true, subtree: true });
    });
    await send(page, 'big');
    await page.fill('#composer', 'typed while it streams');
    assert.equal(await page.locator('#composer').inputValue(), 'typed while it streams');
    await lastAnswer(page).locator('.answer-footer').waitFor({ timeout: 120_000 });
    const counts = await page.evaluate(() => window.counts);
    const elements = await lastAnswer(page).locator('.markdown *').count();
    console.log(`# 100,000 characters in 3,125 chunks: ${counts.batches} changes in ${counts.frames} frames, ${counts.nodes} nodes added for ${elements} elements kept`);
    assert.ok(counts.batches <= counts.frames + 2, 'more changes than frames');
    assert.ok(counts.worst <= 2, `${counts.worst} changes in one frame`); // the last frame's and the end's may share one
    assert.ok(counts.nodes < 6 * elements, 'elements are made again and again');
  })],

  ['test_scroll__follows_and_yields_to_the_reader', () => withPage(async page => {
    scripted();
    await send(page, 'endless');
    const reachesEnd = () => page.waitForFunction(() => {
      const box = document.querySelector('.scroll');
      return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
    });
    const top = () => page.evaluate(() => document.querySelector('.scroll').scrollTop);
    await page.waitForFunction(() => document.querySelector('.scroll').scrollHeight > 2000);
    await reachesEnd();
    await page.mouse.move(640, 300);
    await page.mouse.wheel(0, -600);
    await page.getByRole('button', { name: 'To the latest' }).waitFor();
    let settled = await top(); // the browser scrolls the wheel's way over several frames
    for (let before = -1; before !== settled; settled = await top()) {
      before = settled;
      await page.waitForTimeout(250);
    }
    const height = await page.evaluate(() => document.querySelector('.scroll').scrollHeight);
    await page.waitForFunction(height => document.querySelector('.scroll').scrollHeight > height + 100, height);
    assert.ok(Math.abs(await top() - settled) < 3, 'the reader was moved');
    await page.getByRole('button', { name: 'To the latest' }).click();
    await reachesEnd();
    const later = await page.evaluate(() => document.querySelector('.scroll').scrollHeight);
    await page.waitForFunction(later => document.querySelector('.scroll').scrollHeight > later + 100, later);
    await reachesEnd(); // it follows again
    await page.getByRole('button', { name: 'Stop' }).click();
  })],

  ['test_scroll__the_footer_is_in_view_at_the_end', () => withPage(async page => {
    scripted();
    for (const text of ['mixed', 'code', 'mixed again']) {
      await ask(page, text);
      // the footer ends above the message field, and near it
      await page.waitForFunction(() => {
        const bottom = [...document.querySelectorAll('.answer-footer')].at(-1).getBoundingClientRect().bottom;
        const end = document.querySelector('.foot').getBoundingClientRect().top;
        return bottom <= end && bottom > end - 120;
      });
    }
  })],

  ['test_footer__masked_spans_class_and_reasons', () => withPage(async page => {
    scripted();
    await ask(page, 'masked');
    const turn = page.locator('.turn').last();
    assert.match(await turn.locator('.question').textContent(), /Masked before a model saw it:\s*1 card number\s*2 IBANs/);
    assert.match(await turn.locator('.answer-footer').textContent(), /Masked in the answer:\s*1 e-mail address/);
    assert.deepEqual(await turn.locator('.markdown .mask').allTextContents(), ['card number masked', 'e-mail address masked']);
    assert.match(await turn.locator('.markdown').textContent(), /\[SECRET_MASKED\] is only said/); // not reported: no chip
    await turn.getByText('Why here?').click();
    assert.match(await turn.locator('.why').textContent(), /Data class Confidential, from: what the text contains\.[^]*A card number was found/);
  })],

  ['test_footer__follows_a_fallback', () => withPage(async page => {
    scripted();
    await ask(page, 'fallback');
    const footer = await lastAnswer(page).locator('.answer-footer').textContent();
    assert.match(footer, /Answered in this building/);
    assert.match(footer, /reached its length limit/);
    assert.equal(await lastAnswer(page).locator('.place-there').count(), 0);
  })],

  ['test_copy__answer_code_and_record', () => withPage(async page => {
    scripted();
    const code = 'if (a < b) {\n\treturn "x";\n}\n';
    await ask(page, `text Look:\n\n\`\`\`js\n${code}\n\`\`\`\n\nDone.`);
    const answer = lastAnswer(page);
    await answer.getByRole('button', { name: 'Copy code' }).click();
    await answer.getByText('Copied').waitFor();
    assert.equal(await clipboard(page), code);
    await answer.getByRole('button', { name: 'Copy', exact: true }).click();
    await page.getByRole('status').getByText('Copied').waitFor();
    await page.waitForTimeout(100);
    assert.equal(await clipboard(page), `Look:\n\n\`\`\`js\n${code}\n\`\`\`\n\nDone.`);
    await answer.locator('.record').click();
    await page.waitForFunction(() => navigator.clipboard.readText().then(text => text.startsWith('01jd')));
    // Selecting with the mouse gives the same text, without line numbers or doubled newlines.
    const selected = await answer.locator('pre code').evaluate(node => {
      getSelection().selectAllChildren(node);
      return getSelection().toString();
    });
    assert.equal(selected.trimEnd(), code.trimEnd());
  })],

  ['test_code__long_block_is_exact', () => withPage(async page => {
    scripted();
    await ask(page, 'code');
    const text = await lastAnswer(page).locator('pre').textContent();
    const lines = text.split('\n');
    assert.equal(lines.length, 402);
    assert.equal(lines[399], 'const line399 = "399"; // <b>399</b>');
    assert.deepEqual(lines.slice(400), ['', '\tlast();']);
  })],

  ['test_links__web_and_mail_only_with_visible_host', () => withPage(async page => {
    scripted();
    await ask(page, 'text [click](https://evil.example/x) [https://bank.example](https://evil.example/y) <https://fine.example/z> [late][l] ![pic](https://i.example/p.png) [no](javascript:alert(1)) [mail](mailto:a@b.example)\n\n[l]: https://late.example/q\n');
    const links = await lastAnswer(page).locator('.markdown a').evaluateAll(nodes => nodes.map(node => [node.textContent, node.href, node.target, node.rel, node.nextElementSibling?.className === 'destination' ? node.nextElementSibling.textContent.trim() : '']));
    const rel = 'noopener noreferrer';
    assert.deepEqual(links, [
      ['click', 'https://evil.example/x', '_blank', rel, '(evil.example)'],
      ['https://bank.example', 'https://evil.example/y', '_blank', rel, '(evil.example)'],
      ['https://fine.example/z', 'https://fine.example/z', '_blank', rel, ''],
      ['late', 'https://late.example/q', '_blank', rel, '(late.example)'],
      ['Image: pic', 'https://i.example/p.png', '_blank', rel, '(i.example)'],
      ['mail', 'mailto:a@b.example', '_blank', rel, '(a@b.example)'],
    ]);
    assert.match(await lastAnswer(page).locator('.markdown').textContent(), /no \(link not allowed\)/);
  })],

  ...Object.keys(HOSTILE).map(name => [`test_hostile__${name.replaceAll(/\W+/g, '_')}`, () => onSharedPage(async page => {
    await send(page, `hostile ${name}`);
    await lastAnswer(page).locator('.answer-footer').waitFor({ timeout: 60_000 });
    const found = await lastAnswer(page).locator('.markdown').evaluate(inspect, [[...ALLOWED_TAGS], [...ALLOWED_ATTRIBUTES]]);
    assert.deepEqual(found.bad, []);
    assert.ok(found.nodes < 60_000, `${found.nodes} elements`);
    // The page still works.
    await ask(page, 'hello');
    assert.equal(await lastAnswer(page).locator('strong').textContent(), 'an answer');
  })]),

  ['test_hostile__what_the_gateway_repeats_is_text', () => withPage(async page => {
    scripted();
    const models = server.models;
    server.models = [{ id: '<img src=x onerror=alert(1)>', description: '<script>alert(1)</script>', max_class: 'nonsense', local_only: 'yes' }];
    try {
      await page.reload();
      await page.locator('.model-choice button').first().click();
      assert.match(await page.locator('.model-choice .panel').textContent(), /<img src=x[^]*<script>[^]*Goes to a provider/);
      assert.equal(await page.locator('.model-choice img, .model-choice script').count(), 0);
    } finally {
      server.models = models;
    }
  })],

  ['test_errors__refusal_has_the_servers_sentence_and_no_retry', () => withPage(async page => {
    scripted();
    await send(page, 'denied');
    const card = lastAnswer(page).locator('.error-card');
    await card.getByText('Choose house-small or house-large.').waitFor();
    assert.match(await card.textContent(), /This was refused[^]*Code: class_not_allowed[^]*Record 01jd/);
    assert.equal(await card.getByRole('button', { name: 'Try again' }).count(), 0);
    await card.getByRole('button', { name: 'Choose another model' }).click();
    await page.locator('.model-choice .panel').waitFor();
  })],

  ['test_errors__429_counts_down_and_then_works', () => withPage(async page => {
    scripted();
    await send(page, 'limited');
    const card = lastAnswer(page).locator('.error-card');
    const retry = card.getByRole('button', { name: /Try again/ });
    await card.getByText('20 requests per minute').waitFor();
    assert.match(await retry.textContent(), /Try again in [1-4] s/);
    assert.ok(await retry.isDisabled());
    await card.getByRole('button', { name: 'Try again', exact: true }).waitFor();
    await retry.click();
    await lastAnswer(page).getByText('Now it worked.').waitFor();
    assert.equal(await page.locator('.turn').count(), 1);
    assert.equal(await page.locator('.error-card').count(), 0);
  })],

  ['test_errors__down_too_large_and_not_json', () => withPage(async page => {
    scripted();
    const expected = {
      down: [/cannot answer right now[^]*nothing was sent to a model/, 1],
      toolarge: [/could not be sent[^]*at most 1 MB/, 0],
      plain502: [/cannot answer right now[^]*status 502/, 1],
    };
    for (const [script, [words, retries]] of Object.entries(expected)) {
      await send(page, script);
      const card = lastAnswer(page).locator('.error-card');
      await card.waitFor();
      assert.match(await card.textContent(), words);
      assert.equal(await card.getByRole('button', { name: 'Try again' }).count(), retries, script);
    }
  })],

  ['test_errors__broken_streams_keep_what_was_written', () => withPage(async page => {
    scripted();
    for (const [script, words] of [['broken', /What you see is incomplete/], ['cut', /ended before the answer was complete/]]) {
      await send(page, script);
      const card = lastAnswer(page).locator('.error-card');
      await card.waitFor();
      assert.match(await card.textContent(), words);
      assert.match(await lastAnswer(page).locator('.markdown').textContent(), /Half of an answ/);
      assert.equal(await card.getByRole('button', { name: 'Try again' }).count(), 1);
    }
  })],

  ['test_errors__no_connection', () => withPage(async page => {
    scripted();
    await page.route('**/v1/chat/completions', route => route.abort());
    await send(page, 'hello');
    const card = lastAnswer(page).locator('.error-card');
    await card.getByText('could not be reached').waitFor();
    await page.unroute('**/v1/chat/completions');
    await card.getByRole('button', { name: 'Try again' }).click();
    await lastAnswer(page).getByText('The second part.').waitFor();
  })],

  ['test_session__expiry_keeps_draft_and_chat', () => withPage(async page => {
    scripted();
    await ask(page, 'hello');
    await submit(page, 'expired');
    await page.getByRole('heading', { name: 'You are signed out' }).waitFor();
    await page.context().request.get(server.signInLink); // the link, opened in another tab
    await page.getByRole('button', { name: 'Check again' }).click();
    await page.locator('#composer').waitFor();
    assert.equal(await page.locator('.turn').count(), 2);
    await lastAnswer(page).getByText('Your session has ended').waitFor();
  })],

  ['test_session__another_person_sees_nothing_of_the_first', () => withPage(async page => {
    scripted();
    await ask(page, 'hello from ada');
    await page.fill('#composer', 'a draft of ada');
    await page.waitForFunction(() => sessionStorage.getItem('gatehouse.draft') === 'a draft of ada');
    server.subject = 'bob@example.org';
    try {
      for (const again of ['in the same page', 'after a reload']) {
        if (again === 'in the same page') {
          server.sessions.clear();
          await page.getByRole('button', { name: 'Send' }).click();
          await page.getByRole('heading', { name: 'You are signed out' }).waitFor();
          await page.context().request.get(server.signInLink);
          await page.getByRole('button', { name: 'Check again' }).click();
        } else {
          await page.evaluate(() => sessionStorage.setItem('gatehouse.draft', 'a draft of bob'));
          server.subject = 'eve@example.org';
          await page.goto(base);
        }
        await page.getByRole('heading', { name: 'What are you working on?' }).waitFor();
        assert.equal(await page.locator('#composer').inputValue(), '', again);
        assert.equal(await page.locator('.turn, .chat-entry').count(), 0, again);
      }
    } finally {
      server.subject = 'ada@example.org';
    }
  })],

  ['test_session__sign_out_forgets_everything', () => withPage(async page => {
    scripted();
    await ask(page, 'hello');
    await page.fill('#composer', 'a secret draft');
    await page.locator('.account summary').click();
    assert.match(await page.locator('.account .panel').textContent(), /ada@example\.org[^]*employee, finance/);
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('heading', { name: 'Please sign in' }).waitFor();
    assert.ok(!(await page.locator('body').textContent()).includes('ada@'));
    assert.deepEqual(await page.evaluate(() => [sessionStorage.length, localStorage.length]), [0, 0]);
    server.sessions.clear();
  })],

  ['test_session__ended_in_mid_answer', () => withPage(async (page, faults) => {
    scripted();
    await ask(page, 'hello');
    await submit(page, 'ended');
    await page.getByRole('heading', { name: 'You are signed out' }).waitFor();
    assert.match(await page.getByRole('alert').textContent(), /session has ended/);
    await page.screenshot({ path: join(shots, 'signed-out.png') });
    assert.deepEqual(await axe(page), []);
    // What was written is still there, so signing in is another tab's work; this one goes on when it is looked at again.
    const [tab] = await Promise.all([page.context().waitForEvent('page'), page.getByRole('link', { name: 'Sign in' }).click()]);
    await tab.getByRole('heading', { name: '/auth/sign-in' }).waitFor();
    await page.context().request.get(server.signInLink);
    await tab.close();
    assert.deepEqual(faults.splice(0), ['a new window was opened']);
    await page.evaluate(() => document.dispatchEvent(new Event('visibilitychange')));
    await page.locator('#composer').waitFor();
    assert.equal(await page.locator('.turn').count(), 2);
    assert.match(await lastAnswer(page).textContent(), /Half of an answ[^]*Your session ended/);
    await lastAnswer(page).getByRole('button', { name: 'Try again' }).waitFor();
  })],

  ['test_session__ended_in_mid_answer_and_begun_anew_elsewhere', () => withPage(async page => {
    scripted();
    await send(page, 'ended elsewhere');
    const card = lastAnswer(page).locator('.error-card');
    await card.getByText('Your session has ended').waitFor();
    await ask(page, 'hello');
    assert.equal(await page.locator('.turn').count(), 2);
  })],

  ['test_session__stale_is_refreshed_once_and_the_request_sent_again', () => withPage(async page => {
    scripted();
    server.refreshed = 0;
    server.stale = true;
    server.roles = ['employee'];
    server.models = server.models.slice(0, 2);
    try {
      await ask(page, 'hello');
      assert.equal(server.refreshed, 1);
      await ask(page, 'hello again');
      assert.equal(server.refreshed, 1);
      // the provider has said other roles: other models
      await page.locator('.model-choice .opener').click();
      await page.waitForFunction(() => document.querySelectorAll('.model-choice .option').length === 2);
    } finally {
      server.roles = ['employee', 'finance'];
      server.models = allModels;
      server.stale = false;
    }
  })],

  ['test_session__stale_that_cannot_be_refreshed', () => withPage(async page => {
    scripted();
    server.stale = true;
    try {
      server.refreshStatus = 503; // the provider is away: nobody is signed out for that
      server.refreshed = 0;
      await send(page, 'hello');
      const card = lastAnswer(page).locator('.error-card');
      await card.getByText('could not confirm').waitFor();
      assert.equal(server.refreshed, 1, 'asked once a request');
      server.refreshStatus = 200;
      await card.getByRole('button', { name: 'Try again' }).click();
      await lastAnswer(page).locator('.answer-footer').waitFor(); // while an answer runs, Enter sends nothing
      server.stale = true;
      server.refreshStatus = 401; // it refuses: signed out
      await submit(page, 'hello');
      await page.getByRole('heading', { name: 'You are signed out' }).waitFor();
    } finally {
      server.stale = false;
      server.refreshStatus = 200;
    }
  })],

  ['test_session__refreshed_in_another_tab', () => withPage(async page => {
    scripted();
    await ask(page, 'hello');
    await page.context().request.get(`${base}/rotated`); // a new cookie; the page has the CSRF token of the old one
    await ask(page, 'hello again');
    assert.equal(server.requests.at(-1).headers['x-csrf-token'], [...server.sessions.values()].at(-1));
    await page.context().request.get(`${base}/rotated`);
    await page.locator('.account summary').click();
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('heading', { name: 'Please sign in' }).waitFor();
    assert.equal(server.sessions.size, 0);
  })],

  ['test_session__never_sends_in_another_persons_name', () => withPage(async page => {
    scripted();
    await ask(page, 'hello from ada');
    const sent = server.requests.length;
    server.subject = 'bob@example.org';
    try {
      await page.context().request.get(`${base}/rotated`);
      await page.fill('#composer', 'a secret of ada');
      await page.press('#composer', 'Enter');
      await page.getByRole('heading', { name: 'What are you working on?' }).waitFor();
      assert.equal(server.requests.length, sent);
      assert.equal(await page.locator('#composer').inputValue(), '');
      assert.match(await page.locator('.account summary').textContent(), /bob@example\.org/);
      await ask(page, 'hello from bob');
    } finally {
      server.subject = 'ada@example.org';
    }
  })],

  ['test_session__name_and_roles_are_visible', () => withPage(async page => {
    scripted();
    server.name = 'Ada Lovelace';
    try {
      await page.reload();
      await page.locator('.account summary').getByText('Ada Lovelace').waitFor();
      await page.locator('.account summary').click();
      assert.match(await page.locator('.account .panel').textContent(), /Ada Lovelace[^]*employee, finance/);
    } finally {
      server.name = '';
    }
  })],

  ['test_session__sign_out_goes_on_to_the_provider', () => withPage(async page => {
    scripted();
    server.signOutUrl = `${base}/signed-out`;
    try {
      await ask(page, 'hello');
      await page.locator('.account summary').click();
      await page.getByRole('button', { name: 'Sign out' }).click();
      await page.getByRole('heading', { name: '/signed-out' }).waitFor();
      assert.deepEqual(await page.evaluate(() => [sessionStorage.length, localStorage.length]), [0, 0]);
    } finally {
      server.signOutUrl = '';
    }
  })],

  ['test_session__sign_out_goes_to_no_script', () => withPage(async page => {
    scripted();
    server.signOutUrl = 'javascript:document.title="owned"'; // our own gateway sends none; the page would not go all the same
    try {
      await page.locator('.account summary').click();
      await page.getByRole('button', { name: 'Sign out' }).click();
      await page.getByRole('heading', { name: 'Please sign in' }).waitFor();
      assert.notEqual(await page.title(), 'owned');
    } finally {
      server.signOutUrl = '';
    }
  })],

  ['test_draft__survives_a_reload', () => withPage(async page => {
    await page.fill('#composer', 'half a thought');
    await page.reload();
    await page.locator('#composer').waitFor();
    assert.equal(await page.locator('#composer').inputValue(), 'half a thought');
    assert.equal(await page.evaluate(() => localStorage.length), 0);
  })],

  ['test_composer__enter_shift_enter_and_input_methods', () => withPage(async page => {
    const area = page.locator('#composer');
    await area.focus();
    await page.keyboard.type('one');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('two');
    assert.equal(await area.inputValue(), 'one\ntwo');
    const prevented = (init, keyCode) => area.evaluate((node, [init, keyCode]) => {
      const event = new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true, ...init });
      if (keyCode)
        Object.defineProperty(event, 'keyCode', { value: keyCode });
      node.dispatchEvent(event);
      return event.defaultPrevented;
    }, [init, keyCode]);
    assert.equal(await prevented({ isComposing: true }), false);
    assert.equal(await prevented({}, 229), false);
    assert.equal(await page.locator('.turn').count(), 0);
    await area.fill('   ');
    await page.keyboard.press('Enter');
    assert.equal(await page.locator('.turn').count(), 0, 'blank messages are not sent');
    if (real)
      return;
    await area.fill('hello');
    assert.equal(await prevented({}), true);
    await page.locator('.turn').waitFor();
  })],

  ['test_composer__a_double_click_sends_and_does_not_stop', () => withPage(async page => {
    scripted();
    await page.fill('#composer', 'hello');
    await page.getByRole('button', { name: 'Send' }).dblclick();
    await lastAnswer(page).getByText('The second part.').waitFor();
    assert.equal(await page.locator('.turn').count(), 1);
  })],

  ['test_class__stated_class_is_sent_and_never_lowered', () => withPage(async page => {
    scripted();
    const opener = page.locator('.class-choice .opener');
    assert.match(await opener.textContent(), /Automatic/);
    await opener.click();
    await page.locator('.class-choice').getByText('For named people only').click();
    assert.match(await opener.textContent(), /Confidential/);
    await ask(page, 'hello');
    assert.equal(server.requests.at(-1).headers['x-data-class'], 'confidential');
    assert.match(await page.locator('.question .badge').textContent(), /Confidential/);
    await opener.click();
    for (const level of ['auto', 'public', 'internal'])
      assert.ok(await page.locator(`.class-choice input[value=${level}]`).isDisabled(), level);
    assert.ok(await page.locator('.class-choice input[value=secret]').isEnabled());
    await page.keyboard.press('Escape');
    await ask(page, 'hello again');
    assert.equal(server.requests.at(-1).headers['x-data-class'], 'confidential');
    // A model under this class cannot be used for it, and the page says so before anything is sent.
    await page.locator('.model-choice .opener').click();
    await page.getByText('The strongest model').click();
    await page.fill('#composer', 'hello');
    await page.getByText('cloud-frontier may see Internal data at most').waitFor();
    assert.ok(await page.getByRole('button', { name: 'Send' }).isDisabled());
    const sent = server.requests.length;
    await page.press('#composer', 'Enter');
    await page.getByRole('button', { name: 'New chat' }).click();
    assert.match(await opener.textContent(), /Automatic/);
    await ask(page, 'hello');
    assert.equal(server.requests.length, sent + 1);
    assert.equal(server.requests.at(-1).headers['x-data-class'], undefined);
    assert.match(await lastAnswer(page).locator('.answer-footer').textContent(), /Answered by Example Cloud/);
  })],

  ['test_chats__new_chat_and_back', () => withPage(async page => {
    scripted();
    await ask(page, 'hello first');
    await page.getByRole('button', { name: 'New chat' }).click();
    await page.getByRole('heading', { name: 'What are you working on?' }).waitFor();
    await page.waitForFunction(() => document.activeElement.id === 'composer');
    await ask(page, 'mixed second');
    await page.getByRole('button', { name: 'hello first' }).click();
    assert.equal(await page.locator('.turn').count(), 1);
    assert.equal(await lastAnswer(page).locator('strong').textContent(), 'an answer');
    // An answer goes on while another chat is open.
    await send(page, 'endless');
    await page.locator('.stage').getByText('Writing').waitFor();
    await page.getByRole('button', { name: 'mixed second' }).click();
    await page.getByRole('button', { name: 'hello first' }).click();
    const length = await page.locator('.turn').last().locator('.markdown').evaluate(node => node.textContent.length);
    await page.waitForFunction(length => [...document.querySelectorAll('.markdown')].at(-1).textContent.length > length, length);
    await page.getByRole('button', { name: 'Stop' }).click();
    await lastAnswer(page).getByText('Stopped by you').waitFor();
  })],

  ['test_keyboard__everything_is_reachable', () => withPage(async page => {
    scripted();
    await page.evaluate(() => document.activeElement.blur());
    const walk = async steps => {
      const seen = [];
      for (let i = 0; i < steps; i++) {
        await page.keyboard.press('Tab');
        seen.push(await page.evaluate(() => {
          const node = document.activeElement;
          return node.getAttribute('aria-label') ?? (node.id || node.innerText).trim();
        }));
      }
      return seen;
    };
    await page.fill('#composer', 'x');
    await page.evaluate(() => { document.activeElement.blur(); getSelection().removeAllRanges(); });
    await page.mouse.click(640, 790);
    const seen = (await walk(14)).join(' | ');
    for (const name of ['Skip to the message field', 'house-small', 'Account: ada', 'New chat', 'Summarise a text', 'composer', 'Automatic', 'Send'])
      assert.ok(seen.includes(name), `${name} in ${seen}`);
    // A choice by keyboard: open, arrow down, Enter; the focus is back on the button.
    await page.locator('.model-choice .opener').focus();
    await page.keyboard.press('Enter');
    await page.locator('.model-choice input:focus').waitFor();
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    await page.locator('.model-choice .panel').waitFor({ state: 'detached' });
    await page.waitForFunction(() => /house-large/.test(document.activeElement.innerText));
    await page.keyboard.press('Enter');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => /opener/.test(document.activeElement.className));
  })],

  ['test_keyboard__no_live_region_holds_streaming_text', () => withPage(async page => {
    scripted();
    await ask(page, 'hello');
    assert.equal(await page.evaluate(() => document.querySelectorAll('[aria-live], [role=log], [role=alert]').length), 0);
    assert.equal(await page.evaluate(() => [...document.querySelectorAll('[role=status]')].some(node => node.querySelector('.markdown'))), false);
  })],
];

// How it looks, and what axe says of it, in each scheme.
for (const colorScheme of ['light', 'dark']) {
  cases.push([`test_looks__desktop_${colorScheme}`, () => withPage(async page => {
    scripted();
    await page.screenshot({ path: join(shots, `empty-${colorScheme}.png`) });
    assert.deepEqual(await axe(page), []);
    await page.locator('.model-choice .opener').click();
    await page.screenshot({ path: join(shots, `models-${colorScheme}.png`) });
    assert.deepEqual(await axe(page), []);
    await page.keyboard.press('Escape');
    await ask(page, 'masked: please check the invoice of card 4111 1111 1111 1111');
    await send(page, 'limited');
    await lastAnswer(page).locator('.error-card').waitFor();
    server.limited = 0;
    await page.screenshot({ path: join(shots, `cards-${colorScheme}.png`) });
    await ask(page, 'mixed: show me what you can do');
    await page.locator('.class-choice .opener').click();
    await page.screenshot({ path: join(shots, `chat-${colorScheme}.png`) });
    assert.deepEqual(await axe(page), []);
    await page.keyboard.press('Escape');
    await page.evaluate(() => { document.querySelector('.scroll').scrollTop = 700; });
    await page.waitForTimeout(100);
    await page.screenshot({ path: join(shots, `text-${colorScheme}.png`) });
  }, { colorScheme })]);
}

cases.push(['test_looks__360_pixels', () => withPage(async page => {
  scripted();
  const fits = async () => assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  await page.screenshot({ path: join(shots, 'phone-empty.png') });
  await fits();
  await page.fill('#composer', 'mixed: show me');
  await page.getByRole('button', { name: 'Send' }).click(); // on touch, Enter is a new line
  await lastAnswer(page).locator('.answer-footer').waitFor();
  await fits();
  await page.screenshot({ path: join(shots, 'phone-chat.png') });
  assert.deepEqual(await axe(page), []);
  await page.evaluate(() => { document.querySelector('.scroll').scrollTop = 900; });
  await page.waitForTimeout(100);
  await page.screenshot({ path: join(shots, 'phone-text.png') });
  await page.locator('.model-choice .opener').click();
  await page.screenshot({ path: join(shots, 'phone-models.png') });
  await page.keyboard.press('Escape');
  await page.getByRole('button', { name: 'Show chats' }).click();
  await page.getByRole('button', { name: 'New chat' }).waitFor();
  await page.screenshot({ path: join(shots, 'phone-chats.png') });
  await fits();
  await page.keyboard.press('Escape');
}, { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 })]);

cases.push(['test_looks__forced_colors', () => withPage(async page => {
  scripted();
  await ask(page, 'masked');
  await page.screenshot({ path: join(shots, 'forced-colors.png') });
  assert.deepEqual(await axe(page), []);
}, { forcedColors: 'active' })]);

const only = process.argv[2]; // a part of a case's name, for working on one
try {
  await run(only ? cases.filter(([name]) => name.includes(only)) : cases, { omitSkipped: real });
} finally {
  await browser.close();
  server?.stop();
}

// A real Chromium for the page's tests, and a watch over what the page must never do.

import { existsSync } from 'node:fs';

export const CHROMIUM = process.env.CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);

export async function launch() {
  const { chromium } = await import('playwright-core');
  return chromium.launch({  // each launch gets a new, empty profile
    executablePath: CHROMIUM,
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
}

// A page of its own context. `faults` collects console errors, exceptions, policy violations, dialogs, new windows and
// requests to anywhere but `base`; the end of every case looks at it.
export async function openPage(browser, base, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: new URL(base).origin });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const faults = [];
  page.on('console', message => {
    const text = message.text();
    // The browser itself notes each 4xx and 5xx answer; those are part of several cases.
    if (['error', 'warning'].includes(message.type()) && !/^Failed to load resource/.test(text))
      faults.push(`console: ${text}`);
  });
  page.on('pageerror', error => faults.push(`exception: ${error.message}`));
  page.on('dialog', dialog => {
    faults.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  context.on('page', () => faults.push('a new window was opened'));
  page.on('request', request => {
    if (!request.url().startsWith(`${new URL(base).origin}/`))
      faults.push(`outside request: ${request.url()}`);
  });
  await page.exposeFunction('reportViolation', what => faults.push(`violation: ${what}`));
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', event =>
      window.reportViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
  });
  return { page, faults, close: () => context.close() };
}

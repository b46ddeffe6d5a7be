// The page in headless Chromium, in both colour schemes, on a desk and on a phone.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { Fleet, OUTPUT } from './fleet.mjs';

const SIZES = { desktop: { width: 1280, height: 900 }, phone: { width: 375, height: 780 } };
const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const SECRET = 'a prompt that is not kept';
// None takes more than half a minute; one that hangs must end its servers all the same.
const LIMIT = { timeout: 120_000 };
const REQUEST = JSON.stringify({ model: 'tiny', messages: [{ role: 'user', content: SECRET }] });

let fleet;
let browser;
let profile;

before(async () => {
  fleet = await Fleet.start(3);
  profile = mkdtempSync(join(tmpdir(), 'page-test-'));
  browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: ARGUMENTS, viewport: null,
  });
});

after(async () => {
  await browser?.close();
  fleet?.stop();
  if (profile) rmSync(profile, { recursive: true, force: true });
});

// Opens the page; `problems` fills with what the browser complains about, failed loads included.
async function open(size = SIZES.desktop, colorScheme = 'light') {
  const page = await browser.newPage();
  await page.setViewportSize(size);
  await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
  const problems = [];
  page.on('console', (message) => {
    // The browser notes every refusal; one of them is asked for below.
    const refused = message.location().url.includes('/api/explain');
    if (['error', 'warning'].includes(message.type()) && !refused) problems.push(message.text());
  });
  page.on('pageerror', (error) => problems.push(error.message));
  await page.goto(fleet.url);
  return { page, problems };
}

async function assertFitsWidth(page) {
  const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(content <= window, `${content} px in ${window} px`);
}

async function shoot(page, name, options = { fullPage: true }) {
  await page.screenshot({ path: join(OUTPUT, `${name}.png`), ...options });
}

test('before the first request the page says so', LIMIT, async () => {
  const { page, problems } = await open();
  await page.getByText('Live', { exact: true }).waitFor();
  await page.getByText('No decisions yet').waitFor();
  assert.equal(await page.locator('#endpoints tbody tr').count(), 3);
  assert.deepEqual(problems, []);
  await shoot(page, 'no-decisions');
  await page.close();
});

test('under traffic', LIMIT, async (t) => {
  const stop = new AbortController();
  const talk = fleet.talk(stop.signal);
  await new Promise((resolve) => setTimeout(resolve, 15_000));
  for (const [sizeName, size] of Object.entries(SIZES)) {
    for (const scheme of ['light', 'dark']) {
      await t.test(`${sizeName}, ${scheme}`, () => look(size, scheme, `${sizeName}-${scheme}`));
    }
  }
  stop.abort();
  await talk;
});

async function look(size, scheme, name) {
  const { page, problems } = await open(size, scheme);
  const rows = page.locator('#decisions tbody tr');
  await rows.nth(10).waitFor();
  await assertFitsWidth(page);

  const endpoints = page.locator('#endpoints tbody tr');
  assert.equal(await endpoints.count(), 3);
  const names = await endpoints.locator('th').allTextContents();
  assert.deepEqual(names.toSorted(), fleet.engines.map((port) => `127.0.0.1:${port}`).toSorted());
  assert.match(await endpoints.first().locator('.state').textContent(), /fresh|fading/);
  await page.locator('#tile-cached:not(:text-is("–"))').waitFor();
  assert.match(await page.locator('#tile-cached').textContent(), /^\d+(\.\d)? %$/);
  for (const chart of ['#chart-picks', '#chart-pick-time', '#chart-tokens']) await assertDrawn(page, chart);
  await shoot(page, name);

  await showDetails(page, `${name}-decision`);
  await explain(page, `${name}-explain`);
  await assertFitsWidth(page);
  assert.deepEqual(problems, []);
  await page.close();
}

// The canvas has ink in the first series' colour, and the text for screen readers tells a number.
async function assertDrawn(page, chart) {
  const drawn = await page.locator(`${chart} canvas`).evaluate((canvas) => {
    const colour = getComputedStyle(document.documentElement).getPropertyValue('--series-1').trim();
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let pixels = 0;
    for (let at = 0; at < data.length; at += 4) {
      pixels += data[at] === red && data[at + 1] === green && data[at + 2] === blue;
    }
    return pixels;
  });
  assert.ok(drawn > 5, `${chart}: ${drawn} pixels`);
  assert.match(await page.locator(`${chart} .u-wrap`).getAttribute('aria-label'), /newest: \S+ \d/);
}

async function showDetails(page, name) {
  await page.getByLabel('Pause').check();
  const button = page.locator('#decisions tbody tr button').first();
  await button.focus();
  await page.keyboard.press('Enter');
  const dialog = page.getByRole('dialog');
  await dialog.getByText('was picked').waitFor();
  assert.equal(await dialog.locator('tbody tr').count(), 3);
  const headings = await dialog.locator('thead th').allTextContents();
  for (const scorer of ['prefix-cache', 'queue', 'kv-cache-utilization']) {
    assert.ok(headings.some((heading) => heading.startsWith(scorer)), `${headings}`);
  }
  await assertFitsWidth(page);
  await shoot(page, name, {});
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'hidden' });
  await page.getByLabel('Pause').uncheck();
}

async function explain(page, name) {
  const body = page.getByLabel('Request body (JSON)');
  await body.fill('{"model": "tiny"');
  await page.getByRole('button', { name: 'Explain', exact: true }).click();
  await page.locator('#explain-error').getByText('invalid request').waitFor();
  await body.fill(REQUEST);
  await page.getByRole('button', { name: 'Explain', exact: true }).click();
  const result = page.locator('#explain-result');
  await result.getByText('was picked').waitFor();
  assert.equal(await result.locator('tbody tr').count(), 3);
  assert.ok(!(await result.textContent()).includes(SECRET));
  assert.ok(await page.locator('#explain-error').isHidden());
  await result.scrollIntoViewIfNeeded();
  await shoot(page, name, {});
}

test('what the server sends is never markup', LIMIT, async () => {
  const { page, problems } = await open();
  await page.route('**/api/endpoints', async (route) => {
    const answer = await (await route.fetch()).json();
    answer.endpoints[0].endpoint = '<img src=x onerror=alert(1)>';
    await route.fulfill({ json: answer });
  });
  await page.locator('#endpoints').getByText('<img src=x onerror=alert(1)>').waitFor();
  assert.equal(await page.locator('img').count(), 0);
  assert.deepEqual(problems, []);
  await page.close();
});

test('a server that is gone, and one without endpoints that comes back', LIMIT, async () => {
  const { page } = await open();
  await page.getByText('Live', { exact: true }).waitFor();
  await fleet.stopPicker();
  await page.getByText('has not answered since').waitFor();
  await shoot(page, 'server-gone', {});
  fleet.startPicker(['--config-text', 'endpoints: []']);
  await page.getByText('Live', { exact: true }).waitFor();
  await page.getByText('No endpoints: requests are refused').waitFor();
  assert.ok(await page.locator('#gone').isHidden());
  await page.getByText('No decisions yet').waitFor();
  await shoot(page, 'no-endpoints');
  await page.close();
});

test('a request whose prefill is done elsewhere shows both picks', LIMIT, async () => {
  const { page } = await open();
  await fleet.stopPicker();
  await page.getByText('has not answered since').waitFor();
  fleet.startPicker(fleet.disaggregated());
  await page.getByText('Live', { exact: true }).waitFor();
  assert.equal(await fleet.chat('the rain in the mountains '.repeat(100)), 200);
  const prefiller = /127\.0\.0\.1:\d+/.exec(await page.locator('#decisions tbody').getByText('prefill on').textContent())[0];
  await page.locator('#decisions tbody tr button').first().click();
  const dialog = page.getByRole('dialog');
  await dialog.getByRole('heading', { name: `Prefill on ${prefiller}` }).waitFor();
  assert.equal(await dialog.locator('table').count(), 2);
  assert.deepEqual(await dialog.locator('tr.chosen th').allTextContents(), [`127.0.0.1:${fleet.engines[0]}`, prefiller]);
  await assertFitsWidth(page);
  await shoot(page, 'prefill-elsewhere', {});
  await page.close();
});

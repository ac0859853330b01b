// A real browser (Debian's chromium, driven by npm `playwright-core`) that logs in at a gateway, does something, and logs out.
//
//   node login.cjs https://HOST:PORT
//   prints {title, url, cookies, script, stranger, after} as JSON
const { chromium } = require('playwright-core');

const main = async ([origin]) => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'],
  });
  try {
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    context.setDefaultTimeout(60_000);
    const page = await context.newPage();
    await page.goto(`${origin}/orders?day=1`);
    await page.fill('input[name=login]', 'alice');
    await page.fill('input[name=password]', 'any');
    await page.click('button[type=submit]');
    // The consent.
    await page.click('button[type=submit]');
    await page.waitForURL(`${origin}/orders?day=1`);
    const said = { title: await page.title(), url: page.url() };
    const cookies = (await context.cookies(origin)).filter((one) => one.name.includes('torana'));
    said.cookies = cookies.map((one) => [
      one.name, one.sameSite.toLowerCase(), one.httpOnly && 'httpOnly', one.secure && 'secure',
    ].join(' '));
    const ask = (options) => page.evaluate(async (how) => (await fetch('/data', how)).status, options);
    said.script = await ask({});
    said.stranger = await ask({ credentials: 'omit' });
    await page.goto(`${origin}/oauth2/logout`);
    await page.click('button[value=yes]');
    await page.waitForSelector('input[name=login]');
    said.after = (await page.$('input[name=login]')) ? 'login' : page.url();
    console.log(JSON.stringify(said));
  } finally {
    await browser.close();
  }
};

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});

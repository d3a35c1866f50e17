// node look.mjs URL PICTURE.png [CHROMIUM]: open the page in headless Chromium, print its result, take a screenshot.
import { chromium } from "playwright-core";

const [url, picture, executablePath = "/usr/bin/chromium"] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const page = await browser.newPage({ viewport: { width: 900, height: 620 } });
  page.on("console", (message) => console.error(message.text()));
  await page.goto(url);
  await page.waitForFunction(() => window.result || window.failure, null, { timeout: 60_000 });
  const drawn = () => document.getElementById("groups").toDataURL();
  const found = await page.evaluate(() => window.result ?? { failure: window.failure });
  console.log(JSON.stringify({ ...found, drawn: await page.evaluate(drawn) }));
  await page.screenshot({ path: picture });
} finally {
  await browser.close();
}

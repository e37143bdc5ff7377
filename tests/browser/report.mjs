// The report in a real browser: complete, quiet, by itself, for keyboards and screen readers, narrow and dark.
//
// Usage: npm ci && REPORT=reports/index.html node --test report.mjs   (SHOTS=FOLDER keeps screenshots)
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, before, describe, test } from "node:test";
import { readFileSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const report = resolve(process.env.REPORT ?? "../../reports/index.html");
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const results = JSON.parse(readFileSync(join(dirname(report), "results.json"), "utf8"));
let browser;

before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
  });
});
after(() => browser.close());

/** The report in a window of its own; `noise` gathers what must not be: errors and requests. */
async function open(width, colorScheme) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme, deviceScaleFactor: 1 });
  const page = await context.newPage();
  const noise = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && noise.push(message.text()));
  page.on("pageerror", (error) => noise.push(String(error)));
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith("data:") && url !== pathToFileURL(report).href) noise.push(`asked for ${url}`);
  });
  await page.goto(pathToFileURL(report).href);
  const close = async () => {
    await context.close();
    assert.deepEqual(noise, []);
  };
  return { page, close };
}

for (const width of [1280, 390]) {
  for (const scheme of ["light", "dark"]) {
    describe(`${width} pixels wide, ${scheme}`, () => {
      test("everything is there, nothing is asked for, and axe finds no violation", async () => {
        const { page, close } = await open(width, scheme);
        // Closed parts count too.
        await page.evaluate(() => document.querySelectorAll("details").forEach((part) => (part.open = true)));
        const seen = await page.evaluate(() => ({
          overflow: document.documentElement.scrollWidth - innerWidth,
          charts: [...document.querySelectorAll("figure svg")].map((svg) => {
            const { width, left, right } = svg.getBoundingClientRect();
            return { name: svg.getAttribute("aria-label") ?? svg.getAttribute("role"), width, left, right };
          }),
          pictures: [...document.querySelectorAll("img")].filter((image) => !image.naturalWidth).length,
          headings: [...document.querySelectorAll("h1, h2, h3")].map((heading) => +heading.tagName[1]),
        }));
        assert.ok(seen.overflow <= 0, `the page is ${seen.overflow} pixels too wide`);
        // Headline, scores, classes, calibration, map, pipeline; four for each protocol; at least four of the training.
        assert.ok(seen.charts.length >= 6 + 4 * 2 + 4, `${seen.charts.length} charts`);
        for (const { name, width: wide, left, right } of seen.charts) {
          assert.ok(name && wide > 250 && left >= 0 && right <= width, `${name}: ${left} to ${right}`);
        }
        assert.equal(seen.pictures, 0, "pictures that cannot be shown");
        seen.headings.reduce((above, level) => (assert.ok(level <= above + 1, "a heading skips a level"), level), 0);
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => globalThis.axe.run());
        const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 120)).join("\n  ")}`);
        assert.deepEqual(told, []);
        if (process.env.SHOTS) {
          const path = join(process.env.SHOTS, `report-${width}-${scheme}.png`);
          await page.evaluate(() => document.querySelectorAll("details").forEach((part) => (part.open = false)));
          await page.screenshot({ path, fullPage: true });
        }
        await close();
      });
    });
  }
}

test("the keyboard reaches the map, and arrows go from picture to picture", async () => {
  const { page, close } = await open(1280, "light");
  const focused = () => page.evaluate(() => document.activeElement.id);
  for (let presses = 0; (await focused()) !== "points"; presses++) {
    assert.ok(presses < 200, "200 times Tab, and no map");
    await page.keyboard.press("Tab");
  }
  const chosen = () =>
    page.evaluate(() => {
      const points = document.getElementById("points");
      const point = document.getElementById(points.getAttribute("aria-activedescendant"));
      const { x, y } = point;
      const told = [point.getAttribute("aria-selected"), points.querySelectorAll('[aria-selected="true"]').length];
      return { label: point.getAttribute("aria-label"), x: x.baseVal.value, y: y.baseVal.value, told };
    });
  await page.keyboard.press("Home");
  assert.deepEqual((await chosen()).told, ["true", 1]);
  // Towards each side from a mark in the midst of all.
  const places = results.map.points.map(({ x, y }, place) => [Math.hypot(x - 0.5, y - 0.5), place]);
  const middle = places.sort(([a], [b]) => a - b)[0][1];
  for (const [key, axis, sign] of [["ArrowRight", "x", 1], ["ArrowLeft", "x", -1], ["ArrowUp", "y", -1], ["ArrowDown", "y", 1]]) {
    await page.keyboard.press("Home");
    for (let place = 0; place < middle; place++) await page.keyboard.press("PageDown");
    const from = await chosen();
    await page.keyboard.press(key);
    const to = await chosen();
    assert.ok(sign * (to[axis] - from[axis]) > 0, `${key} goes from ${from.label} to ${to.label}`);
    assert.deepEqual(to.told, ["true", 1]);
  }
  const shown = await page.locator("#pointed .thumb").count();
  assert.ok(shown >= 2, "the picture and its nearest are shown");
  await page.keyboard.press("Tab");
  assert.notEqual(await focused(), "points", "and the keyboard leaves the map");
  await close();
});

test("pointing at a mark shows its picture and its nearest", async () => {
  const { page, close } = await open(1280, "light");
  const place = Math.floor(results.map.points.length / 2);
  await page.locator(`#point-${place}`).hover({ force: true });
  const panel = page.locator("#pointed");
  const id = Number((await panel.locator("> p").first().innerText()).match(/id (\d+)/)[1]);
  // Marks may lie on each other.
  const [pointed, shown] = [results.map.points[place], results.map.points.find((point) => point.id === id)];
  assert.ok(Math.hypot(pointed.x - shown.x, pointed.y - shown.y) < 0.005, `${id} is shown where ${pointed.id} is pointed at`);
  const data = JSON.parse(await page.locator("#map-data").textContent());
  const { near, class: own } = data.points.find((point) => point.id === id);
  const expected = near.map(([other]) => {
    const of = data.points[other].class;
    return `${of === own ? "✓" : "✗"} ${data.classes[of]}`;
  });
  assert.deepEqual(await panel.locator("li b").allInnerTexts(), expected);
  assert.equal(near.length, Math.min(5, results.map.points.length - 1));
  const width = await panel.locator("> .thumb").evaluate((thumb) => thumb.getBoundingClientRect().width);
  assert.ok(width > 60, `${width} pixels`);
  await close();
});

test("a tap on a metric says what it is", async () => {
  const { page, close } = await open(390, "dark");
  await page.locator("button.term").first().click();
  assert.match(await page.locator("[popover]:popover-open").innerText(), /precision@5: .*nearest/);
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("[popover]:popover-open").count(), 0);
  await close();
});

test("the page holds the results, and is small", async () => {
  const { page, close } = await open(1280, "light");
  assert.deepEqual(JSON.parse(await page.locator("script#results").textContent()), results);
  assert.ok(statSync(report).size < 3e6, `${statSync(report).size} bytes`);
  await close();
});

test("printed, it keeps its figures and is light", async () => {
  const { page, close } = await open(1280, "dark");
  await page.emulateMedia({ media: "print", colorScheme: "dark" });
  const look = await page.evaluate(() => ({
    nav: getComputedStyle(document.querySelector("nav")).display,
    ground: getComputedStyle(document.body).backgroundColor,
    text: getComputedStyle(document.querySelector("figure svg text")).fill,
  }));
  assert.deepEqual(look, { nav: "none", ground: "rgb(255, 255, 255)", text: "rgb(40, 44, 52)" });
  const pages = (await page.pdf({ format: "A4" })).toString("latin1").match(/\/Type\s*\/Page\b/g).length;
  assert.ok(pages > 3 && pages < 60, `${pages} pages`);
  await close();
});

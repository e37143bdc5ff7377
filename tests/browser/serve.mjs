// `similiai serve` in a real browser: every way to ask, by pointer, by keyboard and on a phone, quiet and by itself.
//
// Usage: npm ci && SIMILIAI=target/release/similiai node --test serve.mjs   (SHOTS=FOLDER keeps screenshots)
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import { chromium } from "playwright-core";

const root = resolve(import.meta.dirname, "../..");
const program = resolve(process.env.SIMILIAI ?? join(root, "target/debug/similiai"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const picture = join(root, "artifacts/prepare/horse/00003.png");
let browser, server, origin;

/** Starts the server and waits for its address. */
async function serve(port = "0") {
  const child = spawn(program, ["-C", root, "--quiet", "serve", "--port", port], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = await once(child.stdout, "data");
  return { child, origin: new URL(line.toString().trim()).origin };
}

before(async () => {
  assert.ok(existsSync(picture), "the pipeline has run");
  ({ child: server, origin } = await serve());
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
      "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
  });
});
after(async () => {
  await browser?.close();
  server?.kill();
});

/** The page in a window of its own; `noise` gathers what must not be: errors, and requests to anywhere else. */
async function open({ width = 1280, colorScheme = "light", address = "/", hasTouch = false, quiet = true, base = origin } = {}) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme, hasTouch });
  await context.grantPermissions(["clipboard-read", "clipboard-write", "camera"], { origin: base });
  const page = await context.newPage();
  const noise = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && noise.push(message.text()));
  page.on("pageerror", (error) => noise.push(String(error)));
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== base && !["data:", "blob:"].includes(url.protocol)) noise.push(`asked for ${url}`);
  });
  await page.goto(base + address);
  await page.locator("#samples button").first().waitFor();
  const close = async () => {
    await context.close();
    if (quiet) assert.deepEqual(noise, []);
  };
  return { page, close, noise };
}

const results = (page) => page.locator("#results li");
/** Waits until an answer to what was asked last is shown, with so many results. */
async function answered(page, count = 10) {
  await page.waitForFunction((count) => {
    const list = document.getElementById("results");
    return !list.classList.contains("busy") && list.children.length === count;
  }, count);
  const broken = await page.locator("#results img, #query img").evaluateAll(async (images) => {
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    return images.filter((image) => image.offsetParent && !image.naturalWidth).length;
  });
  assert.equal(broken, 0, "pictures that cannot be shown");
}
const names = (page) => results(page).locator("b").allInnerTexts();

/** What the API says of an upload, to hold the page against. */
async function told(bytes, k) {
  const form = new FormData();
  form.append("image", new Blob([bytes]), "x.png");
  return (await fetch(`${origin}/api/search?k=${k}`, { method: "POST", body: form })).json();
}

async function withoutViolation(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const said = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 120)).join("\n  ")}`);
  assert.deepEqual(said, []);
}

async function shot(page, name) {
  if (process.env.SHOTS) await page.screenshot({ path: join(process.env.SHOTS, `serve-${name}.png`), fullPage: true });
}

describe("a picture of one's own", () => {
  for (const [way, give] of Object.entries({
    "by the file chooser": async (page) => {
      const chooser = page.waitForEvent("filechooser");
      await page.locator("#choose").click();
      await (await chooser).setFiles(picture);
    },
    "dropped": async (page) => {
      const bytes = [...readFileSync(picture)];
      const data = await page.evaluateHandle((bytes) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "00003.png", { type: "image/png" }));
        return data;
      }, bytes);
      await page.dispatchEvent("#drop", "dragover", { dataTransfer: data });
      assert.ok(await page.locator("body.over").count(), "the page shows where it can be dropped");
      await page.dispatchEvent("#drop", "drop", { dataTransfer: data });
    },
    "pasted": async (page) => {
      const bytes = [...readFileSync(picture)];
      await page.evaluate(async (bytes) => {
        const blob = new Blob([new Uint8Array(bytes)], { type: "image/png" });
        await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
      }, bytes);
      await page.keyboard.press("Control+V");
    },
  })) {
    test(way, async () => {
      const { page, close } = await open();
      await give(page);
      await answered(page);
      const expected = await told(readFileSync(picture), 10);
      assert.deepEqual(await names(page), expected.results.map((result) => result.label_name));
      assert.equal(await page.locator("#seen").evaluate((image) => image.naturalWidth), 32);
      assert.match(await page.locator("#query-name").innerText(), /64 × 64/);
      assert.deepEqual(await page.locator("#times dt").allInnerTexts(), ["decode", "wait", "embed", "search", "total in the browser"]);
      assert.ok(!page.url().includes("id="), page.url());
      if (way === "dropped") await shot(page, "upload");
      await close();
    });
  }

  test("photographed", async () => {
    const { page, close } = await open();
    await page.locator("#photograph").click();
    await page.waitForFunction(() => document.querySelector("#camera video").videoWidth > 0);
    await page.locator("#camera .take").click();
    await answered(page);
    assert.match(await page.locator("#query-name").innerText(), /photograph\.png, \d{2,} × \d{2,}/);
    assert.equal(await page.locator("#camera").evaluate((dialog) => dialog.open), false);
    await close();
  });

  test("again after Back, and asked for anew after Reload", async () => {
    const { page, close } = await open();
    await page.locator("#file").setInputFiles(picture);
    await answered(page);
    const first = await names(page);
    await results(page).first().locator("button").click();
    await page.waitForURL(/id=/);
    await answered(page);
    await page.goBack();
    await page.waitForFunction(() => document.getElementById("query-name").textContent.startsWith("00003.png"));
    await answered(page);
    assert.deepEqual(await names(page), first);
    await page.reload();
    await page.getByText("The uploaded picture was not kept").waitFor();
    await close();
  });
});

test("click through, Back and Forward, and a shared address", async () => {
  const { page, close } = await open();
  await page.locator("#samples button").nth(7).click();
  await answered(page);
  const first = { url: page.url(), names: await names(page) };
  const own = await page.locator("#original").getAttribute("alt");
  // The label of the query is known: right and wrong are marked.
  const kind = own.split(": ")[1];
  assert.deepEqual(first.names.map((name) => name.startsWith("✓")), first.names.map((name) => name.endsWith(kind)));
  const ids = await results(page).locator("img").evaluateAll((images) => images.map((image) => +image.src.match(/(\d+)\.png/)[1]));
  assert.ok(!ids.includes(+new URL(first.url).searchParams.get("id")), "the query is no result");
  await results(page).nth(2).locator("button").click();
  await page.waitForURL((url) => url.searchParams.get("id") === String(ids[2]));
  await answered(page);
  const second = { url: page.url(), names: await names(page) };
  await page.goBack();
  await page.waitForURL(first.url);
  await answered(page);
  assert.deepEqual(await names(page), first.names);
  await page.goForward();
  await page.waitForURL(second.url);
  await close();

  const shared = await open({ address: new URL(second.url).pathname + new URL(second.url).search });
  await answered(shared.page);
  assert.deepEqual(await names(shared.page), second.names);
  await shot(shared.page, "by-id");
  await shared.close();
});

test("the slider, the class and the split", async () => {
  const { page, close } = await open({ address: "/?id=5&k=10" });
  await answered(page);
  const entries = await page.evaluate(() => history.length);
  await page.locator("#k").fill("23");
  await answered(page, 23);
  assert.equal(new URL(page.url()).searchParams.get("k"), "23");
  assert.equal(await page.evaluate(() => history.length), entries, "the slider leaves no steps to go back over");
  await page.locator("#label-name").selectOption("frog");
  await page.waitForFunction(() => document.querySelector("#results b")?.textContent.endsWith("frog"));
  await page.locator("#split").selectOption("test");
  await page.waitForFunction(() => document.querySelector("#results .soft:last-child")?.textContent === "test picture");
  assert.deepEqual(new Set(await names(page)), new Set(["✗ frog"]));
  assert.equal(new URL(page.url()).searchParams.get("label_name"), "frog");
  await close();
});

test("the gallery, any picture, and the map", async () => {
  const { page, close } = await open();
  await page.locator("#browse").click();
  const tiles = page.locator("#gallery .tiles button");
  await tiles.first().waitFor();
  assert.equal(await tiles.count(), 60);
  await page.locator("#gallery .on").click();
  await page.locator("#gallery .place", { hasText: "61 to 120" }).waitFor();
  await page.locator("#gallery-label-name").selectOption("ship");
  await page.locator("#gallery .place", { hasText: "1 to 60" }).waitFor();
  await shot(page, "gallery");
  await withoutViolation(page);
  await tiles.nth(4).click();
  await answered(page);
  assert.match(await page.locator("#query-name").innerText(), /^ship/);
  assert.equal(await page.locator("#map .marks .query").count(), 1, "the query stands on the map");
  const before = page.url();
  await page.locator("#map .points path").nth(100).dispatchEvent("click");
  await page.waitForURL((url) => url.href !== before);
  await answered(page);
  const middle = page.url();
  await page.locator("#random").click();
  await page.waitForURL((url) => url.href !== middle);
  await answered(page);
  await close();
});

test("the report is a click away, and cannot reach this server", async () => {
  const { page, close, noise } = await open();
  await page.locator("#report").click();
  await page.getByRole("heading", { name: "SimiliAI report" }).waitFor();
  // Its script runs.
  await page.locator("#pointed .thumb").first().waitFor();
  assert.equal(await page.evaluate(() => self.origin), "null");
  assert.deepEqual(noise, []);
  await close();
});

test("what goes wrong is said where it happens", async () => {
  // The browser itself tells its console of every answer that is no success.
  const { page, close, noise } = await open({ quiet: false });
  const trouble = page.locator("#trouble");
  const give = (name, buffer) => page.locator("#file").setInputFiles({ name, mimeType: "image/png", buffer });
  const whole = readFileSync(picture);
  for (const [name, buffer, said] of [
    ["text.png", Buffer.from("no picture at all"), /no picture: it begins neither as PNG/],
    ["cut.png", whole.subarray(0, whole.length / 2), /damaged or truncated/],
    ["big.png", Buffer.alloc(21e6), /big\.png has 21 MB, more than the 20 MB/],
  ]) {
    await give(name, buffer);
    await page.waitForFunction((text) => new RegExp(text).test(document.getElementById("trouble").textContent), said.source);
  }
  await shot(page, "trouble");
  await withoutViolation(page);
  await page.evaluate(() => {
    const data = new DataTransfer();
    data.setData("text/plain", "only words");
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
  });
  assert.match(await trouble.innerText(), /not a picture file/);
  await page.goto(origin + "/?id=99999");
  await page.waitForFunction(() => /there is no picture 99999/.test(document.getElementById("trouble").textContent));
  // A flat picture looks like none of the gallery.
  const flat = await page.evaluate(async () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
    canvas.getContext("2d").fillRect(0, 0, 64, 64);
    const blob = await new Promise((done) => canvas.toBlob(done));
    return [...new Uint8Array(await blob.arrayBuffer())];
  });
  const answer = await told(Buffer.from(flat), 10);
  await give("flat.png", Buffer.from(flat));
  await answered(page);
  assert.equal(/^No close match/.test(await page.locator("#summary").innerText()), !answer.close);
  assert.deepEqual(noise.filter((text) => !/status of (4|5)\d\d/.test(text)), []);
  await close();
});

test("a server that goes is missed, and found again", async () => {
  const other = await serve();
  const { page, close } = await open({ base: other.origin, quiet: false });
  other.child.kill();
  await once(other.child, "exit");
  await page.locator("#samples button").first().click();
  await page.getByText("The server does not answer").waitFor();
  const again = await serve(new URL(other.origin).port);
  await answered(page);
  await page.getByText("The server is back").waitFor();
  again.child.kill();
  await close();
});

test("by keyboard alone", async () => {
  const { page, close } = await open();
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.closest("[id]")?.id);
  const tabTo = async (id) => {
    for (let presses = 0; (await focused()) !== id; presses++) {
      assert.ok(presses < 60, `60 times Tab, and no ${id}`);
      await page.keyboard.press("Tab");
      const seen = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none" || document.activeElement.type === "file");
      assert.ok(seen, "what has the focus shows it");
    }
  };
  // Asked for early: the browser must know of it before the key is pressed.
  const chooser = page.waitForEvent("filechooser");
  await tabTo("file");
  await page.keyboard.press("Enter");
  await (await chooser).setFiles(picture);
  await answered(page);
  await tabTo("k");
  await page.keyboard.press("ArrowRight");
  await answered(page, 11);
  await tabTo("results");
  await page.keyboard.press("Enter");
  await page.waitForURL(/id=/);
  await answered(page, 11);
  // Alt+Left is the browser's own, which has no window here.
  await page.goBack();
  await page.waitForURL((url) => !url.searchParams.has("id"));
  await answered(page, 11);
  await page.locator("#browse").focus();
  await page.keyboard.press("Enter");
  await page.locator("#gallery .tiles button").first().waitFor();
  await page.keyboard.press("Escape");
  assert.equal(await focused(), "browse", "and closing the gallery leads back");
  await close();
});

for (const width of [1280, 390]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`${width} pixels wide, ${colorScheme}: fits, and axe finds no violation`, async () => {
      const { page, close } = await open({ width, colorScheme, hasTouch: width < 500 });
      await withoutViolation(page);
      await shot(page, `start-${width}-${colorScheme}`);
      await page.locator("#samples button").nth(3).click();
      await answered(page);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(overflow <= 0, `the page is ${overflow} pixels too wide`);
      const small = await page.locator("button:visible, select:visible, label#choose").evaluateAll((all) =>
        all.filter((one) => Math.min(one.getBoundingClientRect().width, one.getBoundingClientRect().height) < 24).map((one) => one.outerHTML.slice(0, 80)));
      assert.deepEqual(small, [], "too small for a finger (WCAG 2.2, 2.5.8)");
      await withoutViolation(page);
      await shot(page, `answer-${width}-${colorScheme}`);
      await close();
    });
  }
}

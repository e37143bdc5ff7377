// The page shows one query at a time. Its address contains the query, so that Back, Reload and shared links work.
import { $, make } from "./dom.js";
import { drawMap, drawMarks } from "./map.js";

const PATIENCE = 2000; // milliseconds between two checks whether the server is back
const LONGEST = 60_000; // most milliseconds to wait for an answer
const KEPT = 20; // uploads that Back can return to

let about = null; // what the server shows; null before it shows anything
let map = null;
let latest = 0; // number of the last search: answers to earlier ones are not shown
const uploads = new Map(); // uploaded pictures of this visit, for Back; they are stored nowhere else

/** Returns what the server answers, or fails with its message. The error has `gone` if there is no answer. */
function ask(method, address, picture, sending) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, address);
    request.responseType = "json";
    if (sending) request.upload.onprogress = (event) => event.lengthComputable && sending(event.loaded / event.total);
    const fail = (text, facts) => reject(Object.assign(new Error(text), facts));
    request.onload = () => {
      if (request.status === 200 && request.response) resolve(request.response);
      else fail(request.response?.detail ?? `The server answers with status ${request.status}.`, { status: request.status });
    };
    request.timeout = LONGEST;
    request.ontimeout = request.onerror = () => fail("The server does not answer. Is `similiai serve` still running?", { gone: true });
    let body = null;
    if (picture) {
      body = new FormData();
      body.append("image", picture, "picture");
    }
    request.send(body);
  });
}

// The query in the address of the page.

function asked() {
  const parameters = new URLSearchParams(location.search);
  const id = parameters.get("id");
  return {
    id: id !== null && /^\d+$/.test(id) ? Number(id) : null,
    upload: history.state?.upload ?? null,
    k: Math.min(Math.max(Math.round(parameters.get("k")) || 10, 1), Number($("k").max)),
    label_name: parameters.get("label_name") ?? "",
    split: parameters.get("split") ?? "",
  };
}

function addressOf({ id, k, label_name, split }) {
  const parameters = new URLSearchParams();
  if (id !== null) parameters.set("id", id);
  parameters.set("k", k);
  if (label_name) parameters.set("label_name", label_name);
  if (split) parameters.set("split", split);
  return "?" + parameters;
}

/** Changes the query and shows it, as a new entry of the history or, with `replace`, instead of the current one. */
function go(change, replace = false) {
  const next = { ...asked(), ...change };
  const state = next.upload === null ? null : { upload: next.upload };
  history[replace ? "replaceState" : "pushState"](state, "", addressOf(next));
  return show(!replace);
}
const byId = (id) => go({ id, upload: null });

function byPicture(file) {
  if (!file) return;
  if (about && file.size > about.most.bytes) {
    trouble(`${file.name || "The picture"} has ${megabytes(file.size)}, more than the ${megabytes(about.most.bytes)} that are allowed.`);
    return;
  }
  const address = URL.createObjectURL(file); // the address differs after Reload, so that Back finds no wrong picture
  uploads.set(address, file);
  const [oldest] = uploads.keys();
  if (uploads.size > KEPT) {
    URL.revokeObjectURL(oldest);
    uploads.delete(oldest);
  }
  go({ id: null, upload: address });
}
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

// Showing.

/** Shows the query. `anew`: whether the user has just asked; `again`: whether this is another try. */
async function show(anew, again) {
  const query = asked();
  const number = ++latest;
  $("k").value = query.k;
  $("k-shown").value = query.k;
  for (const [name, select] of [["label_name", $("label-name")], ["split", $("split")]]) {
    if (![...select.options].some((option) => option.value === query[name])) select.add(new Option(query[name]));
    select.value = query[name];
  }
  trouble("");
  if (!about) return;
  const file = uploads.get(query.upload);
  const upload = file && { file, address: query.upload };
  if (query.id === null && !upload) return nothing(query.upload !== null);
  $("results").classList.add("busy");
  $("summary").textContent = "Searching …";
  const sending = $("sending");
  const progress = (share) => {
    if (number !== latest) return;
    sending.hidden = share >= 1;
    sending.value = share;
  };
  const start = performance.now();
  try {
    const answer = await (upload
      ? ask("POST", "api/search" + addressOf({ ...query, id: null }), upload.file, progress)
      : ask("GET", "api/search" + addressOf(query)));
    if (number !== latest) return;
    showAnswer(answer, query, upload, performance.now() - start);
    if (anew === true && matchMedia("(max-width: 56rem)").matches) $("query").scrollIntoView();
    // The gallery has changed, or its map has become available.
    if (answer.gallery !== about.gallery || (answer.query.place && !map)) {
      await meet();
      drawMarks(map, answer);
    }
  } catch (error) {
    if (number !== latest) return;
    $("results").replaceChildren();
    for (const part of ["query", "times", "map", "likeness"]) $(part).hidden = true;
    if (upload) showQuery(upload, null);
    $("summary").className = "";
    $("summary").textContent = "The search failed.";
    trouble(error.message);
    if (!again && (error.gone || error.status === 503)) waitForServer(error.message);
  } finally {
    if (number === latest) {
      $("results").classList.remove("busy");
      sending.hidden = true;
    }
  }
}

/** Shows that there is no query: at the start, or after Reload, when an uploaded picture is gone (`lost`). */
function nothing(lost) {
  for (const part of ["query", "times", "likeness"]) $(part).hidden = true;
  $("results").replaceChildren();
  $("results").classList.remove("busy");
  $("summary").className = "";
  $("summary").textContent = lost
    ? "The uploaded picture was not kept. Choose it again."
    : "Choose a picture to see similar ones here.";
  document.title = "SimiliAI";
  drawMarks(map, null);
}

/** Shows a message beside the query. Text between backquotes is shown as code. */
function trouble(text) {
  const parts = text.split("`").map((part, place) => (place % 2 ? make("code", { textContent: part }) : part));
  $("trouble").replaceChildren(...(text ? parts : []));
}

function showQuery(upload, answer) {
  const picture = answer?.query.picture;
  $("query").hidden = false;
  const original = $("original");
  original.src = upload ? upload.address : imageOf(picture.id);
  original.className = picture ? "small" : "";
  const name = upload ? upload.file.name || "your picture" : `${picture.label_name || picture.path}, picture ${picture.id}`;
  original.alt = upload ? "Your picture" : `Picture ${picture.id}${picture.label_name && ": " + picture.label_name}`;
  const size = answer ? `, ${answer.query.width} × ${answer.query.height}` : "";
  $("query-name").textContent = name + size + (picture?.split ? ` (${picture.split})` : "");
  $("seen").parentNode.hidden = !answer;
  if (answer) {
    $("seen").src = answer.query.seen;
    $("seen").alt = "The picture as the network sees it";
  }
  document.title = `${name} – SimiliAI`;
}

function showAnswer(answer, query, upload, total) {
  showQuery(upload, answer);
  const { results } = answer;
  const right = results.filter((result) => result.same_class).length;
  const known = results.length && results[0].same_class !== null;
  const summary = $("summary");
  summary.className = answer.close ? "" : "far";
  summary.textContent = !results.length
    ? "The gallery has no other picture of this class and subset."
    : (answer.close
        ? `${results.length} nearest pictures`
        : `No close match: the match probability of the nearest picture is ${percent(results[0].chance)}. ${results.length} nearest pictures`) +
      (known ? `, ${right} of them of the same class.` : ".");
  if (results.length && results.length < query.k) summary.textContent += " There are no more.";
  $("results").replaceChildren(...results.map(result));
  $("likeness").hidden = !results.length;
  $("learned").hidden = answer.query.picture?.split !== "train";
  showTimes(answer.milliseconds, total);
  drawMarks(map, answer);
}
const percent = (share) => `${Math.round(100 * share)} %`;

function result({ rank, id, label_name, split, path, distance, chance, same_class }) {
  const [kind, mark, said] = same_class === null ? ["", "", ""] : same_class ? ["right", "✓ ", "same class"] : ["wrong", "✗ ", "another class"];
  const line = (text) => make("span", { className: "soft", textContent: text });
  const bar = make("span", { className: "chance", ariaHidden: "true" }, make("i"));
  bar.firstChild.style.width = percent(chance).replace(" ", "");
  const button = make("button", { type: "button", title: `${path}: search for pictures like this` },
    make("img", { src: imageOf(id), alt: "", loading: "lazy", width: 64, height: 64 }),
    make("span", { className: "text" },
      make("span", { className: "rank", textContent: rank }),
      make("b", { textContent: mark + (label_name || path) }),
      ...(said ? [make("span", { className: "spoken", textContent: said })] : []),
      bar,
      line(`match ${percent(chance)}`),
      line(`distance ${distance.toFixed(3)}`),
      ...(split ? [line(split === "train" ? "training picture" : "test picture")] : [])));
  button.onclick = () => byId(id);
  return make("li", { className: kind }, button);
}

function showTimes(milliseconds, total) {
  const parts = Object.entries(milliseconds).filter(([name, time]) => time > 0 || name === "search");
  const here = parts.reduce((sum, [, time]) => sum + time, 0);
  $("times").hidden = false;
  $("times").querySelector(".bar").replaceChildren(...parts.map(([name, time]) => {
    const part = make("span", { className: name });
    part.style.flexGrow = time / here;
    return part;
  }));
  const entry = (name, time, color) =>
    make("div", {}, make("dt", {}, ...(color ? [make("i", { className: color })] : []), name), make("dd", { textContent: `${time.toFixed(1)} ms` }));
  $("times").querySelector("dl").replaceChildren(
    ...parts.map(([name, time]) => entry(name, time, name)), entry("total in the browser", total, ""));
}

// The gallery.

const gallery = { offset: 0, page: 60, latest: 0 };

async function browse() {
  const dialog = $("gallery");
  const [label_name, split] = [$("gallery-label-name").value, $("gallery-split").value];
  const parameters = new URLSearchParams({ offset: gallery.offset, limit: gallery.page });
  if (label_name) parameters.set("label_name", label_name);
  if (split) parameters.set("split", split);
  const said = dialog.querySelector(".trouble");
  said.textContent = "";
  const number = ++gallery.latest;
  try {
    const { total, pictures } = await ask("GET", "api/gallery?" + parameters);
    if (number !== gallery.latest) return;
    dialog.querySelector(".tiles").replaceChildren(...pictures.map(tile));
    dialog.querySelector(".place").textContent = total
      ? `${gallery.offset + 1} to ${gallery.offset + pictures.length} of ${total}`
      : "No pictures";
    dialog.querySelector(".back").disabled = gallery.offset === 0;
    dialog.querySelector(".on").disabled = gallery.offset + pictures.length >= total;
  } catch (error) {
    said.textContent = error.message;
  }
}

// Relative, because a proxy may put the page below a path that the page does not know.
function imageOf(id) {
  return `api/images/${id}.png`;
}

function tile({ id, label_name, path }) {
  const button = make("button", { type: "button", title: `${label_name || path}, picture ${id}` },
    make("img", { src: imageOf(id), alt: `${label_name || path}, picture ${id}`, width: 64, height: 64, loading: "lazy" }));
  button.onclick = () => {
    $("gallery").close();
    byId(id);
  };
  return make("li", {}, button);
}

// The camera.

let stream = null;

async function photograph() {
  // Phones open their camera app.
  if (!navigator.mediaDevices?.getUserMedia || matchMedia("(pointer: coarse)").matches) return $("camera-file").click();
  trouble("");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return trouble(`The camera cannot be used: ${error.message}.`);
  }
  $("camera").querySelector("video").srcObject = stream;
  $("camera").showModal();
}

function take() {
  const video = $("camera").querySelector("video");
  if (!video.videoWidth) return;
  const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  $("camera").close();
  canvas.toBlob((blob) => byPicture(new File([blob], "photograph.png", { type: "image/png" })), "image/png");
}

// The server: what it has, and whether it is there.

/** Loads what the server has, and updates the page. */
async function meet() {
  about = await ask("GET", "api/about");
  map = about.map ? await ask("GET", "api/map").catch(() => null) : null;
  $("about").textContent = `Find similar pictures among ${about.pictures.toLocaleString("en")} pictures${about.classes.length ? ` of ${about.classes.length} classes` : ""}`;
  $("report").hidden = !about.report;
  $("most").textContent = `, up to ${megabytes(about.most.bytes)}`;
  $("samples").replaceChildren(...about.samples.map(tile));
  for (const [names, ...selects] of [[about.classes, $("label-name"), $("gallery-label-name")], [about.splits, $("split"), $("gallery-split")]])
    for (const select of selects) {
      const chosen = select.value;
      select.replaceChildren(new Option("all", ""), ...names.map((name) => new Option(name)));
      if (names.includes(chosen)) select.value = chosen;
    }
  if (map) drawMap(map, byId);
  $("map").hidden = !map;
}

let waiting = false;

async function waitForServer(why) {
  if (waiting) return;
  waiting = true;
  const back = about !== null;
  let said = why;
  while (waiting) {
    trouble(said + (said.endsWith(".") || said.endsWith("?") ? "" : ".") + " The page tries again by itself.");
    await new Promise((done) => setTimeout(done, PATIENCE));
    try {
      await meet();
      waiting = false;
    } catch (error) {
      said = error.message;
    }
  }
  await show(false, true);
  if (back && !$("trouble").textContent) $("summary").textContent += " The server is back.";
}

// Actions of the user.

let sliding = 0;
$("k").oninput = () => {
  $("k-shown").value = $("k").value;
  clearTimeout(sliding);
  sliding = setTimeout(() => go({ k: Number($("k").value) }, true), 120);
};
$("wishes").onsubmit = (event) => event.preventDefault();
$("label-name").onchange = () => go({ label_name: $("label-name").value });
$("split").onchange = () => go({ split: $("split").value });
for (const input of [$("file"), $("camera-file")])
  input.onchange = () => {
    byPicture(input.files[0]);
    input.value = "";
  };
$("photograph").onclick = photograph;
$("camera").querySelector(".take").onclick = take;
$("camera").onclose = () => stream?.getTracks().forEach((track) => track.stop());
$("random").onclick = () => about && byId(Math.floor(Math.random() * about.pictures));
$("browse").onclick = () => {
  $("gallery").showModal();
  browse();
};
for (const select of [$("gallery-label-name"), $("gallery-split")])
  select.onchange = () => {
    gallery.offset = 0;
    browse();
  };
const turn = (pages) => () => {
  gallery.offset = Math.max(gallery.offset + pages * gallery.page, 0);
  browse();
};
$("gallery").querySelector(".back").onclick = turn(-1);
$("gallery").querySelector(".on").onclick = turn(1);
for (const dialog of [$("gallery"), $("camera")]) dialog.querySelector(".close").onclick = () => dialog.close();

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
for (const name of ["dragleave", "drop"]) addEventListener(name, () => document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file) byPicture(file);
  else trouble("That is not a picture file. Save the picture first, then drop the file.");
});
addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) byPicture(file);
  else if (!event.target.closest("input, select")) trouble("There is no picture in the clipboard.");
});
addEventListener("popstate", () => show(false));

try {
  await meet();
  show();
} catch (error) {
  $("summary").textContent = "";
  waitForServer(error.message);
}

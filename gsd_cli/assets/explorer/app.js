// The page: what is shown, and what changes it.

import { editCommand, showCommand } from "./command.js";
import { Engine } from "./engine.js";
import { decodeLatent, download, draw, encodeLatent, toPng } from "./files.js";
import { moveLatent, scale, sumMoves } from "./latents.js";
import { LARGEST_SEED, latentOfSeed } from "./random.js";
import { Sliders } from "./sliders.js";
import { Walk } from "./walk.js";
import { Wall } from "./wall.js";

const FORMAT = "gsd-explorer/1";
const MOST_THREADS = 4;
const SETTLE = 200; // milliseconds after which neighbours follow the image
const TRUNCATION = { name: "truncation", label: "Truncation", group: "latent", low: 0, high: 1, step: 0.05, rest: 1 };
const byId = (id) => document.getElementById(id);

let model;
let engine;
let base; // {title, source, seed?, z, note?}: what the sliders move
let starts = [];
let sliders;
let walk;
let wall;
let label = null;

// -- messages -----------------------------------------------------------------------------------

function alert(text) {
  byId("alert").textContent = text;
  byId("alert").hidden = false;
  byId("loading").hidden = true;
}

let toastTimer;
function toast(text) {
  byId("toast").textContent = text;
  byId("toast").classList.add("visible");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => byId("toast").classList.remove("visible"), 2400);
}

function describe({ message, memory }) {
  if (memory) return "This device has too little memory for the generator. Close other tabs and load the page again.";
  return `The generator does not run in this browser: ${message}`;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("The browser does not allow copying here: select the text instead");
  }
}

// -- what is shown ------------------------------------------------------------------------------

const moves = () => model.directions.map((direction) => ({ direction, strength: sliders.get(direction.name) }));

/** A latent with truncation and sliders applied: {z, shift}. */
function shown(z) {
  const kept = sliders.get("truncation");
  const cut = kept === 1 ? z : scale(z, kept);
  return { z: kept === 0 ? cut : moveLatent(cut, sumMoves(moves(), "latent")), shift: sumMoves(moves(), "bottleneck") };
}

/** Say in the document whether everything is drawn, for tests and for style sheets. */
const showBusy = () => (document.documentElement.dataset.busy = engine.idle && settleTimer === null ? "no" : "yes");

let settleTimer = null;
function update(settled) {
  const active = moves().filter(({ strength }) => strength !== 0);
  engine.render("image", [shown(base.z)], label, (_, pixels) => draw(byId("image"), pixels, model.image_shape));
  const changes = active.length + (sliders.get("truncation") !== 1);
  byId("name").textContent = base.title + (changes ? ` · ${changes} ${changes === 1 ? "change" : "changes"}` : "");
  byId("reset").hidden = !changes;
  const { text, note } = editCommand(model, base, active, sliders.get("truncation"), label);
  showCommand("command", text, note);
  for (const [k, button] of [...byId("starts").children].entries()) {
    button.setAttribute("aria-pressed", String(starts[k].title === base.title));
  }
  clearTimeout(settleTimer);
  settleTimer = setTimeout(() => {
    settleTimer = null;
    wall.update();
  }, settled ? 0 : SETTLE);
  showBusy();
  if (settled) remember("replaceState");
}

/** Keep the state in the address, so that a link repeats it; latents without a seed are kept by the tab alone. */
function remember(how) {
  const words = new URLSearchParams();
  if (base.seed !== undefined) words.set("seed", base.seed);
  else if (starts.includes(base)) words.set("start", base.title);
  for (const name of sliders.rows.keys()) {
    if (sliders.get(name) !== sliders.rows.get(name).rest) words.set(name, sliders.get(name));
  }
  if (label !== null) words.set("class", label);
  const kept = base.seed === undefined && !starts.includes(base) ? { title: base.title, z: base.z } : null;
  history[how](kept, "", `#${words}`);
}

function ofSeed(seed) {
  const size = model.latent_shape.reduce((a, b) => a * b);
  return { title: `seed ${seed}`, source: `seed:${seed}`, seed, z: latentOfSeed(seed, size) };
}

/** Read the address or the history. */
function recall(kept) {
  const words = new URLSearchParams(location.hash.slice(1));
  const seed = Number(words.get("seed"));
  const start = starts.find((one) => one.title === words.get("start"));
  if (kept?.z) base = { title: kept.title, source: null, z: kept.z };
  else if (words.has("seed") && Number.isSafeInteger(seed) && seed >= 0) base = ofSeed(seed);
  else base = start ?? starts.at(-1);
  sliders.reset(true);
  for (const [name, value] of words) if (Number.isFinite(Number(value))) sliders.set(name, Number(value), true);
  const given = Number(words.get("class"));
  if (words.has("class") && label !== null && given >= 0 && given < model.class_count) label = given;
  byId("class").value = label ?? "";
  showSeed();
}

function showSeed() {
  byId("seed").value = base.seed ?? "";
  byId("seed").placeholder = base.seed === undefined ? "none" : "";
}

/** Show another latent; the sliders stay. */
function go(next) {
  base = next;
  showSeed();
  remember("pushState");
  update(true);
}

/** What is shown, as a latent of its own: changes of the bottleneck are no part of it. */
function current() {
  const active = moves().filter(({ direction, strength }) => strength !== 0 && direction.space === "latent");
  if (!active.length && sliders.get("truncation") === 1) return base;
  return { title: `${base.title}, moved`, source: null, z: shown(base.z).z };
}

// -- controls -----------------------------------------------------------------------------------

function seedTyped() {
  const text = byId("seed").value.trim();
  const seed = Number(text);
  const valid = /^\d+$/.test(text) && seed <= LARGEST_SEED;
  byId("seed").setAttribute("aria-invalid", String(!valid));
  if (!valid) toast(`A seed is a whole number from 0 to ${LARGEST_SEED}`);
  else if (seed !== base.seed) go(ofSeed(seed));
}

const step = (by) => go(ofSeed(Math.min(Math.max((base.seed ?? -1) + by, 0), LARGEST_SEED)));

async function openLatent(file) {
  try {
    const buffer = await file.arrayBuffer();
    go({ title: file.name, source: file.name, z: decodeLatent(buffer, model.latent_shape, model.fingerprint) });
  } catch (error) {
    toast(error.message);
  }
}

function saveLatent() {
  const { z, shift } = shown(base.z);
  const figures = { image: base.title, from: "gsd explorer" };
  download(encodeLatent(Float32Array.from(z), model.latent_shape, model.fingerprint, figures), "latent.safetensors");
  if (shift) toast("Saved without the components: those move the network, not the latent");
}

function wire() {
  byId("seed").addEventListener("change", seedTyped);
  byId("seed").addEventListener("keydown", (event) => {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (by) {
      event.preventDefault();
      step(by);
    }
  });
  byId("seed-less").addEventListener("click", () => step(-1));
  byId("seed-more").addEventListener("click", () => step(1));
  byId("seed-random").addEventListener("click", () => go(ofSeed(Math.floor(Math.random() * 1_000_000))));
  byId("reset").addEventListener("click", () => sliders.reset());
  byId("copy").addEventListener("click", () => copy(byId("command").textContent));
  byId("save-png").addEventListener("click", async () => download(await toPng(byId("image")), "image.png"));
  byId("save-latent").addEventListener("click", saveLatent);
  byId("open-latent").addEventListener("click", () => byId("latent-file").click());
  byId("latent-file").addEventListener("change", ({ target }) => {
    if (target.files[0]) openLatent(target.files[0]);
    target.value = "";
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) openLatent(event.dataTransfer.files[0]);
  });
  addEventListener("popstate", ({ state }) => {
    recall(state);
    update(false);
  });
  byId("class").addEventListener("change", () => {
    label = Number(byId("class").value);
    showStarts();
    walk.update();
    update(true);
  });
}

byId("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const root = document.documentElement;
  root.dataset.theme = (root.dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("gsd-theme", root.dataset.theme);
  } catch {
    // storage may be switched off: the choice then ends with the tab
  }
});

function fillClasses() {
  if (model.label === null) return;
  label = model.label;
  const names = model.classes.length ? model.classes : Array.from({ length: model.class_count }, (_, k) => String(k));
  byId("class").replaceChildren(...names.map((name, k) => new Option(name, k)));
  byId("class-row").hidden = false;
}

function addStarts() {
  for (const start of starts) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "thumb";
    button.setAttribute("aria-label", `Start from ${start.title}`);
    button.title = start.title;
    button.append(document.createElement("canvas"));
    button.addEventListener("click", () => go(start));
    byId("starts").append(button);
  }
}

const showStarts = () =>
  engine.render("starts", starts.map(({ z }) => ({ z, shift: null })), label, (k, pixels) =>
    draw(byId("starts").children[k].firstChild, pixels, model.image_shape),
  );

// -- start --------------------------------------------------------------------------------------

async function load(name) {
  const response = await fetch(name).catch(() => null);
  if (!response?.ok) throw new Error(`${name.split("?")[0]} is missing. Copy the whole folder again.`);
  return response;
}

/** Read model.json and the numbers of directions.bin that it points to. */
async function loadModel() {
  model = await (await load("model.json")).json();
  if (model.format !== FORMAT) throw new Error("This page and its model.json are of different versions of gsd. Write the folder again.");
  const { file, bytes, sha256 } = model.numbers;
  const buffer = await (await load(`${file}?v=${sha256.slice(0, 12)}`)).arrayBuffer();
  if (buffer.byteLength !== bytes) throw new Error("directions.bin is damaged. Copy the whole folder again.");
  const at = ([offset, count]) => new Float32Array(buffer, offset, count);
  for (const direction of model.directions) direction.vector = at(direction.at);
  starts = model.starts.map((start) => (start.at ? { ...start, z: at(start.at) } : ofSeed(start.seed)));
  return { z: starts.find(({ seed }) => seed === model.check.seed)?.z ?? ofSeed(model.check.seed).z, image: at(model.check.at), label: model.label };
}

async function main() {
  const check = await loadModel();
  document.title = `${model.name} · gsd explorer`;
  byId("title").textContent = model.name;
  byId("about").textContent = model.about;
  engine = new Engine();
  engine.onIdle = showBusy;
  engine.onFailure = (problem) => alert(describe(problem));
  const backend = new URLSearchParams(location.search).get("backend");
  const { directions, walks, starts: _, ...facts } = model;
  const ready = await engine
    .start(
      {
        model: facts,
        check: { ...check, z: Float32Array.from(check.z), image: Float32Array.from(check.image) },
        backend: ["wasm", "webgpu"].includes(backend) ? backend : "auto",
        threads: Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS),
        base: new URL("./", location.href.split("#")[0]).href,
      },
      (done, total) => {
        byId("loading-text").textContent = `Loading the generator, ${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`;
        byId("loading-bar").value = done / total;
        if (done === total) byId("loading-text").textContent = "Starting the runtime";
      },
    )
    .catch((problem) => {
      throw new Error(describe(problem));
    });
  showPage(ready);
  keep(ready);
}

function showPage(ready) {
  fillClasses();
  document.documentElement.style.setProperty("--ratio", model.image_shape[2] / model.image_shape[1]);
  sliders = new Sliders(byId("sliders"), [TRUNCATION, ...model.directions], update);
  addStarts();
  recall(history.state);
  const page = { model, engine, bases: () => starts, base: () => base, current, shown, label: () => label, go, toast, copy };
  wall = new Wall(page);
  walk = new Walk(page);
  wire();
  byId("loading").hidden = true;
  byId("page").hidden = false;
  const name = ready.backend === "webgpu" ? "WebGPU" : `WebAssembly, ${ready.threads} thread${ready.threads > 1 ? "s" : ""}`;
  engine.onRate = (rate) => (byId("engine").textContent = `${name} · ${rate.toFixed(0)} images per second`);
  update(false);
  showStarts();
  walk.update();
  walk.show(0);
  document.documentElement.dataset.ready = ready.backend;
}

/** Keep what the page used, so that it opens without a network; this takes an origin that allows service workers. */
async function keep(ready) {
  if (!navigator.serviceWorker || !isSecureContext) return;
  try {
    await navigator.serviceWorker.register("sw.js");
    const { active } = await navigator.serviceWorker.ready;
    const channel = new MessageChannel();
    channel.port1.onmessage = ({ data }) => (byId("kept").hidden = !data.kept);
    active.postMessage({ kind: "keep", files: model.files.filter((file) => file.backend === undefined || file.backend === ready.backend).map((file) => file.url) }, [channel.port2]);
  } catch {
    // a browser may forbid it, as in private windows: the page works all the same
  }
}

main().catch((error) => {
  console.warn(error);
  alert(error.message);
});

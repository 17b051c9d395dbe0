// A walk between two latents in equal perceptual steps, with a player.

import { showCommand, walkCommand } from "./command.js";
import { download, draw, toImageData } from "./files.js";
import { encodeGif } from "./gif.js";
import { slerp, spaceEvenly } from "./latents.js";

const FRAMES_PER_SECOND = 8;
const DENSE = 33; // images at which the page measures a walk that has no table
const GIF_SIZE = 256; // pixels that a GIF has at least
const byId = (id) => document.getElementById(id);

export class Walk {
  /** page: {model, engine, bases(), current(), label(), go(base), toast(text), copy(text)} */
  constructor(page) {
    this.page = page;
    this.count = page.model.walk_frames;
    this.ends = [page.bases().at(-1), page.bases()[0]];
    this.images = [];
    const { count } = this;
    this.place = byId("walk-place");
    this.place.max = count - 1;
    this.canvases = Array.from({ length: count }, () => document.createElement("canvas"));
    byId("strip").append(...this.canvases);
    this.canvases.forEach((canvas, k) => canvas.addEventListener("click", () => this.show(k)));
    this.place.addEventListener("input", () => {
      this.stop();
      this.show(Number(this.place.value));
    });
    byId("play").addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    byId("walk-start").addEventListener("click", () => this.leave());
    byId("save-gif").addEventListener("click", () => this.saveGif());
    byId("walk-copy").addEventListener("click", () => page.copy(byId("walk-command").textContent));
    for (const [k, id] of ["walk-from", "walk-to"].entries()) {
      byId(id).addEventListener("change", () => this.choose(k, byId(id).value));
    }
    this.fill();
  }

  /** The choices of both ends: the starts, what was chosen, and the image shown. */
  fill() {
    for (const [k, id] of ["walk-from", "walk-to"].entries()) {
      const bases = this.page.bases();
      const own = bases.includes(this.ends[k]) ? [] : [this.ends[k]];
      const options = [...bases, ...own].map((base) => new Option(base.title, base.title, false, base === this.ends[k]));
      byId(id).replaceChildren(...options, new Option("The image shown above", "shown"));
    }
  }

  choose(k, title) {
    const known = [...this.page.bases(), this.ends[k]].find((base) => base.title === title);
    this.ends[k] = title === "shown" ? this.page.current() : known;
    this.fill();
    this.update();
  }

  latent(s) {
    return slerp(this.ends[0].z, this.ends[1].z, s);
  }

  table() {
    const titles = this.ends.map((end) => end.title);
    for (const { ends, fractions } of this.page.model.walks) {
      if (ends[0] === titles[0] && ends[1] === titles[1]) return fractions;
      if (ends[0] === titles[1] && ends[1] === titles[0]) return fractions.map((s) => 1 - s).reverse();
    }
    return null;
  }

  async update() {
    this.stop();
    const { engine, model } = this.page;
    const label = this.page.label();
    const same = label === model.label; // tables were measured with this class
    const table = same ? this.table() : null;
    const { text, note } = walkCommand(model, this.ends, this.count, label);
    showCommand("walk-command", text, note);
    byId("walk-note").textContent = table
      ? "Equal perceptual steps: gsd measured this pair with the model's own features."
      : "Equal steps of the pixels, measured in this page. gsd interpolate measures with the model's features.";
    this.fractions = table ?? (await this.measure(label));
    if (!this.fractions) return;
    this.images = [];
    const items = this.fractions.map((s) => ({ z: this.latent(s), shift: null }));
    await engine.render("walk", items, label, (k, pixels) => {
      this.images[k] = pixels.slice();
      draw(this.canvases[k], pixels, model.image_shape);
      if (k === Number(this.place.value)) this.show(k);
    });
  }

  async measure(label) {
    const s = Array.from({ length: DENSE }, (_, k) => k / (DENSE - 1));
    const seen = [];
    const items = s.map((share) => ({ z: this.latent(share), shift: null }));
    const whole = await this.page.engine.render("walk", items, label, (k, pixels) => (seen[k] = pixels.slice()));
    if (!whole) return null;
    const steps = seen.slice(1).map((image, k) => Math.sqrt(image.reduce((sum, x, i) => sum + (x - seen[k][i]) ** 2, 0)));
    return spaceEvenly(s, steps, this.count);
  }

  show(k) {
    this.place.value = k;
    this.place.style.setProperty("--to", `${(100 * k) / (this.count - 1)}%`);
    byId("walk-number").textContent = `${k + 1}/${this.count}`;
    this.canvases.forEach((canvas, i) => canvas.classList.toggle("shown", i === k));
    if (this.images[k]) draw(byId("walk-image"), this.images[k], this.page.model.image_shape);
  }

  play() {
    let step = 1;
    this.timer = setInterval(() => {
      const k = Number(this.place.value);
      if (k + step < 0 || k + step >= this.count) step = -step;
      this.show(k + step);
    }, 1000 / FRAMES_PER_SECOND);
    byId("play").textContent = "Pause";
    byId("play").setAttribute("aria-pressed", "true");
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    byId("play").textContent = "Play";
    byId("play").setAttribute("aria-pressed", "false");
  }

  leave() {
    this.stop();
    const k = Number(this.place.value);
    if (k === 0 || k === this.count - 1) this.page.go(this.ends[k && 1]);
    else this.page.go({ title: "a place on the walk", source: null, z: this.latent(this.fractions[k]) });
  }

  saveGif() {
    const frames = this.images.filter(Boolean).map((pixels) => toImageData(pixels, this.page.model.image_shape));
    if (frames.length < this.count) return this.page.toast("The walk is not ready yet");
    const both = [...frames, ...frames.slice(1, -1).reverse()];
    const enlarge = Math.max(1, Math.ceil(GIF_SIZE / frames[0].width));
    return download(encodeGif(both, Math.round(100 / FRAMES_PER_SECOND), enlarge), "walk.gif", "image/gif");
  }
}

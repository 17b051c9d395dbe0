// A wall of neighbours: the latent turned by an angle towards random directions, with the sliders as they are.

import { draw } from "./files.js";
import { neighbour } from "./latents.js";

const COUNT = 24;
const byId = (id) => document.getElementById(id);

export class Wall {
  /** page: as of Walk, and shown(z): {z, shift} with the sliders applied. */
  constructor(page) {
    this.page = page;
    this.round = 0;
    this.cells = Array.from({ length: COUNT }, (_, k) => this.addCell(k));
    byId("wall").append(...this.cells);
    byId("wall").addEventListener("keydown", (event) => this.move(event));
    byId("distance").addEventListener("input", () => this.paint());
    byId("distance").addEventListener("change", () => this.update());
    byId("others").addEventListener("click", () => {
      this.round++;
      this.update();
    });
    this.paint();
  }

  addCell(k) {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.tabIndex = k ? -1 : 0;
    cell.setAttribute("aria-label", `Neighbour ${k + 1}`);
    cell.append(document.createElement("canvas"));
    cell.addEventListener("click", () => this.latents && this.page.go({ title: "a neighbour", source: null, z: this.latents[k] }));
    cell.addEventListener("focus", () => this.cells.forEach((other) => (other.tabIndex = other === cell ? 0 : -1)));
    return cell;
  }

  paint() {
    const input = byId("distance");
    byId("distance-value").textContent = `${input.value}°`;
    input.style.setProperty("--to", `${(100 * (input.value - input.min)) / (input.max - input.min)}%`);
    input.setAttribute("aria-valuetext", `${input.value} degrees`);
  }

  update() {
    const base = this.page.base();
    const angle = (Number(byId("distance").value) * Math.PI) / 180;
    this.latents = this.cells.map((_, k) => neighbour(base.z, this.round * COUNT + k, angle));
    const { engine, model } = this.page;
    const items = this.latents.map((z) => this.page.shown(z));
    return engine.render("wall", items, this.page.label(), (k, pixels) => {
      draw(this.cells[k].firstChild, pixels, model.image_shape);
    });
  }

  move(event) {
    const columns = getComputedStyle(byId("wall")).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const k = this.cells.indexOf(document.activeElement);
    const next = event.key === "Home" ? 0 : event.key === "End" ? COUNT - 1 : k + (steps[event.key] ?? NaN);
    if (k < 0 || !(next >= 0 && next < COUNT)) return;
    event.preventDefault();
    this.cells[next].focus();
  }
}

// A row per direction: name, slider, value, under headings.

const TITLES = {
  attributes: ["Attributes", "Measured in pixels. 1 is one standard deviation over the generator's samples."],
  classes: ["Classes", "Towards a class, as the classifier of the domain sees it."],
  learnt: ["Learnt", "Learnt from example images."],
  latent: ["Latent", "Truncation shortens the latent: likelier images, less variety."],
  components: ["Components", "Principal components of the bottleneck, the largest first."],
};

const STEP = 0.1;

export class Sliders {
  /** onChange(settled): settled is false while a slider is being dragged. */
  constructor(root, directions, onChange) {
    this.rows = new Map();
    this.onChange = onChange;
    for (const group of Object.keys(TITLES)) {
      const members = directions.filter((direction) => direction.group === group);
      if (!members.length) continue;
      const [title, text] = TITLES[group];
      const box = document.createElement("fieldset");
      box.innerHTML = `<legend></legend><p class="hint"></p>`;
      box.querySelector("legend").textContent = title;
      box.querySelector("p").textContent = text;
      box.querySelector("p").hidden = !text;
      for (const direction of members) box.append(this.addRow(direction));
      root.append(box);
    }
  }

  addRow(direction) {
    const { name, low, high } = direction;
    const row = document.createElement("div");
    row.className = "row";
    const id = `direction-${name.replaceAll(/\W/g, "_")}`;
    row.innerHTML = `<label></label><input type="range"><output></output>`;
    const [label, input, output] = row.children;
    Object.assign(label, { htmlFor: id, textContent: direction.label ?? name });
    if (direction.title) label.title = direction.title;
    const rest = direction.rest ?? 0;
    Object.assign(input, { id, min: low, max: high, step: direction.step ?? STEP, value: rest });
    output.htmlFor = id;
    input.addEventListener("input", () => {
      this.paint(name);
      this.onChange(false);
    });
    input.addEventListener("change", () => this.onChange(true));
    input.addEventListener("dblclick", () => this.set(name, rest));
    output.addEventListener("click", () => this.set(name, rest));
    output.title = "Click to reset";
    this.rows.set(name, { direction, input, output, rest });
    this.paint(name);
    return row;
  }

  paint(name) {
    const { input, output, rest, direction } = this.rows.get(name);
    const value = Number(input.value);
    const share = (x) => (x - direction.low) / (direction.high - direction.low);
    const place = (x) => `calc(${share(x)} * (100% - 16px) + 8px)`;
    input.style.setProperty("--from", place(Math.min(value, rest)));
    input.style.setProperty("--to", place(Math.max(value, rest)));
    input.style.setProperty("--rest", share(rest));
    const digits = rest === 0 ? 1 : 2;
    const sign = rest === 0 && value > 0 ? "+" : value < 0 ? "−" : "";
    output.textContent = sign + Math.abs(value).toFixed(digits);
    output.classList.toggle("moved", value !== rest);
    input.setAttribute("aria-valuetext", output.textContent);
  }

  get(name) {
    const value = Number(this.rows.get(name).input.value);
    return Math.abs(value) < STEP / 10 ? 0 : value;
  }

  set(name, value, quiet = false) {
    const row = this.rows.get(name);
    if (!row) return;
    row.input.value = value;
    this.paint(name);
    if (!quiet) this.onChange(true);
  }

  reset(quiet = false) {
    for (const [name, { rest }] of this.rows) this.set(name, rest, true);
    if (!quiet) this.onChange(true);
  }
}

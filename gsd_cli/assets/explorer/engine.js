// The queue before the worker. Each lane holds one request; a newer one replaces it. The image comes first.

const LANES = ["image", "walk", "wall", "starts"];
const BATCH = 4; // of the lanes that are not the image: small, so that the image never waits long

export class Engine {
  constructor() {
    this.lanes = new Map();
    this.running = null;
    this.count = 0;
    this.rate = null; // images per second, a running mean
    this.onFailure = () => {};
    this.onRate = () => {};
    this.onIdle = () => {};
  }

  get idle() {
    return !this.running && !this.lanes.size;
  }

  /** Load the runtime and the model. Resolves to {backend, threads, quality}; rejects with {message, memory}. */
  start(options, onProgress) {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "generator" });
    this.sizes = {
      z: options.model.latent_shape.reduce((a, b) => a * b, 1),
      shift: options.model.bottleneck_shape.reduce((a, b) => a * b, 1),
      image: options.model.image_shape.reduce((a, b) => a * b, 1),
    };
    return new Promise((resolve, reject) => {
      this.worker.onerror = (event) => reject({ message: event.message || "the worker could not be loaded" });
      this.worker.onmessage = ({ data }) => {
        if (data.kind === "progress") onProgress(data.done, data.total);
        else if (data.kind === "ready") resolve(data);
        else if (data.kind === "images") this.receive(data);
        else if (this.running) this.fail(data);
        else reject(data);
      };
      this.worker.postMessage({ kind: "start", ...options });
    });
  }

  /** Replace a lane's request. items: [{z, shift}]; onImage(index, pixels); resolves true when all are drawn. */
  render(lane, items, label, onImage = () => {}) {
    this.lanes.get(lane)?.resolve(false);
    return new Promise((resolve) => {
      this.lanes.set(lane, { items, label, onImage, next: 0, resolve });
      if (!items.length) {
        this.lanes.delete(lane);
        resolve(true);
      }
      this.pump();
    });
  }

  pump() {
    if (this.running || !this.worker) return;
    const lane = LANES.find((name) => this.lanes.has(name));
    if (!lane) {
      this.onIdle();
      return;
    }
    const request = this.lanes.get(lane);
    const items = request.items.slice(request.next, request.next + (this.single ? 1 : BATCH));
    const z = new Float32Array(items.length * this.sizes.z);
    items.forEach((item, k) => z.set(item.z, k * this.sizes.z));
    let shift = null;
    if (items.some((item) => item.shift)) {
      shift = new Float32Array(items.length * this.sizes.shift);
      items.forEach((item, k) => item.shift && shift.set(item.shift, k * this.sizes.shift));
    }
    this.running = { lane, request, count: items.length, id: ++this.count };
    this.worker.postMessage({ kind: "run", id: this.count, z, shift, label: request.label, count: items.length });
  }

  receive({ images, seconds }) {
    const { lane, request, count } = this.running;
    this.running = null;
    const rate = count / seconds;
    this.rate = this.rate === null ? rate : 0.8 * this.rate + 0.2 * rate;
    this.onRate(this.rate);
    for (let k = 0; k < count; k++) {
      request.onImage(request.next + k, images.subarray(k * this.sizes.image, (k + 1) * this.sizes.image));
    }
    request.next += count;
    if (this.lanes.get(lane) === request && request.next >= request.items.length) {
      this.lanes.delete(lane);
      request.resolve(true);
    }
    this.pump();
  }

  fail(problem) {
    const { count } = this.running;
    this.running = null;
    if (problem.memory && count > 1) {
      this.single = true; // one image at a time takes less memory
      this.pump();
      return;
    }
    for (const request of this.lanes.values()) request.resolve(false);
    this.lanes.clear();
    this.onFailure(problem);
    this.onIdle();
  }
}

// The generator, in a thread of its own, so that the page stays responsive. Messages in: start, run. Out: progress,
// ready, images, failed.

const CLOSE = 50; // dB: what the page promises between its images and those of gsd

let session;
let ort;
let facts;

onmessage = async ({ data }) => {
  try {
    if (data.kind === "start") await start(data);
    else await run(data);
  } catch (error) {
    postMessage({ kind: "failed", id: data.id, ...explain(error) });
  }
};

function explain(error) {
  const text = String(error?.message ?? error);
  const memory = /memory|bad_alloc|allocat/i.test(text) || error instanceof RangeError;
  return { message: text, memory };
}

async function start({ model, check, backend, threads, base }) {
  facts = model;
  const weights = await fetchWeights(new URL(`${model.onnx.file}?v=${model.onnx.sha256.slice(0, 12)}`, base), model.onnx);
  const wanted = backend === "auto" ? ((await hasGpu()) ? ["webgpu", "wasm"] : ["wasm"]) : [backend];
  const problems = [];
  for (const name of wanted) {
    try {
      const used = await open(name, weights, threads, base);
      const quality = await compare(check);
      if (quality < CLOSE) throw new Error(`its images differ from gsd's (PSNR ${quality.toFixed(0)} dB)`);
      postMessage({ kind: "ready", backend: name, threads: used, quality, problems });
      return;
    } catch (error) {
      await session?.release?.();
      session = undefined;
      problems.push(`${name}: ${explain(error).message}`);
      if (name === wanted.at(-1)) throw error;
    }
  }
}

async function hasGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !(adapter.isFallbackAdapter ?? adapter.info?.isFallbackAdapter);
}

async function fetchWeights(url, { bytes, sha256 }) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`generator.onnx is missing (${response.status}). Copy the whole folder again.`);
  const weights = new Uint8Array(bytes);
  let filled = 0;
  const reader = response.body.getReader();
  const damaged = "generator.onnx is not the file that model.json describes. Copy the whole folder again.";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (filled + value.length > bytes) throw new Error(damaged);
    weights.set(value, filled);
    filled += value.length;
    postMessage({ kind: "progress", done: filled, total: bytes });
  }
  if (filled !== bytes) throw new Error(damaged);
  if (crypto.subtle) {
    // only where the origin is secure
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", weights));
    if (Array.from(digest, (b) => b.toString(16).padStart(2, "0")).join("") !== sha256) throw new Error(damaged);
  }
  return weights;
}

async function open(backend, weights, threads, base) {
  const [script, binary] = facts.files.filter((file) => file.backend === backend).map(({ url }) => new URL(url, base).href);
  ort = await import(script);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = { wasm: binary };
  ort.env.wasm.numThreads = self.crossOriginIsolated ? threads : 1;
  session = await ort.InferenceSession.create(weights, {
    executionProviders: [backend],
    graphOptimizationLevel: "all",
    logSeverityLevel: 3, // it warns of nodes that it leaves to the CPU
  });
  return ort.env.wasm.numThreads;
}

/** Images [count, C, H, W] of latents z; shift: changes of the bottleneck, or null. */
async function generate(z, shift, label, count) {
  const feeds = { z: new ort.Tensor("float32", z, [count, ...facts.latent_shape]) };
  if (session.inputNames.includes("shift")) {
    const size = facts.bottleneck_shape.reduce((a, b) => a * b, 1);
    const values = shift ?? new Float32Array(count * size);
    feeds.shift = new ort.Tensor("float32", values, [count, ...facts.bottleneck_shape]);
  }
  if (session.inputNames.includes("class")) {
    feeds.class = new ort.Tensor("int64", new BigInt64Array(count).fill(BigInt(label ?? 0)), [count]);
  }
  const { images } = await session.run(feeds);
  const found = Float32Array.from(images.data);
  images.dispose?.();
  return found;
}

/** PSNR in dB of the image of a known latent. */
async function compare({ z, image, label }) {
  const made = await generate(z, null, label, 1);
  const error = made.reduce((sum, value, k) => sum + (value - image[k]) ** 2, 0) / made.length;
  return 10 * Math.log10(4 / Math.max(error, 4e-10));
}

async function run({ id, z, shift, label, count }) {
  const begun = performance.now();
  const images = await generate(z, shift, label, count);
  const seconds = (performance.now() - begun) / 1000;
  postMessage({ kind: "images", id, images, seconds }, [images.buffer]);
}

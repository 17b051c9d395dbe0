// Files: latents as safetensors in gsd's own format, images as PNG, and the browser's download.

export const LATENTS_FORMAT = "gsd-latents/1";

/** A latent as the bytes of a safetensors file that `gsd edit FILE` opens. */
export function encodeLatent(z, shape, fingerprint, figures) {
  const header = {
    __metadata__: { format: LATENTS_FORMAT, model: fingerprint, figures: JSON.stringify([figures]) },
    "0.z": { dtype: "F32", shape, data_offsets: [0, z.byteLength] },
  };
  let text = JSON.stringify(header);
  while (new TextEncoder().encode(text).length % 8) text += " ";
  const head = new TextEncoder().encode(text);
  const bytes = new Uint8Array(8 + head.length + z.byteLength);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(head.length), true);
  bytes.set(head, 8);
  bytes.set(new Uint8Array(z.buffer, z.byteOffset, z.byteLength), 8 + head.length);
  return bytes;
}

/** The first latent of such a file. Throws an Error in words for the user. */
export function decodeLatent(buffer, shape, fingerprint) {
  let header;
  let start;
  try {
    start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(buffer, 8, start - 8)));
  } catch {
    throw new Error("This is not a latent. gsd edit IMAGE --save-latent X.safetensors writes one.");
  }
  const about = header.__metadata__ ?? {};
  const entry = header["0.z"];
  if (about.format !== LATENTS_FORMAT || entry?.dtype !== "F32") {
    throw new Error("This file holds no latents of gsd. gsd edit IMAGE --save-latent X.safetensors writes one.");
  }
  if (String(entry.shape) !== String(shape)) {
    throw new Error(`This latent has the shape ${entry.shape.join(" x ")}; this model takes ${shape.join(" x ")}.`);
  }
  if (about.model !== fingerprint) {
    throw new Error(`This latent belongs to another model (${about.model || "unnamed"}). This page shows ${fingerprint}.`);
  }
  const [from, to] = entry.data_offsets;
  const count = shape.reduce((a, b) => a * b);
  if (to - from !== 4 * count || start + to > buffer.byteLength) throw new Error("This latent is damaged: it ends early.");
  const z = new Float32Array(buffer.slice(start + from, start + to));
  if (!z.every(Number.isFinite) || !z.some((value) => value !== 0)) {
    throw new Error("This latent is damaged: it holds no finite numbers.");
  }
  return z;
}

/** An image, Float32Array [C, H, W] in [-1, 1], as ImageData. */
export function toImageData(pixels, [channels, height, width]) {
  const data = new Uint8ClampedArray(4 * height * width);
  const plane = height * width;
  for (let k = 0; k < plane; k++) {
    for (let c = 0; c < 3; c++) {
      data[4 * k + c] = Math.round(pixels[(channels >= 3 ? c : 0) * plane + k] * 127.5 + 127.5);
    }
    data[4 * k + 3] = 255;
  }
  return new ImageData(data, width, height);
}

/** Draw an image at its own size; the style sheet enlarges it. */
export function draw(canvas, pixels, shape) {
  if (canvas.width !== shape[2]) canvas.width = shape[2];
  if (canvas.height !== shape[1]) canvas.height = shape[1];
  canvas.getContext("2d").putImageData(toImageData(pixels, shape), 0, 0);
}

export const toPng = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

export function download(content, name, type = "application/octet-stream") {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

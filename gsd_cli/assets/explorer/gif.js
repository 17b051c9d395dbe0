// An animated GIF (GIF89a): greys exactly, colours by median cut (Heckbert 1982) over all frames, LZW (Welch 1984).

/** frames: ImageData of one size; delay: hundredths of a second; enlarge: pixels per pixel. Returns bytes. */
export function encodeGif(frames, delay, enlarge = 1) {
  const { width, height } = frames[0];
  const palette = choosePalette(frames);
  const out = [];
  const short = (value) => out.push(value & 255, value >> 8);
  const text = (value) => out.push(...new TextEncoder().encode(value));
  text("GIF89a");
  short(width * enlarge);
  short(height * enlarge);
  out.push(0xf7, 0, 0); // a global table of 256 colours of 8 bits
  for (let k = 0; k < 256; k++) out.push(...(palette[k] ?? [0, 0, 0]));
  out.push(0x21, 0xff, 11);
  text("NETSCAPE2.0");
  out.push(3, 1, 0, 0, 0); // for ever
  for (const frame of frames) {
    out.push(0x21, 0xf9, 4, 0);
    short(delay);
    out.push(0, 0, 0x2c, 0, 0, 0, 0);
    short(width * enlarge);
    short(height * enlarge);
    out.push(0, 8);
    const packed = compress(enlargeIndices(toIndices(frame, palette), width, height, enlarge));
    for (let k = 0; k < packed.length; k += 255) {
      const part = packed.slice(k, k + 255);
      out.push(part.length, ...part);
    }
    out.push(0);
  }
  out.push(0x3b);
  return new Uint8Array(out);
}

const isGrey = ({ data }) => {
  for (let k = 0; k < data.length; k += 4) if (data[k] !== data[k + 1] || data[k] !== data[k + 2]) return false;
  return true;
};

function choosePalette(frames) {
  if (frames.every(isGrey)) return Array.from({ length: 256 }, (_, k) => [k, k, k]);
  const colours = new Map();
  for (const { data } of frames) {
    for (let k = 0; k < data.length; k += 4) colours.set((data[k] << 16) | (data[k + 1] << 8) | data[k + 2], 1);
  }
  const split = (key) => [key >> 16, (key >> 8) & 255, key & 255];
  let boxes = [[...colours.keys()].map(split)];
  const spread = (box) => {
    const sizes = [0, 1, 2].map((c) => {
      let low = 255;
      let high = 0;
      for (const colour of box) {
        low = Math.min(low, colour[c]);
        high = Math.max(high, colour[c]);
      }
      return high - low;
    });
    const widest = sizes.indexOf(Math.max(...sizes));
    return [widest, box.length > 1 ? sizes[widest] * Math.sqrt(box.length) : -1];
  };
  boxes = boxes.map((box) => [box, ...spread(box)]);
  while (boxes.length < 256) {
    const next = boxes.reduce((a, b) => (b[2] > a[2] ? b : a));
    if (next[2] <= 0) break;
    const sorted = next[0].sort((a, b) => a[next[1]] - b[next[1]]);
    const halves = [sorted.slice(0, sorted.length >> 1), sorted.slice(sorted.length >> 1)];
    boxes.splice(boxes.indexOf(next), 1, ...halves.map((box) => [box, ...spread(box)]));
  }
  return boxes.map(([box]) => [0, 1, 2].map((c) => Math.round(box.reduce((sum, x) => sum + x[c], 0) / box.length)));
}

function toIndices({ data }, palette) {
  const known = new Map(palette.map(([r, g, b], k) => [(r << 16) | (g << 8) | b, k]));
  const nearest = (key) => {
    const [r, g, b] = [key >> 16, (key >> 8) & 255, key & 255];
    let best = 0;
    let least = Infinity;
    palette.forEach((colour, k) => {
      const distance = (colour[0] - r) ** 2 + (colour[1] - g) ** 2 + (colour[2] - b) ** 2;
      if (distance < least) [best, least] = [k, distance];
    });
    known.set(key, best);
    return best;
  };
  const indices = new Uint8Array(data.length / 4);
  for (let k = 0; k < indices.length; k++) {
    const key = (data[4 * k] << 16) | (data[4 * k + 1] << 8) | data[4 * k + 2];
    indices[k] = known.get(key) ?? nearest(key);
  }
  return indices;
}

function enlargeIndices(indices, width, height, enlarge) {
  const large = new Uint8Array(indices.length * enlarge ** 2);
  for (let y = 0; y < height * enlarge; y++) {
    const row = Math.floor(y / enlarge) * width;
    for (let x = 0; x < width * enlarge; x++) large[y * width * enlarge + x] = indices[row + Math.floor(x / enlarge)];
  }
  return large;
}

function compress(indices) {
  const CLEAR = 256;
  const bytes = [];
  let buffer = 0;
  let filled = 0;
  let size = 9;
  const write = (code) => {
    buffer |= code << filled;
    filled += size;
    for (; filled >= 8; filled -= 8, buffer >>>= 8) bytes.push(buffer & 255);
  };
  let table = new Map();
  let next = 258;
  write(CLEAR);
  let prefix = indices[0];
  for (let k = 1; k < indices.length; k++) {
    const key = (prefix << 8) | indices[k];
    const code = table.get(key);
    if (code !== undefined) {
      prefix = code;
      continue;
    }
    write(prefix);
    if (next === 4096) {
      write(CLEAR);
      [table, next, size] = [new Map(), 258, 9];
    } else {
      if (next === 1 << size) size++;
      table.set(key, next++);
    }
    prefix = indices[k];
  }
  write(prefix);
  write(CLEAR + 1);
  if (filled) bytes.push(buffer & 255);
  return bytes;
}

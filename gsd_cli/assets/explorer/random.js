// The latent of a seed, as gsd_cli.compute.random.latents gives it: numpy's SeedSequence (O'Neill 2015) into torch's
// MT19937 (Matsumoto and Nishimura 1998), and torch's normal numbers: Box and Muller in blocks of sixteen.

const SHORT = 2 ** 16; // seeds below this one seed torch with 32 bits; others set all words of its state
const WORDS = 624;

export const LARGEST_SEED = Number.MAX_SAFE_INTEGER;

export function crc32(text) {
  let crc = ~0;
  for (const byte of new TextEncoder().encode(text)) {
    crc ^= byte;
    for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

function toWords(number) {
  if (number < 2 ** 32) return [number >>> 0];
  return [number % 2 ** 32 >>> 0, Math.floor(number / 2 ** 32) >>> 0];
}

/** numpy.random.SeedSequence([seed, ...stream]).generate_state(count, uint32). */
export function seedSequence(numbers, count) {
  const entropy = numbers.flatMap(toWords);
  let hashed = 0x43b0d7e5;
  const hashmix = (value) => {
    value = (value ^ hashed) >>> 0;
    hashed = Math.imul(hashed, 0x931e8875) >>> 0;
    value = Math.imul(value, hashed) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mix = (x, y) => {
    const value = (Math.imul(x, 0xca01f9dd) - Math.imul(y, 0x4973f715)) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  const pool = [0, 1, 2, 3].map((k) => hashmix(entropy[k] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hashmix(pool[from]));
  }
  for (let from = 4; from < entropy.length; from++) {
    for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], hashmix(entropy[from]));
  }
  const state = new Uint32Array(count);
  let constant = 0x8b51f9dd;
  for (let k = 0; k < count; k++) {
    let value = (pool[k % 4] ^ constant) >>> 0;
    constant = Math.imul(constant, 0x58f38ded) >>> 0;
    value = Math.imul(value, constant) >>> 0;
    state[k] = value ^ (value >>> 16);
  }
  return state;
}

/** MT19937 from a 32-bit seed, or from all words of its state: a function that returns 32 bits. */
function mersenneTwister(start) {
  const state = new Uint32Array(WORDS);
  if (typeof start === "number") {
    state[0] = start;
    for (let k = 1; k < WORDS; k++) state[k] = Math.imul(1812433253, state[k - 1] ^ (state[k - 1] >>> 30)) + k;
  } else state.set(start);
  let next = WORDS;
  const twist = () => {
    for (let k = 0; k < WORDS; k++) {
      const y = (state[k] & 0x80000000) | (state[(k + 1) % WORDS] & 0x7fffffff);
      state[k] = state[(k + 397) % WORDS] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    next = 0;
  };
  return () => {
    if (next === WORDS) twist();
    let y = state[next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

const uniform = (draw) => (draw() & 0xffffff) / 2 ** 24;

/** torch.randn(count) in float32, for count >= 16. */
function normals(draw, count) {
  const values = new Float32Array(count);
  for (let k = 0; k < count; k++) values[k] = uniform(draw);
  const whole = count - (count % 16);
  for (let k = 0; k < whole; k += 16) boxMuller(values.subarray(k, k + 16));
  if (whole < count) {
    const tail = values.subarray(count - 16);
    for (let k = 0; k < 16; k++) tail[k] = uniform(draw);
    boxMuller(tail);
  }
  return values;
}

function boxMuller(block) {
  for (let k = 0; k < 8; k++) {
    const radius = Math.sqrt(-2 * Math.log(1 - block[k]));
    const angle = 2 * Math.PI * block[k + 8];
    block[k] = radius * Math.cos(angle);
    block[k + 8] = radius * Math.sin(angle);
  }
}

/** z ~ N(0, I) of a seed, Float32Array of `count` numbers; `stream` as in gsd. */
export function latentOfSeed(seed, count, stream = "latent") {
  const words = [seed, crc32(stream)];
  if (seed >= SHORT) return normals(mersenneTwister(seedSequence(words, WORDS)), count);
  const [low, high] = seedSequence(words, 2); // one 64-bit number, shifted right by one: torch reads its low half
  return normals(mersenneTwister(((low >>> 1) | (high << 31)) >>> 0), count);
}

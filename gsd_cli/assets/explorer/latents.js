// Geometry of latents, as in gsd_cli/core/models/sphere.py and core/editing/direction.py. Latents are Float32Arrays.

import { latentOfSeed } from "./random.js";

export const norm = (z) => Math.sqrt(z.reduce((sum, value) => sum + value * value, 0));

const dot = (a, b) => a.reduce((sum, value, k) => sum + value * b[k], 0);

/** a x + b y. */
const combine = (a, x, b, y) => x.map((value, k) => a * value + b * y[k]);

export const scale = (z, factor) => z.map((value) => factor * value);

/** The sum of strength * scale * vector over the moves of one space, or null if there are none. */
export function sumMoves(moves, space) {
  let sum = null;
  for (const { direction, strength } of moves) {
    if (direction.space !== space || strength === 0) continue;
    sum ??= new Float32Array(direction.vector.length);
    const step = strength * direction.scale;
    direction.vector.forEach((value, k) => (sum[k] += step * value));
  }
  return sum;
}

/** z + shift, put back on the sphere of z. */
export function moveLatent(z, shift) {
  if (shift === null) return z;
  const far = combine(1, z, 1, shift);
  return scale(far, norm(z) / norm(far));
}

/** The point at share s in [0, 1] of the great circle from a to b; norms are interpolated linearly. */
export function slerp(a, b, s) {
  const normA = norm(a);
  const normB = norm(b);
  const u = scale(a, 1 / normA);
  const v = scale(b, 1 / normB);
  // arccos loses half the digits near 0; the half-chord form does not
  const theta = 2 * Math.atan2(norm(combine(1, u, -1, v)), norm(combine(1, u, 1, v)));
  const sine = Math.sin(theta);
  const mixed =
    sine < 1e-6 ? combine(1 - s, u, s, v) : combine(Math.sin((1 - s) * theta) / sine, u, Math.sin(s * theta) / sine, v);
  return scale(mixed, normA + s * (normB - normA));
}

/** z turned by `angle` radians towards the noise of a seed, on its own sphere. */
export function neighbour(z, seed, angle) {
  const noise = latentOfSeed(seed, z.length, "neighbour");
  const length = norm(z);
  const tangent = combine(1, noise, -dot(noise, z) / length ** 2, z);
  return combine(Math.cos(angle), z, (Math.sin(angle) * length) / norm(tangent), tangent);
}

/** The place on a table of fractions at equal steps, at share s in [0, 1] of the walk. */
export function readTable(table, s) {
  const place = Math.min(Math.max(s, 0), 1) * (table.length - 1);
  const low = Math.min(Math.floor(place), table.length - 2);
  return table[low] + (place - low) * (table[low + 1] - table[low]);
}

/** Places that cut a path into `count - 1` parts of equal length, from its lengths between the places `s`. */
export function spaceEvenly(s, steps, count) {
  const reached = [0];
  for (const step of steps) reached.push(reached.at(-1) + step);
  const total = reached.at(-1);
  const even = Array.from({ length: count }, (_, k) => k / (count - 1));
  if (total < 1e-9) return even;
  let high = 1;
  const places = even.map((share) => {
    while (high < s.length - 1 && reached[high] < share * total) high++;
    const part = (share * total - reached[high - 1]) / Math.max(reached[high] - reached[high - 1], 1e-12);
    return s[high - 1] + Math.min(Math.max(part, 0), 1) * (s[high] - s[high - 1]);
  });
  places[0] = s[0];
  places[count - 1] = s.at(-1);
  return places;
}

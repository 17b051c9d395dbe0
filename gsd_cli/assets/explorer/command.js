// The commands of gsd that repeat what the page shows.

const number = (value) => String(Math.round(value * 1000) / 1000);

/** A word of a POSIX shell. */
export const quote = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

const join = (words) => words.filter(Boolean).map(quote).join(" ");

const chosen = (model, label) => ["--model", model.command_name, ...(label === null ? [] : ["--class", String(label)])];

/** What --move and --direction call a direction: its file, if it comes from one. */
const called = (direction) => direction.file ?? direction.name;

/**
 * base: {source: "seed:42" | a file | null}; moves: [{direction, strength}]. A latent without a source is downloaded
 * first; what moves it in z is then part of the file.
 */
export function editCommand(model, base, moves, truncation, label) {
  const saved = base.source === null;
  const kept = moves.filter(({ direction, strength }) => strength !== 0 && !(saved && direction.space === "latent"));
  const image = saved ? "latent.safetensors" : base.source;
  const note = saved ? "Download the latent first: the command reads it." : (base.note ?? null);
  const cut = saved || truncation === 1 ? [] : ["--truncation", number(truncation)];
  const end = [...chosen(model, label), "-o", "image.png"];
  if (!kept.length && image.startsWith("seed:")) {
    const words = ["gsd", "sample", "--seeds", image.slice(5), ...cut, "--precision", "fp32", ...end];
    return { text: join(words), note };
  }
  const words = ["gsd", "edit", image, ...cut];
  if (kept.length > 1) {
    words.push(`--move=${kept.map(({ direction, strength }) => `${called(direction)}=${number(strength)}`).join(",")}`);
  } else {
    const still = model.directions.find(({ group }) => group === "components") ?? model.directions[0];
    const { direction, strength } = kept[0] ?? { direction: still, strength: 0 };
    if (!direction) return { text: "", note: "This model has no direction that gsd edit could name." };
    if (direction.group === "components" || direction.file) words.push("--direction", called(direction));
    else words.push("--attribute", direction.name, "--method", "direction");
    words.push(`--strength=${number(strength)}`);
  }
  return { text: join([...words, ...end]), note };
}

/** ends: two bases. */
export function walkCommand(model, ends, frames, label) {
  const names = ends.map((end, k) => end.source ?? `latent-${k + 1}.safetensors`);
  const missing = ends.some((end) => end.source === null);
  const words = ["gsd", "interpolate", ...names, "--frames", String(frames), ...chosen(model, label), "-o", "walk.gif"];
  const note = missing ? "Download the latents first, under these names." : (ends.find((end) => end.note)?.note ?? null);
  return { text: join(words), note };
}

/** Show a command; its words are kept whole where a line breaks. */
export function showCommand(id, text, note) {
  const words = text.split(" ").flatMap((word, k) => {
    const span = document.createElement("span");
    span.textContent = word;
    return k ? [" ", span] : [span];
  });
  document.getElementById(id).replaceChildren(...words);
  const below = document.getElementById(`${id}-note`);
  below.textContent = note ?? "";
  below.hidden = !note;
}

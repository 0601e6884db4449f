// One image of the page: its prediction, its label, and what is written of them.

import { drawCodes } from "./layers.js";
import { decode, encode } from "./runs.js";
import { png, zip } from "./zip.js";

const THUMBNAIL = 96; // px, its longer side on screens of one px a px

export class Entry {
  constructor(file, name, settings) {
    Object.assign(this, { file, name: name.split("/").pop(), settings, state: "waiting" });
    Object.assign(this, { spent: 0, isAccepted: false, isSaved: false, isChanged: false });
  }

  /** Take what the worker found. Masks are kept as runs: a few KB instead of megabytes. */
  take({ codes, label, ...found }) {
    Object.assign(this, found, { state: "done" });
    if (codes) this.runs = this.first = encode(codes, this.width, this.height);
    else this.label = this.firstLabel = label;
  }

  codes() {
    return decode(this.runs).codes;
  }

  predicted() {
    return decode(this.first).codes;
  }

  /** Keep codes as the label. */
  keep(codes) {
    const before = this.runs;
    this.runs = encode(codes, this.width, this.height);
    this.isChanged = !isSame(this.runs, this.first);
    if (!isSame(before, this.runs)) this.isSaved = false;
  }

  get isDecided() {
    return this.isAccepted || this.hasOtherLabel;
  }

  get hasOtherLabel() {
    return this.settings.masks ? this.isChanged : this.label !== this.firstLabel;
  }

  /** Return what the editor opens. */
  async opened() {
    if (!this.settings.masks) return { label: this.label, address: (this.address ??= URL.createObjectURL(this.file)) };
    const picture = await this.picture();
    return { picture, codes: this.codes(), width: this.width, height: this.height };
  }

  picture(options = {}) {
    return createImageBitmap(this.file, { colorSpaceConversion: "none", ...options });
  }

  /** Return the codes at a smaller size. */
  #sampled(width, height) {
    const codes = this.codes();
    return Uint8Array.from({ length: width * height }, (_, at) => {
      const [x, y] = [at % width, Math.floor(at / width)];
      return codes[Math.floor(((y + 0.5) * this.height) / height) * this.width + Math.floor(((x + 0.5) * this.width) / width)];
    });
  }

  async drawThumbnail() {
    const canvas = document.createElement("canvas");
    if (this.state === "done") {
      const scale = Math.min(1, (THUMBNAIL * devicePixelRatio) / Math.max(this.width, this.height));
      const [width, height] = [this.width, this.height].map((side) => Math.max(1, Math.round(side * scale)));
      this.small ??= await this.picture({ resizeWidth: width, resizeHeight: height, resizeQuality: "medium" });
      Object.assign(canvas, { width, height });
      const context = canvas.getContext("2d");
      context.drawImage(this.small, 0, 0);
      if (this.runs) {
        const mask = document.createElement("canvas");
        const { classes, background } = this.settings;
        drawCodes(mask, { codes: this.#sampled(width, height), width, height }, classes, (code) => code !== background);
        context.globalAlpha = 0.5;
        context.drawImage(mask, 0, 0);
      }
    }
    this.button.querySelector("canvas, .spin").replaceWith(canvas);
  }
}

function isSame(one, other) {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

const stemOf = (name) => name.replace(/\.[^.]*$/, "");

/** Return [Blob, name] of the mask as `fastseg predict` writes it. */
export async function saveMask(entry, { palette }) {
  const bytes = await png(entry.codes(), entry.width, entry.height, palette);
  return [new Blob([bytes], { type: "image/png" }), `${stemOf(entry.name)}.png`];
}

/** Return names of which no two have the same stem. */
function uniqueNames(names) {
  const taken = new Set();
  return names.map((name) => {
    const [stem, suffix] = [stemOf(name), name.slice(stemOf(name).length)];
    let chosen = stem;
    for (let number = 2; taken.has(chosen.toLowerCase()); number++) chosen = `${stem}_${number}`;
    taken.add(chosen.toLowerCase());
    return chosen + suffix;
  });
}

/** Return [Blob, name] of all corrected and accepted images, for `fastseg add`. */
export async function saveCorrections(entries, settings, by) {
  const chosen = entries.filter((entry) => entry.isDecided);
  const names = uniqueNames(chosen.map(({ name }) => name));
  const [files, images] = [[], []];
  for (const [place, entry] of chosen.entries()) {
    const row = { image: `images/${names[place]}`, action: entry.hasOtherLabel ? "corrected" : "accepted", seconds: Math.round(10 * entry.spent) / 10 };
    files.push({ name: row.image, bytes: new Uint8Array(await entry.file.arrayBuffer()) });
    if (settings.masks) {
      const { width, height } = entry;
      for (const [kind, codes] of [["label", entry.codes()], ["prediction", entry.predicted()]]) {
        row[kind] = `${kind}s/${stemOf(names[place])}.png`;
        files.push({ name: row[kind], bytes: await png(codes, width, height) });
      }
    } else {
      Object.assign(row, { label: entry.label, prediction: entry.firstLabel });
    }
    images.push(row);
    entry.isSaved = true;
  }
  const { task, source, classes } = settings;
  const about = { schema: 1, task, source, classes: classes.map(({ name }) => name), by, images };
  files.unshift({ name: "corrections.json", bytes: new TextEncoder().encode(`${JSON.stringify(about, null, 1)}\n`) });
  return [zip(files), "corrections.zip"];
}

/** Let the browser save a Blob under a name. */
export function deliver(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

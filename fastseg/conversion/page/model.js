// The network: pixels at its size become logits, as `fastseg predict --runtime onnx` computes them.

import * as ort from "./ort.js";
import { codesOf } from "./resize.js";

const SMALLEST = 1e-12; // bound of averaged probabilities, so that their logarithm is finite

/** Return the probabilities of logits, Float32Array (classes * places). */
function softmax(logits, classes, temperature = 1) {
  const places = logits.length / classes;
  const out = new Float32Array(logits.length);
  for (let place = 0; place < places; place++) {
    let most = -Infinity;
    for (let code = 0; code < classes; code++) most = Math.max(most, logits[code * places + place] / temperature);
    let sum = 0;
    for (let at = place; at < out.length; at += places) {
      out[at] = Math.exp(logits[at] / temperature - most);
      sum += out[at];
    }
    for (let at = place; at < out.length; at += places) out[at] /= sum;
  }
  return out;
}

/** Return rows of `width` groups of `channels` values mirrored, moved `shift` places to the right. */
function mirrored(values, width, channels, shift = 0) {
  const out = new values.constructor(values.length);
  const line = width * channels;
  for (let row = 0; row < values.length; row += line) {
    for (let x = 0; x < width; x++) {
      const from = width - 1 - Math.min(width - 1, Math.max(0, x - shift));
      for (let channel = 0; channel < channels; channel++) out[row + x * channels + channel] = values[row + from * channels + channel];
    }
  }
  return out;
}

export class Model {
  /** `settings` are size, classes, masks, tta, flip_shift, temperature. */
  static async open(wasm, model, settings) {
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = 1; // more need headers that a file does not have
    ort.env.logLevel = "error";
    const made = new Model();
    made.settings = settings;
    made.session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
    return made;
  }

  async #run(pixels) {
    const [height, width] = this.settings.size;
    const { logits } = await this.session.run({ images: new ort.Tensor("uint8", pixels, [1, height, width, 3]) });
    return logits.data;
  }

  /** Return the logits of pixels, averaged with those of the mirror image where the model does so. */
  async #logits(pixels) {
    const { size, classes, masks, tta, flip_shift: shift } = this.settings;
    const own = await this.#run(pixels);
    if (!tta) return own;
    let other = await this.#run(mirrored(pixels, size[1], 3));
    if (masks) other = mirrored(other, size[1], 1, shift);
    const [one, two] = [softmax(own, classes), softmax(other, classes)];
    return one.map((value, at) => Math.log(Math.max((value + two[at]) / 2, SMALLEST)));
  }

  /** Predict pixels of an image of this size: {codes} for masks, {label, shares} for one class. */
  async predict(pixels, width, height) {
    const { size, classes, masks, temperature } = this.settings;
    const logits = await this.#logits(pixels);
    if (masks) return { codes: codesOf(logits, classes, size[0], size[1], height, width) };
    return { label: logits.indexOf(Math.max(...logits)), shares: [...softmax(logits, classes, temperature)] };
  }
}

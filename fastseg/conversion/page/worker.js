// The worker: loads the model, then answers one image at a time, so that the page stays free.

import { Model } from "./model.js";
import { readImage } from "./reading.js";

let model = null;
let settings = null;

/** Return the bytes of base64 text that is compressed by gzip. */
async function unpacked(text) {
  const coded = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const stream = new Blob([coded]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function answer({ kind, ...given }) {
  if (kind === "open") {
    settings = given.settings;
    const [wasm, network] = await Promise.all([unpacked(given.wasm), unpacked(given.model)]);
    model = await Model.open(wasm, network, settings);
    return {};
  }
  const start = performance.now();
  const { data, width, height, isTransparent } = await readImage(new Uint8Array(given.bytes), settings);
  const found = await model.predict(data, width, height);
  return { ...found, width, height, isTransparent, seconds: (performance.now() - start) / 1000 };
}

let last = Promise.resolve();
addEventListener("message", ({ data: { id, ...given } }) => {
  last = last.then(async () => {
    try {
      const found = await answer(given);
      postMessage({ id, found }, found.codes ? [found.codes.buffer] : []);
    } catch (error) {
      postMessage({ id, fault: error.message });
    }
  });
});

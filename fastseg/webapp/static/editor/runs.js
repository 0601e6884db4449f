// Arrays of class codes as runs of equal values: what travels to the server, what IndexedDB keeps.
//
// Layout, little endian: 4 bytes "FSR1", uint32 height, uint32 width, uint32 number of runs, their
// lengths as uint32, their values as uint8. Where runs need more bytes than pixels do, "FSP1",
// height and width are followed by the pixels. Masks never pass through a canvas or an image
// decoder: premultiplied alpha and colour management would change codes.

const RUNS = "FSR1";
const PLAIN = "FSP1";

/** Return the codes four at a time, without the last ones of an odd number. */
export function wordsOf(codes) {
  const aligned = codes.byteOffset % 4 ? codes.slice() : codes;
  return new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length >> 2);
}

/** Return the lengths (Uint32Array) and values (Uint8Array) of the runs of a Uint8Array. */
export function runsOf(codes) {
  let room = 1024;
  let lengths = new Uint32Array(room);
  let values = new Uint8Array(room);
  let count = 0;
  const total = codes.length;
  const words = wordsOf(codes);
  for (let start = 0; start < total; ) {
    const value = codes[start];
    let end = start + 1;
    while (end < total && end & 3 && codes[end] === value) end++;
    if (!(end & 3)) {
      const four = value * 0x01010101; // most runs are long: four pixels at a time
      let word = end >> 2;
      while (word < words.length && words[word] === four) word++;
      end = word << 2;
    }
    while (end < total && codes[end] === value) end++;
    if (count === room) {
      room *= 2;
      const longer = new Uint32Array(room);
      longer.set(lengths);
      lengths = longer;
      const more = new Uint8Array(room);
      more.set(values);
      values = more;
    }
    lengths[count] = end - start;
    values[count++] = value;
    start = end;
  }
  return { lengths: lengths.slice(0, count), values: values.slice(0, count) };
}

/** Write runs into `codes`, a Uint8Array that they fill exactly. */
export function fillRuns({ lengths, values }, codes) {
  let at = 0;
  for (let i = 0; i < lengths.length; i++) {
    codes.fill(values[i], at, at + lengths[i]);
    at += lengths[i];
  }
}

/** Return codes (Uint8Array of height * width) as bytes. */
export function encode(codes, width, height) {
  const runs = runsOf(codes);
  const count = runs.lengths.length;
  const plain = 5 * count + 4 > codes.length;
  const bytes = new Uint8Array(plain ? 12 + codes.length : 16 + 5 * count);
  const view = new DataView(bytes.buffer);
  const magic = plain ? PLAIN : RUNS;
  for (let i = 0; i < 4; i++) bytes[i] = magic.charCodeAt(i);
  view.setUint32(4, height, true);
  view.setUint32(8, width, true);
  if (plain) {
    bytes.set(codes, 12);
    return bytes;
  }
  view.setUint32(12, count, true);
  for (let i = 0; i < count; i++) view.setUint32(16 + 4 * i, runs.lengths[i], true);
  bytes.set(runs.values, 16 + 4 * count);
  return bytes;
}

/** Return {codes, width, height} of bytes that `encode` or the server made. */
export function decode(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const magic = String.fromCharCode(...bytes.subarray(0, 4));
  const height = view.getUint32(4, true);
  const width = view.getUint32(8, true);
  if (magic === PLAIN && bytes.length === 12 + width * height) {
    return { codes: bytes.slice(12), width, height };
  }
  if (magic !== RUNS) throw new Error("the mask from the server is damaged");
  const count = view.getUint32(12, true);
  const codes = new Uint8Array(width * height);
  let at = 0;
  for (let i = 0; i < count; i++) {
    const length = view.getUint32(16 + 4 * i, true);
    codes.fill(bytes[16 + 4 * count + i], at, at + length);
    at += length;
  }
  if (at !== codes.length) throw new Error("the mask from the server is damaged");
  return { codes, width, height };
}

// PNG files of codes, and ZIP files: both without a canvas, which would change values.

const CRC = Uint32Array.from({ length: 256 }, (_, value) => {
  let rest = value;
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? 0xedb88320 ^ (rest >>> 1) : rest >>> 1;
  return rest;
});

function crc32(...parts) {
  let crc = 0xffffffff;
  for (const bytes of parts) for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

const text = (value) => new TextEncoder().encode(value);

/** Return numbers as bytes: [value, bytes] pairs, little or big endian. */
function packed(fields, isLittle) {
  const total = fields.reduce((sum, [, size]) => sum + size, 0);
  const view = new DataView(new ArrayBuffer(total));
  let at = 0;
  for (const [value, size] of fields) {
    if (size === 1) view.setUint8(at, value);
    else if (size === 2) view.setUint16(at, value, isLittle);
    else view.setUint32(at, value, isLittle);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

/** Return a PNG of codes, Uint8Array (height * width): greys, or the colours [r, g, b] of `palette`. */
export async function png(codes, width, height, palette = null) {
  const channels = palette ? 3 : 1;
  const line = 1 + width * channels; // each row begins with its filter, none
  const raw = new Uint8Array(line * height);
  for (let y = 0; y < height; y++) {
    if (!palette) raw.set(codes.subarray(y * width, (y + 1) * width), y * line + 1);
    else for (let x = 0; x < width; x++) raw.set(palette[codes[y * width + x]], y * line + 1 + 3 * x);
  }
  const stream = new Blob([raw]).stream().pipeThrough(new CompressionStream("deflate"));
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  const chunk = (name, body) => {
    const head = text(name);
    return [packed([[body.length, 4]]), head, body, packed([[crc32(head, body), 4]])];
  };
  const header = packed([[width, 4], [height, 4], [8, 1], [palette ? 2 : 0, 1], [0, 1], [0, 1], [0, 1]]);
  const magic = packed([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a].map((byte) => [byte, 1]));
  const parts = [magic, ...chunk("IHDR", header), ...chunk("IDAT", data), ...chunk("IEND", new Uint8Array())];
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Return a ZIP, a Blob, of [{name, bytes}], which are stored as they are. */
export function zip(files) {
  const [parts, index] = [[], []];
  let at = 0;
  for (const { name, bytes } of files) {
    const coded = text(name);
    // version 2.0, names in UTF-8, stored, at the first day that the format knows
    const common = [[20, 2], [0x0800, 2], [0, 2], [0, 2], [0x21, 2], [crc32(bytes), 4], [bytes.length, 4], [bytes.length, 4], [coded.length, 2], [0, 2]];
    const head = packed([[0x04034b50, 4], ...common], true);
    index.push(packed([[0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [at, 4]], true), coded);
    parts.push(head, coded, bytes);
    at += head.length + coded.length + bytes.length;
    if (at > 0xffffffff) throw new Error("the images are more than 4 GiB; download corrections more often");
  }
  const size = index.reduce((sum, part) => sum + part.length, 0);
  const end = packed([[0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [at, 4], [0, 2]], true);
  return new Blob([...parts, ...index, end], { type: "application/zip" });
}

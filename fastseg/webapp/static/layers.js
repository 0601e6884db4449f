// Masks over images: class indices become colours here, so that classes can be shown and hidden.

/** Return the class indices of a PNG of codes: {codes, width, height}. */
export async function readCodes(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error("the mask cannot be read");
  const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const codes = new Uint8Array(bitmap.width * bitmap.height);
  for (let place = 0; place < codes.length; place++) codes[place] = pixels[4 * place];
  return { codes, width: bitmap.width, height: bitmap.height };
}

/** Draw codes onto a canvas; classes for which `isShown(code)` is false stay transparent. */
export function drawCodes(canvas, { codes, width, height }, classes, isShown) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const colours = new Uint32Array(256);
  const bytes = new DataView(colours.buffer);
  classes.forEach(({ colour }, code) => {
    if (isShown(code)) bytes.setUint32(4 * code, Number.parseInt(`${colour.slice(1)}ff`, 16));
  });
  const target = new Uint32Array(picture.data.buffer);
  for (let place = 0; place < codes.length; place++) target[place] = colours[codes[place]];
  context.putImageData(picture, 0, 0);
}

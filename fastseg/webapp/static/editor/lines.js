// Marks above the image: white lines on black ones, visible on any image.

function twice(context, ratio, path) {
  for (const [colour, width] of [
    ["rgba(0, 0, 0, .85)", 3],
    ["#fff", 1.25],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = width * ratio;
    context.beginPath();
    path();
    context.stroke();
  }
}

export function ring(context, [x, y], radius, ratio) {
  twice(context, ratio, () => context.arc(x, y, Math.max(radius, ratio), 0, 2 * Math.PI));
}

export function cross(context, [x, y], ratio) {
  const arm = 8 * ratio;
  twice(context, ratio, () => {
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    context.moveTo(x, y - arm);
    context.lineTo(x, y + arm);
  });
}

export function dot(context, [x, y], ratio) {
  context.fillStyle = "#fff";
  context.strokeStyle = "#000";
  context.lineWidth = ratio;
  context.beginPath();
  context.arc(x, y, 3.5 * ratio, 0, 2 * Math.PI);
  context.fill();
  context.stroke();
}

export function line(context, points, closed, ratio) {
  twice(context, ratio, () => {
    points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (closed) context.closePath();
  });
}

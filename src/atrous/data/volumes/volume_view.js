// The slice viewer of HTML pages: three planes of a volume, each with a slider. It reads data packed by volume_view.py.

// The axes of each plane (0 right, 1 anterior, 2 superior), and the letters at its left, right, upper and lower side.
// Radiological convention: the axes across and down are reversed, so the patient's right is at the left.
export const PLANES = {
  axial: { axis: 2, across: 0, down: 1, letters: "RLAP", ends: ["inferior", "superior"] },
  coronal: { axis: 1, across: 0, down: 2, letters: "RLSI", ends: ["posterior", "anterior"] },
  sagittal: { axis: 0, across: 1, down: 2, letters: "APSI", ends: ["left", "right"] },
};
const SIDE = 720; // longest side of a canvas in pixels

// Decompresses a view, and returns its header and its parts; each part is an array of bytes.
export async function unpack(blob) {
  const stream = blob.stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  let at = 4 + length;
  return { head, parts: head.parts.map((size) => bytes.subarray(at, (at += size))) };
}

// Returns one slice of an array as a picture, with its pixels row by row.
export function sliceOf(values, shape, plane, index) {
  const { axis, across, down } = PLANES[plane];
  const strides = [shape[1] * shape[2], shape[2], 1];
  const [width, height] = [shape[across], shape[down]];
  const pixels = new Uint8Array(width * height);
  let at = 0;
  for (let row = height - 1; row >= 0; row--) {
    const start = index * strides[axis] + row * strides[down];
    for (let column = width - 1; column >= 0; column--) pixels[at++] = values[start + column * strides[across]];
  }
  return { width, height, pixels };
}

// Draws a slice over the whole canvas; colors has 256 entries of red, green, blue and alpha.
export function fill(context, { width, height, pixels }, colors) {
  const picture = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  const drawn = new Uint32Array(image.data.buffer);
  const words = new Uint32Array(colors.buffer);
  for (let at = 0; at < pixels.length; at++) drawn[at] = words[pixels[at]];
  picture.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, context.canvas.width, context.canvas.height);
}

// Draws lines between neighbouring pixels with different values; kept maps each class index to the compared value.
export function outline(context, { width, height, pixels }, kept, color, thickness) {
  const [x, y] = [context.canvas.width / width, context.canvas.height / height];
  const at = (row, column) => (row < 0 || column < 0 || row >= height || column >= width ? 0 : kept[pixels[row * width + column]]);
  context.beginPath();
  for (let row = 0; row <= height; row++) {
    for (let column = 0; column <= width; column++) {
      const here = at(row, column);
      if (here !== at(row, column - 1)) (context.moveTo(column * x, row * y), context.lineTo(column * x, (row + 1) * y));
      if (here !== at(row - 1, column)) (context.moveTo(column * x, row * y), context.lineTo((column + 1) * x, row * y));
    }
  }
  Object.assign(context, { strokeStyle: color, lineWidth: thickness, lineCap: "round" });
  context.stroke();
}

// Shows three planes of a volume in the element root.
//   head, scan: as returned by unpack.
//   overlay(context, plane, index): draws over the scan of a slice.
//   point: [right, anterior, superior], the shown voxel where the planes cross at first; by default the middle.
//   wheel: whether the mouse wheel over a picture changes its slice.
// It returns { draw, move, point }: draw() draws all planes again, move(plane, steps) moves a plane by some slices, and
// point() returns the voxel where the planes cross.
export function showVolume(root, head, scan, { overlay, point, wheel = false }) {
  const { shape, spacing, first, step } = head;
  const millimetres = shape.map((count, axis) => count * spacing[axis]);
  const greys = Uint8Array.from({ length: 1024 }, (_, at) => (at % 4 === 3 ? 255 : at >> 2));
  const at = [...(point ?? shape.map((count) => count >> 1))];
  const planes = Object.entries(PLANES).map(([plane, place]) => ({ plane, ...place, ...framed(plane, place) }));

  function framed(plane, { axis, across, down, letters }) {
    const figure = document.createElement("figure");
    figure.className = "plane";
    figure.innerHTML = `<div class="frame"><canvas tabindex="0" role="img"></canvas>
      <span class="left"></span><span class="right"></span><span class="up"></span><span class="down"></span></div>
      <label><b></b><input type="range" min="0" step="1"><output></output></label>`;
    const [canvas, slider, output] = ["canvas", "input", "output"].map((name) => figure.querySelector(name));
    figure.querySelectorAll("span").forEach((side, number) => (side.textContent = letters[number]));
    figure.querySelector("b").textContent = plane;
    const scale = SIDE / Math.max(...millimetres);
    canvas.width = Math.max(1, Math.round(millimetres[across] * scale));
    canvas.height = Math.max(1, Math.round(millimetres[down] * scale));
    figure.style.flexGrow = millimetres[across]; // so that all planes have the same scale
    slider.max = shape[axis] - 1;
    slider.setAttribute("aria-label", `${plane} slice`);
    return { figure, canvas, slider, output };
  }

  function draw() {
    for (const { plane, axis, across, down, canvas, slider, output, ends } of planes) {
      const context = canvas.getContext("2d");
      fill(context, sliceOf(scan, shape, plane, at[axis]), greys);
      overlay?.(context, plane, at[axis]);
      const number = first[axis] + at[axis] * step[axis];
      slider.value = at[axis];
      slider.setAttribute("aria-valuetext", `slice ${number}, counted from ${ends[0]} to ${ends[1]}`);
      output.textContent = `${number} (0–${head.full[axis] - 1})`;
      canvas.setAttribute("aria-label", `${plane} slice ${number}`);
      mark(context, at[across], shape[across], at[down], shape[down]);
    }
  }

  // Draws short lines at the border that show the positions of the other two planes.
  function mark(context, column, columns, row, rows) {
    const { width, height } = context.canvas;
    const [x, y] = [((columns - column - 0.5) / columns) * width, ((rows - row - 0.5) / rows) * height];
    const [long, high] = [Math.min(22, width / 8), Math.min(22, height / 8)];
    context.beginPath();
    for (const [a, b, c, d] of [[x, 0, x, high], [x, height - high, x, height], [0, y, long, y], [width - long, y, width, y]]) {
      (context.moveTo(a, b), context.lineTo(c, d));
    }
    for (const [color, thickness] of [["#000", 4], ["#fff", 2]]) {
      Object.assign(context, { strokeStyle: color, lineWidth: thickness, lineCap: "butt" });
      context.stroke();
    }
  }

  function put(one, index) {
    at[one.axis] = Math.min(Math.max(index, 0), shape[one.axis] - 1);
    draw();
  }

  function move(plane, by) {
    const one = planes.find((other) => other.plane === plane);
    put(one, at[one.axis] + by);
  }

  for (const one of planes) {
    const { plane, axis, across, down, canvas, slider } = one;
    slider.addEventListener("input", () => put(one, Number(slider.value)));
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -shape[axis], End: shape[axis] }[event.key];
      if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      move(plane, by);
    });
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const place = (part, count) => count - 1 - Math.min(Math.max(Math.floor(part * count), 0), count - 1);
      at[across] = place((event.clientX - box.left) / box.width, shape[across]);
      at[down] = place((event.clientY - box.top) / box.height, shape[down]);
      draw();
    });
    if (wheel) {
      canvas.addEventListener("wheel", (event) => {
        if (event.ctrlKey || !event.deltaY) return;
        event.preventDefault();
        move(plane, event.deltaY < 0 ? 1 : -1);
      }, { passive: false });
    }
  }
  root.replaceChildren(...planes.map((one) => one.figure));
  draw();
  return { draw, move, point: () => [...at] };
}

// The page at /: shows one picture or volume, its mask and the share of each class. It uses no framework and loads nothing from other servers.
import { WORDS, drawVolume, millilitres, readVolume, sizeOf } from "./page_volume.js";

const $ = (id) => document.getElementById(id);
const state = { models: [], file: null, picture: null, shown: null, hidden: new Set(), lit: null };
let running = new AbortController(); // aborts the running request
let askingForKey = null; // promise of the open key dialog; null while it is closed

class Refusal extends Error {} // error message of the server, or the reason why there is no response

async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    await options.body?.slice(0, 1).arrayBuffer().catch(() => {
      throw new Refusal("The file has changed or is gone. Choose it again.");
    });
    throw new Refusal("The server cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) {
    await (askingForKey ??= askForKey(key !== null).finally(() => (askingForKey = null)));
    return ask(path, options);
  }
  const problem = await answer.json().catch(() => ({}));
  throw new Refusal(problem.detail ?? `The server answered ${answer.status}.`);
}

function askForKey(again) {
  $("wrong").hidden = !again;
  $("key").value = "";
  $("ask").returnValue = "";
  $("ask").showModal();
  return new Promise((resolve, reject) => {
    $("ask").addEventListener("close", () => {
      if ($("ask").returnValue !== "given") return reject(new Refusal("The server needs a key. Reload this page to enter it."));
      resolve(sessionStorage.setItem("key", $("key").value));
    }, { once: true });
  });
}

function modelOf(name) {
  return state.models.find((model) => model.name === name);
}

// Whether a model segments volumes.
function isOfVolumes(name) {
  return Boolean(modelOf(name)?.planes?.length);
}

// The address of the request for the mask, with the options of the controls.
function address(format) {
  const query = new URLSearchParams({ format, scales: $("scales").value, flip: $("flip").checked });
  if ($("crf").value) query.set("crf", $("crf").value);
  return `v1/models/${encodeURIComponent($("model").value)}/segment?${query}`;
}

async function show(file) {
  state.file = file;
  state.picture = null;
  await refresh();
}

// Segments the picture with the options of the controls and shows the result. A new call aborts the previous one.
async function refresh() {
  if (!state.file || !(state.models.length || (await start()))) return;
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const { file } = state;
  const name = $("model").value;
  say("Segmenting …");
  $("busy").hidden = false;
  try {
    const began = performance.now();
    const volumes = isOfVolumes(name);
    const answer = await ask(address(volumes ? "view" : "indices"), { method: "POST", body: file, signal });
    const seconds = (performance.now() - began) / 1000;
    const times = answer.headers.get("Server-Timing") ?? "";
    const result = await (volumes ? readVolume(answer) : readPicture(answer, file, signal));
    if (answer.headers.get("X-Model-Version") !== modelOf(name)?.version) await fetchModels(signal);
    if (signal.aborted) return;
    const before = state.shown;
    state.picture = result.picture ?? null;
    state.shown = { ...result, file, classes: modelOf(name).classes, mask: address("mask") };
    state.hidden = new Set();
    state.lit = null;
    $("drop").hidden = true;
    $("panel").hidden = false;
    $("view").hidden = $("save-overlay").hidden = volumes;
    $("volume").hidden = !volumes;
    $("save-seg").hidden = !result.files?.[".dcm"];
    if (volumes) startVolume(before);
    else drawPicture();
    listClasses();
    paint();
    const network = /network;dur=([\d.]+)/.exec(times)?.[1];
    const took = network ? `, ${Math.round(network)} ms of it in the network` : "";
    const size = volumes ? sizeOf(result.head) : `${result.width}×${result.height} pixels`;
    say(`${size} in ${seconds.toFixed(2)} s${took}. ${summary()}`, decodeURIComponent(answer.headers.get("X-Note") ?? ""));
  } catch (error) {
    if (signal.aborted) return;
    say("");
    complain(error instanceof Refusal ? error.message : `This page failed: ${error.message}`);
  }
  $("busy").hidden = true;
}

// Reads the server's mask of a picture, and the picture.
async function readPicture(answer, file, signal) {
  const mask = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const picture = state.picture ?? (await original(file, signal));
  return { picture, width: mask.width, height: mask.height, indices: redOf(mask) };
}

// Shows the planes of a new volume; for a new file, the arrow keys move the slices of the first plane.
function startVolume(before) {
  const look = () => ({ colors: colorsOf(), opacity: $("opacity").value / 100 });
  const kept = before?.file === state.shown.file && before.viewer ? before : null;
  state.shown.viewer = drawVolume($("planes"), state.shown, kept, look);
  if (!kept) $("planes").querySelector("canvas").focus({ preventScroll: true });
}

// The picture, decoded by the browser or, if the browser cannot decode it, by the server.
async function original(file, signal) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    const query = new URLSearchParams({ format: "overlay", opacity: 0 });
    const path = `v1/models/${encodeURIComponent($("model").value)}/segment?${query}`;
    return createImageBitmap(await (await ask(path, { method: "POST", body: file, signal })).blob());
  }
}

function redOf(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const red = new Uint8Array(bitmap.width * bitmap.height);
  for (let index = 0; index < red.length; index++) red[index] = pixels[4 * index];
  return red;
}

function drawPicture() {
  const { width, height } = state.shown;
  for (const id of ["picture", "mask"]) Object.assign($(id), { width, height });
  $("view").style.setProperty("--aspect", width / height);
  $("picture").getContext("2d").drawImage(state.picture, 0, 0, width, height);
}

// The colour of each class as red, green, blue and alpha. Classes whose colour is black are transparent, as in all
// overlays of atrous.
function colorsOf() {
  const parts = new Uint8Array(1024);
  state.shown.classes.forEach(({ index, color }) => {
    const visible = !state.hidden.has(index) && color.some((part) => part > 0);
    const alpha = !visible ? 0 : state.lit === null || state.lit === index ? 255 : 50;
    parts.set([...color, alpha], 4 * index);
  });
  return parts;
}

// Colours each pixel or voxel by its class.
function paint() {
  const { width, height, indices, viewer } = state.shown;
  $("mask").style.opacity = $("opacity").value / 100;
  if (viewer) return viewer.draw();
  const context = $("mask").getContext("2d");
  const image = context.createImageData(width, height);
  const colors = new Uint32Array(colorsOf().buffer);
  const pixels = new Uint32Array(image.data.buffer);
  for (let at = 0; at < pixels.length; at++) pixels[at] = colors[indices[at]];
  context.putImageData(image, 0, 0);
}

function shares() {
  const { classes, indices } = state.shown;
  const counts = new Float64Array(256);
  for (const index of indices) counts[index]++;
  return classes
    .map((one) => ({ ...one, pixels: counts[one.index], share: counts[one.index] / indices.length }))
    .filter((one) => one.pixels > 0)
    .sort((one, other) => other.pixels - one.pixels);
}

function percent(share) {
  return share >= 0.001 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %";
}

// The size of a class in words: its share of a picture, or its volume.
function amount(one) {
  return state.shown.head ? millilitres(one.pixels, state.shown.head) : percent(one.share);
}

function summary() {
  return shares().slice(0, 4).map((one) => `${one.name} ${amount(one)}`).join(", ");
}

function listClasses() {
  const entries = shares().map((one) => {
    const entry = document.createElement("li");
    entry.innerHTML = `<label><input type="checkbox" checked><i></i><span class="name"></span><span class="share"></span></label>`;
    entry.querySelector("i").style.background = `rgb(${one.color})`;
    entry.querySelector(".name").textContent = one.name;
    const share = entry.querySelector(".share");
    share.textContent = amount(one);
    share.title = `${one.pixels.toLocaleString()} ${state.shown.head ? "voxels" : "pixels"}`;
    entry.querySelector("label").style.setProperty("--share", `${100 * one.share}%`);
    const box = entry.querySelector("input");
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](one.index);
      paint();
    });
    entry.addEventListener("pointerenter", () => light(one.index));
    entry.addEventListener("pointerleave", () => light(null));
    return entry;
  });
  $("classes").replaceChildren(...entries);
}

function light(index) {
  state.lit = index;
  paint();
}

function toggleAll(shown) {
  for (const box of $("classes").querySelectorAll("input")) box.checked = shown;
  state.hidden = new Set(shown ? [] : state.shown.classes.map((one) => one.index));
  paint();
}

function split() {
  $("view").style.setProperty("--split", `${$("split").value}%`);
  $("view").classList.toggle("whole", $("split").value < 2);
}

// Shows the class under the pointer as a label in the corner.
function point(event) {
  if (!state.shown || state.shown.viewer) return;
  const { width, height, classes, indices } = state.shown;
  const box = $("picture").getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * height);
  const inside = x >= 0 && y >= 0 && x < width && y < height;
  const index = inside ? indices[y * width + x] : undefined;
  $("here").textContent = classes.find((one) => one.index === index)?.name ?? "";
}

function save(blob, file, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${(file.name ?? "picture").replace(/(\.nii)?\.[^.]*$/i, "")}.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function saveMask() {
  try {
    const { file, mask, files } = state.shown;
    if (files) return saveFile(".nii.gz");
    save(await (await ask(mask, { method: "POST", body: file })).blob(), file, "mask.png");
  } catch (error) {
    complain(error.message);
  }
}

// Saves a file of a volume's mask, which came with the response.
function saveFile(suffix) {
  save(new Blob([state.shown.files[suffix]]), state.shown.file, `mask${suffix}`);
}

function saveOverlay() {
  const { file, width, height } = state.shown;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage($("picture"), 0, 0);
  context.globalAlpha = $("opacity").value / 100;
  context.drawImage($("mask"), 0, 0);
  canvas.convertToBlob({ type: "image/png" }).then((blob) => save(blob, file, "overlay.png"));
}

// Shows the state of the request, and the note of the server about the file. Without a note, an earlier note disappears.
function say(text, note = "") {
  $("status").textContent = text;
  $("note").textContent = note && `Note: ${note}`;
  $("note").hidden = !note;
  $("error").hidden = true;
}

function complain(text) {
  $("error").textContent = text;
  $("error").hidden = false;
  $("busy").hidden = true;
}

function describe() {
  const model = modelOf($("model").value);
  if (!model) return;
  const score = model.scores?.val?.miou;
  const measured = score ? ` · val mIoU ${score.toFixed(3)}` : "";
  $("about").textContent = `${model.architecture}, ${model.backbone} · ${model.classes.length} classes${measured} · ${model.engine}, ${model.precision}`;
  const words = WORDS[model.planes.length ? "volumes" : "pictures"];
  $("file").accept = words.accept;
  for (const [id, text] of [["choose", words.choose], ["drop-words", words.drop], ["another", words.another], ["save-mask", words.mask], ["mirrored", words.mirrored]]) {
    $(id).textContent = text;
  }
  $("crf").querySelector("[value=model]").disabled = !model.crf;
  if ($("crf").selectedOptions[0].disabled) $("crf").value = "";
}

async function fetchModels(signal) {
  state.models = (await (await ask("v1/models", { signal })).json()).models;
  describe();
}

// Fetches the models and returns whether that succeeded.
async function start() {
  try {
    await fetchModels();
  } catch (error) {
    complain(error.message);
    return false;
  }
  $("model").replaceChildren(...state.models.map((model) => new Option(model.name, model.name)));
  describe();
  return true;
}

function take(files) {
  const file = [...(files ?? [])][0];
  $("file").value = ""; // so that the same file can be chosen again
  if (file) show(file);
}

$("file").addEventListener("change", () => take($("file").files));
for (const id of ["model", "flip", "scales", "crf"]) $(id).addEventListener("change", () => (describe(), refresh()));
$("opacity").addEventListener("input", () => {
  if (state.shown?.viewer) state.shown.viewer.draw();
  else $("mask").style.opacity = $("opacity").value / 100;
});
$("split").addEventListener("input", split);
$("view").addEventListener("pointermove", point);
$("view").addEventListener("pointerleave", () => ($("here").textContent = ""));
$("all").addEventListener("click", () => toggleAll(true));
$("none").addEventListener("click", () => toggleAll(false));
$("save-mask").addEventListener("click", saveMask);
$("save-seg").addEventListener("click", () => saveFile(".dcm"));
$("save-overlay").addEventListener("click", saveOverlay);
$("another").addEventListener("click", () => $("file").click());
addEventListener("paste", (event) => take(event.clipboardData?.files));
addEventListener("dragover", (event) => (event.preventDefault(), document.body.classList.add("dragging")));
addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  take(event.dataTransfer?.files);
});
split();
start();

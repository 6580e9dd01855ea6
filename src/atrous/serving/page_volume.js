// The part of the page at / for volumes: the scan in three planes, with the mask over it.
import { fill, showVolume, sliceOf, unpack } from "./volume_view.js";

// The texts of the page for a model of pictures and for a model of volumes.
export const WORDS = {
  pictures: {
    accept: "image/*", choose: "Choose a picture", another: "Another picture", mask: "Download mask", mirrored: "picture",
    drop: "or drop it here, or paste it. It is sent only to this server.",
  },
  volumes: {
    accept: ".nii,.gz,.zip", choose: "Choose a volume", another: "Another volume", mask: "Download mask (NIfTI)", mirrored: "slices",
    drop: "or drop it here: a NIfTI file (.nii or .nii.gz), or a zip of a DICOM series. It is sent only to this server, which does not store it.",
  },
};

// Reads the server's response with format=view: the scan, the mask, and the files of the mask by file name suffix.
export async function readVolume(answer) {
  const { head, parts } = await unpack(await answer.blob());
  const [scan, indices, ...contents] = parts;
  const files = Object.fromEntries(head.files.map((suffix, number) => [suffix, contents[number]]));
  return { head, scan, indices, files };
}

// Shows a volume; look() returns the colours and the opacity of the mask. If the volume shown before has the same size, the
// new volume is shown at the same slices.
export function drawVolume(root, volume, before, look) {
  const { head, scan, indices } = volume;
  const overlay = (context, plane, index) => {
    const { colors, opacity } = look();
    context.globalAlpha = opacity;
    fill(context, sliceOf(indices, head.shape, plane, index), colors);
    context.globalAlpha = 1;
  };
  const same = before?.head.shape.join() === head.shape.join();
  return showVolume(root, head, scan, { overlay, point: same ? before.viewer.point() : undefined, wheel: true });
}

// Returns the size of a volume as text, and the share of its voxels that the page shows.
export function sizeOf({ full, step }) {
  const thinned = step.some((by) => by > 1);
  return `${full.join("×")} voxels${thinned ? ` (the page shows one of ${step.join("×")} voxels; the downloaded mask has all)` : ""}`;
}

// Returns the volume of a number of shown voxels as text, in millilitres.
export function millilitres(voxels, { spacing, step }) {
  const amount = (voxels * spacing.reduce((product, side) => product * side)) / 1000;
  const digits = amount < 10 ? 2 : amount < 100 ? 1 : 0;
  return `${step.some((by) => by > 1) ? "about " : ""}${amount.toFixed(digits)} ml`;
}

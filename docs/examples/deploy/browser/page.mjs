// The page: a photograph into `model.onnx`, its class and its groups of patches out. Nothing leaves the browser.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { borders, grid, meanColours, tensorOf } from "./groups.mjs";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need a server that isolates the page

const photo = document.getElementById("photo");
const groups = document.getElementById("groups");
const say = (text) => (document.getElementById("said").textContent = text);
const SHOWN = 448; // pixels of the drawn groups, so that borders are thin

async function show(session, bitmap) {
  const [, , height, width] = session.inputMetadata[0].shape;
  Object.assign(photo, { width, height });
  const brush = photo.getContext("2d", { willReadFrequently: true });
  brush.drawImage(bitmap, 0, 0, width, height);
  const { data } = brush.getImageData(0, 0, width, height);

  const images = new ort.Tensor("float32", tensorOf(data), [1, 3, height, width]);
  const start = performance.now();
  const { logits, assignment } = await session.run({ [session.inputNames[0]]: images });
  const taken = performance.now() - start;
  if (!assignment) throw new Error("model.onnx must be exported with --with-plans and a merger that assigns tokens");

  const tokens = Array.from(assignment.data, Number);
  draw(meanColours(data, width, grid(tokens, width, height)), width, height, grid(tokens, width, height));
  const best = logits.data.indexOf(Math.max(...logits.data));
  const left = new Set(tokens.filter((token) => token >= 0)).size;
  say(`Class ${best}. ${tokens.length} tokens became ${left}. ${taken.toFixed(0)} ms.`);
  return { logits: Array.from(logits.data), assignment: tokens, best, left };
}

function draw(colours, width, height, cells) {
  Object.assign(groups, { width: SHOWN, height: Math.round((SHOWN * height) / width) });
  const brush = groups.getContext("2d");
  brush.scale(SHOWN / width, SHOWN / width);
  for (const [index, { x, y, side }] of cells.patches.entries()) {
    brush.fillStyle = colours[index];
    brush.fillRect(x, y, side, side);
  }
  brush.strokeStyle = "white";
  brush.lineWidth = (1.5 * width) / SHOWN;
  brush.beginPath();
  for (const [x, y, toX, toY] of borders(cells)) {
    brush.moveTo(x, y);
    brush.lineTo(toX, toY);
  }
  brush.stroke();
}

async function bitmapOf(address) {
  const answer = await fetch(address);
  return answer.ok ? createImageBitmap(await answer.blob()) : null;
}

try {
  const session = await ort.InferenceSession.create("model.onnx");
  const shown = async (bitmap) => (window.result = await show(session, bitmap));
  const first = await bitmapOf("photo.png");
  if (first) await shown(first);
  else say("Choose a photograph.");
  document.getElementById("file").addEventListener("change", async ({ target }) => {
    if (target.files[0]) await shown(await createImageBitmap(target.files[0]));
  });
} catch (error) {
  window.failure = String(error);
  say(window.failure);
}

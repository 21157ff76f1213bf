// Draws previews of pictures that are being rendered: those that the events of a render bring, or, on a page without
// events, those that it asks for. Without it, the page shows how far each picture is.
"use strict";

const ASKED_MS = 1000; // between two questions
const MOST_ASKED = 4; // pictures that a page without events asks about at once
const MOST_KEPT = 64;
const drawn = new Map(); // of each picture the last preview, for the page that is put in place of this one

async function keep(job, step, steps, blob) {
  const bitmap = await createImageBitmap(blob);
  drawn.delete(job);
  drawn.set(job, { step, steps, bitmap });
  if (drawn.size > MOST_KEPT) drawn.delete(drawn.keys().next().value);
  draw();
}

function draw() {
  for (const canvas of document.querySelectorAll("canvas[data-preview]")) {
    const last = drawn.get(canvas.dataset.preview);
    if (!last) continue;
    canvas.width = last.bitmap.width;
    canvas.height = last.bitmap.height;
    canvas.getContext("2d").drawImage(last.bitmap, 0, 0);
    canvas.setAttribute("aria-label", `Preview after step ${last.step} of ${last.steps}`);
    canvas.hidden = false;
  }
}

// Of the stream that live.js has opened.
document.addEventListener("farm:events", (opened) => {
  opened.detail.addEventListener("preview", (event) => {
    const told = JSON.parse(event.data);
    if (!told.b64_json) return;
    const bytes = Uint8Array.from(atob(told.b64_json), (one) => one.charCodeAt(0));
    keep(told.id, told.step, told.steps, new Blob([bytes], { type: told.media_type }));
  });
});

function inSight(canvas) {
  const box = canvas.parentElement.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}

async function ask() {
  const asked = document.hidden ? [] : [...document.querySelectorAll("canvas[data-ask]")].filter(inSight);
  await Promise.all(asked.slice(0, MOST_ASKED).map(async (canvas) => {
    const answer = await fetch(canvas.dataset.ask);
    if (answer.status === 200) {
      const step = answer.headers.get("Preview-Step"), steps = answer.headers.get("Preview-Steps");
      await keep(canvas.dataset.preview, step, steps, await answer.blob());
    } else if (!answer.headers.get("Retry-After")) {
      // It is finished, or its model has no previews.
      for (const one of document.querySelectorAll("canvas[data-ask]")) {
        if (one.dataset.ask === canvas.dataset.ask) one.removeAttribute("data-ask");
      }
    }
  })).catch(() => {});
  setTimeout(ask, ASKED_MS);
}

// A part of the page was put in place of another: what was drawn there is gone.
document.addEventListener("htmx:afterSwap", draw);
ask();

// Keeps what is shown up to date: by the server-sent events of a render, or by asking again; and copies text.
// Without it, pages are read and forms are sent all the same.
"use strict";

const LEAST_MS = 1000; // between two looks, however many events come
let timer = null;
let looked = 0;
let stream = null;
let followed;

function live() {
  return document.getElementById("live");
}

// Somebody is about to press something in there that would be gone.
function busy() {
  return Boolean(live()?.querySelector("details.sure[open]"));
}

function look() {
  timer = null;
  const shown = live();
  if (!shown || document.hidden) return;
  if (busy()) {
    timer = setTimeout(look, LEAST_MS);
    return;
  }
  looked = Date.now();
  const before = shown.dataset.says;
  htmx.ajax("GET", location.pathname + location.search, { target: "#live", select: "#live", swap: "outerHTML" })
    .then(() => {
      const now = live();
      if (now && now.dataset.says !== before) document.getElementById("announced").textContent = now.dataset.says || "";
      follow();
      plan(now);
    }, () => plan(live()));
}

function plan(shown) {
  if (shown && shown.dataset.every && timer === null) timer = setTimeout(look, Number(shown.dataset.every) * 1000);
}

function soon() {
  if (timer !== null) clearTimeout(timer);
  timer = setTimeout(look, Math.max(0, LEAST_MS - (Date.now() - looked)));
}

function follow() {
  const shown = live();
  const address = shown ? shown.dataset.events : undefined;
  if (address === followed) return;
  if (stream) stream.close();
  followed = address;
  stream = null;
  if (!address) return;
  // From now on: what is shown is as new as this.
  stream = new EventSource(address);
  document.dispatchEvent(new CustomEvent("farm:events", { detail: stream }));
  for (const kind of ["job.started", "job.done", "job.failed", "job.queued", "job.cancelled", "render.cancelled",
    "render.retried", "render.finished"]) stream.addEventListener(kind, soon);
  stream.addEventListener("progress", (event) => {
    const told = JSON.parse(event.data);
    for (const bar of document.querySelectorAll("progress[data-job]")) {
      if (bar.dataset.job in told.jobs) bar.value = told.jobs[bar.dataset.job];
    }
    if (live() && !live().dataset.says.endsWith(": " + told.state)) soon();
  });
  // Closed for good: it is finished, or the login has ended, and a look tells which.
  stream.addEventListener("error", () => {
    if (stream && stream.readyState === EventSource.CLOSED) soon();
  });
}

document.addEventListener("htmx:beforeSwap", (event) => {
  if (busy()) {
    event.detail.shouldSwap = false;
    soon();
  }
});

// A browser has six connections to a host: pages that nobody looks at need none.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    if (stream) stream.close();
    stream = null;
    followed = undefined;
  } else {
    follow();
    soon();
  }
});

// A page that the back button brings back shows what was true then.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

function copying() {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    if (!navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
}

follow();
plan(live());
copying();

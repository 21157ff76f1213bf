// Keeps what is shown up to date: the farm's server-sent events, or a render's, say when to look again; and copies text.
// Without it, pages are read and forms are sent all the same.
"use strict";

const LEAST_MS = 400; // between two looks, however many events come
const CALM_MS = 1500; // between two looks for what changes nothing here but a number
const CHOOSING_MS = 15000; // after which whoever has left something open is shown what is new
const ONCE_MS = 5000; // in which a form is sent once, however often its button is pressed
const LOOKS_SHARE = 0.33; // of the time: a farm that answers slowly is not asked as often
const KINDS = ["reset", "render", "render.deleted", "worker", "worker.gone", "backlog", "job.started", "job.done",
  "job.failed", "job.queued", "job.cancelled", "render.cancelled", "render.held", "render.released", "render.retried",
  "render.finished"];
let touched = -Infinity;
let before = null; // what a part that is put in place of another must not lose
let timer = null;
let due = Infinity; // when an event has it looked
let looking = false;
let again = null; // after how long to look once more, for what has come while it was looked
let calls = null; // of what has come since: the number of an event; empty: something that has none
let looked = 0;
let took = 0;
let stream = null;
let followed;

function live() {
  return document.getElementById("live");
}

// Somebody is about to press something in there that would be gone, chooses from a list that would close, or marks text.
function busy() {
  const shown = live();
  if (!shown) return false;
  if (shown.querySelector("details.sure[open]")) return true;
  const marked = getSelection();
  const marks = !marked.isCollapsed && shown.contains(marked.anchorNode);
  return Date.now() - touched < CHOOSING_MS && (marks || document.activeElement.matches("#live select"));
}

for (const kind of ["focusin", "change", "keydown", "pointerdown", "selectionchange"]) {
  document.addEventListener(kind, (event) => {
    if (kind === "selectionchange" || event.target.closest?.("#live select")) touched = Date.now();
  });
}

function nameOf(one) {
  return one.id || [one.tagName, one.getAttribute("href"), one.getAttribute("aria-label"),
    one.form?.getAttribute("action"), one.textContent].join(" ");
}

// Where the keyboard is, what is chosen and not sent yet, how far tables are scrolled.
function remembered() {
  const shown = live();
  const chosen = [...shown.querySelectorAll("select")].map((one) => [one.id, one.value,
    [...one.options].find((option) => option.defaultSelected)?.value]);
  return {
    at: shown.contains(document.activeElement) ? nameOf(document.activeElement) : null,
    chosen: chosen.filter(([, value, before]) => value !== before),
    scrolled: [...shown.querySelectorAll(".wide, .text")].map((one) => [one.scrollLeft, one.scrollTop]),
  };
}

function restore(before) {
  const shown = live();
  if (!shown) return;
  for (const [id, value] of before.chosen) {
    const select = shown.querySelector("#" + CSS.escape(id));
    if (select) select.value = value;
  }
  [...shown.querySelectorAll(".wide, .text")].forEach((one, at) => {
    if (before.scrolled[at]) [one.scrollLeft, one.scrollTop] = before.scrolled[at];
  });
  if (before.at === null || shown.contains(document.activeElement)) return;
  const all = [...shown.querySelectorAll("a, button, summary, select, input, [tabindex]")];
  all.find((one) => nameOf(one) === before.at)?.focus({ preventScroll: true });
}

function look() {
  timer = null;
  due = Infinity;
  const shown = live();
  if (!shown || document.hidden || looking) return;
  if (busy()) {
    timer = setTimeout(look, LEAST_MS);
    return;
  }
  const said = shown.dataset.says;
  const called = calls;
  calls = null;
  const began = Date.now();
  looking = true;
  again = null;
  // At the first address, programs get something else.
  const headers = { Accept: "text/html" };
  // What all open pages are called by is looked at once for all of them.
  if (called) headers["Farm-Event"] = called;
  htmx.ajax("GET", location.pathname + location.search, { target: "#live", select: "#live", swap: "outerHTML", headers })
    .then(() => {
      const now = live();
      if (now && now.dataset.says !== said) document.getElementById("announced").textContent = now.dataset.says || "";
      follow();
    }, () => {}).then(() => {
      looking = false;
      looked = Date.now();
      took = looked - began;
      again === null ? plan() : soon(calls ?? "", again);
    });
}

function soon(call = "", least = LEAST_MS) {
  calls = calls === "" ? "" : call;
  if (looking) {
    again = Math.min(again ?? least, least);
    return;
  }
  const at = Math.max(Date.now(), looked + Math.max(least, took / LOOKS_SHARE));
  if (timer !== null && at >= due) return;
  clearTimeout(timer);
  due = at;
  timer = setTimeout(look, at - Date.now());
}

// Pictures that are not in sight here, and renders in a list, change a number: fifty open pages need not ask for each.
function leastOf(event) {
  // Of a list that is narrowed, what is not in it yet may be next.
  const narrowed = [...new URLSearchParams(location.search).keys()].some((name) => name !== "after");
  if (narrowed || event.type === "reset" || event.type.startsWith("render.")) return LEAST_MS;
  const unfinished = ":is(.queued, .held, .running)";
  const tile = event.type.startsWith("job.") ? "#p-" + JSON.parse(event.data).index + " " : ".tiles ";
  return live().querySelector(tile + unfinished) ? LEAST_MS : CALM_MS;
}

// Where no events come, it is looked now and then, and asked for events once more.
function plan() {
  const every = live()?.dataset.every;
  if (!every || timer !== null || (stream && stream.readyState !== EventSource.CLOSED)) return;
  timer = setTimeout(() => {
    followed = undefined;
    calls = "";
    look();
  }, Number(every) * 1000);
}

// Of the whole farm's events, a render's page needs its own.
function concerns(event) {
  const own = live()?.dataset.of;
  return !own || event.type === "reset" || JSON.parse(event.data).id === own;
}

function follow() {
  const told = live()?.dataset.events;
  // Where it goes on is another place after each look, and known to the stream that is open.
  const address = told?.replace(/([?&])after=[^&]*/, "$1");
  if (address === followed) return;
  if (stream) stream.close();
  followed = address;
  stream = null;
  if (!told) return;
  stream = new EventSource(told);
  document.dispatchEvent(new CustomEvent("farm:events", { detail: stream }));
  for (const kind of KINDS) {
    stream.addEventListener(kind, (event) => {
      if (concerns(event)) soon(event.lastEventId, live() ? leastOf(event) : LEAST_MS);
    });
  }
  stream.addEventListener("progress", (event) => {
    const progress = JSON.parse(event.data);
    for (const bar of document.querySelectorAll("progress[data-job]")) {
      if (bar.dataset.job in progress.jobs) bar.value = progress.jobs[bar.dataset.job];
    }
    if (live() && !live().dataset.says.endsWith(": " + progress.state)) soon();
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
  } else if (live()) {
    before = remembered();
  }
});

// At once, not once it has settled: whoever sends a form in between would send what is chosen no more.
document.addEventListener("htmx:afterSwap", () => {
  if (before) restore(before);
  before = null;
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (Date.now() - Number(form.dataset.sent ?? 0) < ONCE_MS) event.preventDefault();
  else form.dataset.sent = Date.now();
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

// A picture whose file is gone from the store, or that cannot be had now, is a word.
function missing(image) {
  const large = image.closest(".large > a");
  const word = document.createElement(large ? "p" : "span");
  word.className = "noimage missing";
  word.textContent = large
    ? "The picture’s file is damaged in the store, or cannot be had now. “Again, with its seed” makes it once more."
    : "cannot be shown";
  (large ?? image).replaceWith(word);
}

document.addEventListener("error", (event) => {
  if (event.target.tagName === "IMG") missing(event.target);
}, true);

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

// What failed before anybody listened; those that are not asked for yet are not complete.
for (const image of document.querySelectorAll("img")) if (image.complete && !image.naturalWidth) missing(image);
follow();
plan();
copying();

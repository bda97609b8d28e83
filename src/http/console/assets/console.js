// The console's own script. Every page is complete without it: it keeps the regions marked data-live current, counts selections,
// and copies what is shown once.
"use strict";

(() => {
  const PAUSE_MS = 1000;
  const TICK_MS = 15000;

  const live = document.getElementById("live");
  const say = (text, good) => {
    if (!live) return;
    live.hidden = false;
    live.textContent = text;
    live.className = good ? "live good" : "live warn";
  };

  // ------------------------------------------------------------ times

  const span = (ms) => {
    if (ms < 60000) return Math.floor(ms / 1000) + " s";
    if (ms < 3600000) return Math.floor(ms / 60000) + " min";
    if (ms < 86400000) return Math.floor(ms / 3600000) + " h";
    return Math.floor(ms / 86400000) + " d";
  };
  const tick = () => {
    const now = Date.now();
    for (const time of document.querySelectorAll("time[data-ms]")) {
      const at = Number(time.dataset.ms);
      const apart = Math.abs(now - at);
      const text = apart < 5000 ? (at > now ? "now" : "just now") : at > now ? "in " + span(apart) : span(apart) + " ago";
      if (time.textContent !== text) time.textContent = text;
    }
  };
  setInterval(tick, TICK_MS);

  // ------------------------------------------------------------ regions that follow the feed

  const regions = () => [...document.querySelectorAll("[data-live][id]")];
  const wanted = new Set();
  let fetching = false;
  let timer = 0;
  let last = 0;

  const concerns = (region, entry) => {
    if (region.dataset.device && entry.device_id !== region.dataset.device) return false;
    const word = entry.kind.split(".")[0];
    return region.dataset.live.split(" ").some((kind) => kind === "*" || kind === word);
  };

  // What somebody is in the middle of is left alone; ticks in boxes are kept.
  const busy = (region) => {
    const focus = document.activeElement;
    return focus && region.contains(focus) && /^(INPUT|TEXTAREA|SELECT)$/.test(focus.tagName) && focus.type !== "checkbox";
  };
  // A list that grows at its top gets its new lines alone: who has the page read aloud is not told everything again.
  const key = (line) => (line.querySelector("time")?.dataset.ms ?? "") + line.lastElementChild?.textContent;
  const grow = (old, fresh) => {
    const first = old?.firstElementChild && key(old.firstElementChild);
    const lines = [...(fresh?.children ?? [])];
    const at = first ? lines.findIndex((line) => key(line) === first) : -1;
    if (at < 0) return false;
    old.prepend(...lines.slice(0, at));
    while (old.children.length > lines.length) old.lastElementChild.remove();
    return true;
  };
  const swap = (old, fresh) => {
    if (busy(old)) return;
    if (grow(old.querySelector(":scope > ol.feed"), fresh.querySelector(":scope > ol.feed"))) return;
    const ticked = new Set([...old.querySelectorAll("input[type=checkbox]:checked")].map((box) => box.name + "=" + box.value));
    const open = new Set([...old.querySelectorAll("details[open][id]")].map((one) => one.id));
    const focus = document.activeElement && old.contains(document.activeElement) ? document.activeElement.id : "";
    old.replaceChildren(...fresh.childNodes);
    for (const box of old.querySelectorAll("input[type=checkbox]")) box.checked = ticked.has(box.name + "=" + box.value);
    for (const one of old.querySelectorAll("details[id]")) one.open = one.open || open.has(one.id);
    if (focus) document.getElementById(focus)?.focus();
  };

  const refresh = async () => {
    timer = 0;
    fetching = true;
    last = Date.now();
    const ids = [...wanted];
    wanted.clear();
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", headers: { "x-live": "1" } });
      if (answer.redirected && new URL(answer.url).pathname === "/sign-in") {
        location.reload();
        return;
      }
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const id of ids) {
          const old = document.getElementById(id);
          const region = fresh.getElementById(id);
          if (old && region) swap(old, region);
        }
        count();
        tick();
      }
    } catch {
      ids.forEach((id) => wanted.add(id));
    } finally {
      fetching = false;
      if (wanted.size) schedule();
    }
  };
  const schedule = () => {
    if (timer || fetching || document.hidden) return;
    timer = setTimeout(refresh, Math.max(0, last + PAUSE_MS - Date.now()));
  };

  if (regions().length && window.EventSource) {
    const stream = new EventSource("/live");
    // What happened between the page's making and this greeting was heard by nobody: everything is looked at once more.
    stream.addEventListener("hello", () => {
      say("live", true);
      regions().forEach((region) => wanted.add(region.id));
      schedule();
    });
    stream.addEventListener("entry", (event) => {
      const entry = JSON.parse(event.data);
      for (const region of regions()) if (concerns(region, entry)) wanted.add(region.id);
      if (wanted.size) schedule();
    });
    stream.onerror = () => say("not live", false);
    document.addEventListener("visibilitychange", () => wanted.size && schedule());
  }

  // ------------------------------------------------------------ selections

  const boxes = () => [...document.querySelectorAll("input[type=checkbox][data-row]")];
  const count = () => {
    const all = boxes();
    const ticked = all.filter((box) => box.checked).length;
    for (const note of document.querySelectorAll("[data-selected]")) note.textContent = ticked === 1 ? "1 selected" : ticked + " selected";
    for (const box of document.querySelectorAll("input[type=checkbox][data-all]")) {
      box.hidden = false;
      box.checked = all.length > 0 && ticked === all.length;
      box.indeterminate = ticked > 0 && ticked < all.length;
    }
  };
  document.addEventListener("change", (event) => {
    if (event.target.matches?.("input[data-all]")) boxes().forEach((box) => { box.checked = event.target.checked; });
    if (event.target.matches?.("input[data-all], input[data-row]")) count();
    if (event.target.matches?.("select[data-go]")) event.target.form.requestSubmit();
  });
  count();

  // ------------------------------------------------------------ copying

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("button[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    await navigator.clipboard.writeText(source.value ?? source.textContent);
    button.textContent = "Copied";
  });
  for (const button of document.querySelectorAll("button[data-copy]")) button.hidden = !navigator.clipboard;
})();

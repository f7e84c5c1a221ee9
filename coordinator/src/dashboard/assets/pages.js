// Keeps the pages up to date, and lets the keyboard lead through them. Everything works without it, but slower.
"use strict";

(() => {
  const root = document.documentElement;
  const every = Number(root.dataset.refresh);
  const regions = () => document.querySelectorAll("[data-live]");
  let paused = false;
  let looking = false;

  // What was done is told once, not again when the page is looked at again.
  const here = new URL(location.href);
  if (here.searchParams.has("done")) {
    here.searchParams.delete("done");
    history.replaceState(null, "", here);
  }

  // ---- Looking again ----

  async function look() {
    if (looking) return;
    looking = true;
    try {
      const answer = await fetch(location.href, { redirect: "error" });
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const region of regions()) {
        const other = fresh.getElementById(region.id);
        if (other) replace(region, other);
      }
      document.body.classList.remove("stale");
    } catch {
      document.body.classList.add("stale");
    } finally {
      looking = false;
    }
  }

  // Puts what was found in the place of what was there, and leaves focus and scrolling where they were.
  function replace(region, other) {
    if (region.innerHTML === other.innerHTML || isInUse(region)) return;
    const focused = region.contains(document.activeElement) ? nameOf(document.activeElement) : null;
    const scrolled = [...region.querySelectorAll(".scroll, .chart, pre")].map((box) => box.scrollLeft);
    region.replaceChildren(...other.childNodes);
    region.querySelectorAll(".scroll, .chart, pre").forEach((box, at) => {
      box.scrollLeft = scrolled[at] ?? 0;
    });
    if (focused) find(region, focused)?.focus({ preventScroll: true });
  }

  // Somebody types there, or has marked something to copy.
  function isInUse(region) {
    const active = document.activeElement;
    if (region.contains(active) && active.matches("input, select, textarea")) return true;
    const selection = getSelection();
    return !selection.isCollapsed && region.contains(selection.anchorNode);
  }

  function nameOf(element) {
    const name = element.getAttribute("href") ?? element.getAttribute("aria-label") ?? element.id;
    return { tag: element.tagName, name };
  }

  function find(region, { tag, name }) {
    return [...region.querySelectorAll(tag)].find((element) => nameOf(element).name === name);
  }

  if (every > 0) {
    setInterval(() => {
      if (!paused && !document.hidden) look();
    }, every);
    document.addEventListener("visibilitychange", () => {
      if (!paused && !document.hidden) look();
    });
  }

  // ---- Buttons that only work with script ----

  const pauseButton = document.getElementById("pause");
  function pause() {
    paused = !paused;
    pauseButton?.setAttribute("aria-pressed", String(paused));
    if (pauseButton) pauseButton.textContent = paused ? "Go on" : "Pause";
  }
  if (pauseButton) {
    pauseButton.hidden = false;
    pauseButton.addEventListener("click", pause);
  }

  const themeButton = document.getElementById("theme");
  const isDark = () =>
    root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  function nameTheme() {
    themeButton.textContent = isDark() ? "Light" : "Dark";
  }
  function turnTheme() {
    const wanted = isDark() ? "light" : "dark";
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    if (wanted === system) delete root.dataset.theme;
    else root.dataset.theme = wanted;
    try {
      if (wanted === system) localStorage.removeItem("hivemesh-theme");
      else localStorage.setItem("hivemesh-theme", wanted);
    } catch {
      // It holds for this page then.
    }
    nameTheme();
  }
  themeButton.hidden = false;
  themeButton.addEventListener("click", turnTheme);
  nameTheme();

  // ---- Keys ----

  let goes = false;
  function goesNext() {
    goes = true;
    setTimeout(() => {
      goes = false;
    }, 1500);
  }

  // The first link of each row of the lists on the page.
  const rows = () =>
    [...document.querySelectorAll("main tbody tr")].map((row) => row.querySelector("a")).filter(Boolean);
  function step(by) {
    const links = rows();
    if (links.length === 0) return;
    const now = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
    const next = now < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(now + by, 0), links.length - 1);
    links[next].focus();
  }

  const follow = (selector) => document.querySelector(selector)?.click();
  const keys = {
    g: goesNext,
    j: () => step(1),
    k: () => step(-1),
    n: () => follow("a[rel=next]"),
    b: () => follow("a[rel=prev]"),
    r: look,
    p: pause,
    x: turnTheme,
    "/": () => document.querySelector("[data-filter]")?.focus(),
    "?": () => location.assign("/help"),
  };

  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input, select, textarea");
    if (typing && event.key === "Escape") event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const place = goes && document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
    goes = false;
    if (place) {
      event.preventDefault();
      place.click();
    } else if (Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  // ---- Events as they happen ----

  const list = document.querySelector("[data-stream]");
  if (list?.dataset.stream) follow_events(list);

  function follow_events(list) {
    const state = document.getElementById("stream-state");
    const source = new EventSource(list.dataset.stream);
    source.onopen = () => {
      state.textContent = "Live.";
    };
    source.onerror = () => {
      const isOver = source.readyState === EventSource.CLOSED;
      state.textContent = isOver ? "Not live: reload the page." : "Connecting again…";
    };
    source.onmessage = (message) => {
      if (!paused) add(list, message.data);
    };
    for (const topic of ["agent", "task", "scaling", "mesh"]) {
      source.addEventListener(topic, (message) => {
        if (!paused) add(list, message.data);
      });
    }
  }

  function add(list, data) {
    let told;
    try {
      told = JSON.parse(data);
    } catch {
      return;
    }
    if (!told?.topic || (list.dataset.topic && told.topic !== list.dataset.topic)) return;
    const row = document.createElement("tr");
    const when = document.createElement("time");
    when.dateTime = told.time ?? "";
    when.title = told.time ?? "";
    when.textContent = (told.time ?? "").slice(11, 19);
    cell(row, when);
    cell(row, `${told.topic} ${told.what}`);
    cell(row, link("/agents/", told.agent));
    cell(row, link("/tasks/", told.task));
    cell(row, told.kind);
    cell(row, told.detail).className = "words";
    const body = list.querySelector("tbody");
    body.prepend(row);
    while (body.rows.length > 200) body.lastElementChild.remove();
    list.querySelector(".empty").hidden = true;
  }

  function cell(row, content) {
    const cell = document.createElement("td");
    if (content) cell.append(content instanceof Node ? content : visible(content));
    row.append(cell);
    return cell;
  }

  function link(path, name) {
    if (!name) return null;
    const link = document.createElement("a");
    link.href = path + encodeURIComponent(name);
    link.textContent = visible(name);
    return link;
  }

  // As the pages themselves show it: what hides or turns text is written out.
  const control = "\\u0000-\\u0008\\u000a-\\u001f\\u007f-\\u009f";
  const hiding = "\\u00ad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb";
  const deceiving = new RegExp(`[${control}${hiding}\\u{e0000}-\\u{e007f}]`, "gu");
  function visible(text) {
    return String(text).replace(deceiving, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
  }
})();

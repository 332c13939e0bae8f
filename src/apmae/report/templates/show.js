"use strict";
(() => {
  // Tokens and names are strangers' text: they enter the page as textContent only.
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const count = data.labels.length;
  const viewer = $("viewer"), plot = $("plot"), canvas = $("canvas");
  const longest = Math.max(...data.labels.map((text) => text.length)) + String(count).length + 2;
  const labelRoom = Math.round(longest * 6.7) + 8; // pixels; a character of the axes' font is 6.6 wide
  $("grid").style.setProperty("--labels", labelRoom + "px");
  let current = -1, codes = null, at = null, cell = 1;

  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const palette = bytes(data.colors); // 255 x RGB
  const index = (query, key) => (data.causal ? (query * (query + 1)) / 2 + key : query * count + key);
  const code = (query, key) => (data.causal && key > query ? 0 : codes[index(query, key)]);
  const log10 = (stored) => (data.lowest * (65535 - stored)) / 65534;
  const probability = (stored) => (stored ? 10 ** log10(stored) : 0);
  const shade = (stored, scale) => (scale === "linear" ? probability(stored) : Math.max(0, 1 + log10(stored) / data.decades));
  const scale = () => document.querySelector("input[name=scale]:checked").value;

  function number(stored) {
    if (!stored) return "0";
    const p = probability(stored);
    return stored === 1 ? "\u2264 1e" + data.lowest : p >= 1e-3 ? p.toPrecision(3) : p.toExponential(2);
  }

  function element(kind, text, parent) {
    const made = document.createElement(kind);
    made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  const spans = data.tokens.map((text, i) => {
    const span = element("span", text, $("tokens"));
    span.dataset.token = i;
    return span;
  });

  function paint() {
    const image = new ImageData(count, count), kind = scale();
    for (let query = 0; query < count; query++) {
      for (let key = 0; key < (data.causal ? query + 1 : count); key++) {
        const stored = codes[index(query, key)];
        if (!stored) continue;
        const color = 3 * Math.round(shade(stored, kind) * 254);
        image.data.set([palette[color], palette[color + 1], palette[color + 2], 255], 4 * (query * count + key));
      }
    }
    canvas.width = canvas.height = count;
    canvas.getContext("2d").putImageData(image, 0, 0);
    const ramp = $("ramp").getContext("2d"), strip = new ImageData(1, 255);
    for (let i = 0; i < 255; i++) strip.data.set([...palette.subarray(3 * (254 - i), 3 * (254 - i) + 3), 255], 4 * i);
    ramp.putImageData(strip, 0, 0);
    $("ticks").replaceChildren();
    for (let i = 0; i <= 4; i++) {
      const share = i / 4;
      const text = kind === "linear" ? String(1 - share) : (i === 4 ? "\u2264 " : "") + String(10 ** (-data.decades * share));
      element("span", text, $("ticks")).style.top = 100 * share + "%";
    }
  }

  function axisLabel(parent, position, text) {
    const span = document.createElement("span"), down = parent.id === "queries";
    const place = element("i", String(position));
    span.append(...(down ? [text, " ", place] : [place, " ", text])); // the number next to the axis
    span.style[down ? "top" : "left"] = (position + 0.5) * cell + "px";
    parent.append(span);
    return span;
  }

  function layOut() {
    const inside = viewer.classList.contains("inline") ? document.body : viewer;
    const margin = labelRoom + 100, beside = inside.clientWidth > 900 ? 350 : 0;
    const side = Math.max(Math.min(inside.clientWidth - margin - beside, window.innerHeight - labelRoom - 140, 760), 200);
    cell = side / count < 4 ? side / count : Math.min(Math.floor(side / count), 36); // whole pixels if that costs little space
    for (const name of ["width", "height"]) plot.style[name] = cell * count + "px";
    $("queries").style.height = $("keys").style.width = $("ramp").style.height = $("ticks").style.height = cell * count + "px";
    const step = Math.max(Math.ceil(12 / cell), Math.ceil(count / 64));
    for (const axis of [$("queries"), $("keys")]) {
      axis.replaceChildren();
      for (let i = 0; i < count; i += step) axisLabel(axis, i, data.labels[i]);
    }
    if (at) point(...at);
  }

  function strongest(list, entries) {
    list.replaceChildren();
    entries.sort((a, b) => b[1] - a[1]);
    for (const [position, stored] of entries.filter((entry) => entry[1] > 1).slice(0, 5)) {
      const item = element("li", "", list);
      element("code", data.labels[position] + " ", item).append(element("small", String(position)));
      element("span", number(stored), item);
    }
  }

  function point(query, key) {
    if (!codes) return;
    at = [query, key];
    for (const [id, edge, size, position] of [["row", "top", "height", query], ["column", "left", "width", key]]) {
      $(id).hidden = false;
      $(id).style[edge] = position * cell + "px";
      $(id).style[size] = cell + "px";
    }
    for (const [id, position] of [["queries", query], ["keys", key]]) {
      document.querySelectorAll(`#${id} .here`).forEach((span) => span.remove());
      axisLabel($(id), position, data.labels[position]).classList.add("here");
    }
    const stored = code(query, key), readout = $("readout");
    readout.replaceChildren("query ");
    element("code", data.labels[query], readout);
    readout.append(` (${query}) \u2192 key `);
    element("code", data.labels[key], readout);
    readout.append(` (${key}): `);
    element("b", number(stored), readout);
    readout.append(stored > 1 ? `, log10 ${log10(stored).toFixed(3)}` : stored ? "" : ", no attention");
    chosen(query);
    spans.forEach((span, i) => {
      span.classList.toggle("query", i === query);
      span.classList.toggle("key", i === key);
    });
  }

  function chosen(token) {
    const row = [], column = [];
    for (let i = 0; i < count; i++) {
      row.push([i, code(token, i)]);
      column.push([i, code(i, token)]);
      spans[i].style.setProperty("--at", (0.85 * Math.sqrt(probability(row[i][1]))).toFixed(3));
      spans[i].style.setProperty("--by", Math.sqrt(probability(column[i][1])).toFixed(3));
    }
    strongest($("at"), row);
    strongest($("by"), column);
  }

  function open(number, modal) {
    current = number;
    const head = data.heads[number];
    codes = head.codes === null ? null : new Uint16Array(bytes(head.codes).buffer);
    $("head").textContent = `head ${head.layer}.${head.head}` + (head.name ? `: ${head.name}` : "");
    $("grid").hidden = codes === null;
    $("grid").style.display = codes === null ? "none" : "";
    document.querySelector(".side").style.visibility = codes === null ? "hidden" : "";
    $("without").hidden = codes !== null;
    if (modal && !viewer.open) {
      viewer.showModal();
      if (codes) plot.focus({ preventScroll: true });
    }
    if (codes) {
      paint();
      layOut();
    } else {
      $("small").src = document.querySelector(`[data-head="${number}"] img`).src;
      $("small").style.width = $("small").style.height = "384px";
      $("again").textContent = `--head ${head.layer}.${head.head}`;
    }
    history.replaceState(null, "", `#head-${head.layer}.${head.head}`);
  }

  function cellAt(event) {
    const box = plot.getBoundingClientRect();
    const within = (value) => Math.min(Math.max(Math.floor(value / cell), 0), count - 1);
    return [within(event.clientY - box.top), within(event.clientX - box.left)];
  }

  for (const kind of ["pointermove", "pointerdown"]) plot.addEventListener(kind, (event) => point(...cellAt(event)));
  plot.addEventListener("keydown", (event) => {
    const [query, key] = at || [count - 1, 0];
    const within = (value) => Math.min(Math.max(value, 0), count - 1);
    const moves = {
      ArrowUp: [query - 1, key], ArrowDown: [query + 1, key], ArrowLeft: [query, key - 1], ArrowRight: [query, key + 1],
      PageUp: [query - 10, key], PageDown: [query + 10, key], Home: [query, 0], End: [query, data.causal ? query : count - 1],
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    point(...(at ? moves[event.key] : [query, key]).map(within));
  });
  $("tokens").addEventListener("pointerover", (event) => {
    if (event.target.dataset.token) point(Number(event.target.dataset.token), Number(event.target.dataset.token));
  });
  document.querySelectorAll("input[name=scale]").forEach((input) => input.addEventListener("change", () => codes && paint()));
  document.querySelectorAll("[data-head]").forEach((button) =>
    button.addEventListener("click", () => open(Number(button.dataset.head), true)));
  const turn = (by) => open((current + by + data.heads.length) % data.heads.length, true);
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
  window.addEventListener("resize", () => codes && layOut());

  const asked = data.heads.findIndex((head) => location.hash === `#head-${head.layer}.${head.head}`);
  if (viewer.classList.contains("inline")) open(0, false);
  else if (asked >= 0) open(asked, true);
})();

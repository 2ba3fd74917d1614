"use strict";
// The map: dots on a canvas. The wheel or + and - zoom, dragging or the arrow keys move, pointing at a dot shows its text.
(() => {
  const block = document.getElementById("dots");
  if (!block) return;
  const data = JSON.parse(block.textContent), canvas = document.getElementById("map"), pen = canvas.getContext("2d");
  const tip = document.getElementById("tip"), legend = document.getElementById("legend"), colour = document.getElementById("colour"), find = document.getElementById("find");
  const [X, Y, LABEL, KIND, ROW, TEXT] = [0, 1, 2, 3, 4, 5];
  let view = { x: 0, y: 0, zoom: 1 }, hidden = new Set(), drag = null;
  const palette = (at) => `hsl(${(at * 137.5) % 360} ${at % 3 === 1 ? 45 : 68}% ${at % 2 ? 42 : 55}%)`;
  const marks = ["#d1345b", "#e07a00", "#2f6fde", "#7a3fc4", "#00897b", "#a0522d", "#c2185b", "#558b2f", "#455a64"];
  const by = () => Number(colour.value);
  const paint = (dot) => (by() === KIND ? (dot[KIND] < 0 ? "#9aa4ad" : marks[dot[KIND] % marks.length]) : dot[LABEL] < 0 ? "#9aa4ad" : palette(dot[LABEL]));
  const scale = () => (Math.min(canvas.clientWidth, canvas.clientHeight) / 2.15) * view.zoom;
  const at = (dot) => [canvas.clientWidth / 2 + (dot[X] - view.x) * scale() * 1.35, canvas.clientHeight / 2 + (dot[Y] - view.y) * scale()];

  function draw() {
    const ratio = window.devicePixelRatio || 1, wide = canvas.clientWidth, high = canvas.clientHeight;
    canvas.width = wide * ratio; canvas.height = high * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0); pen.clearRect(0, 0, wide, high);
    const wanted = find.value.trim().toLowerCase(), size = Math.min(7, 2.6 + view.zoom * 0.5);
    const order = [...data.dots].sort((a, b) => (a[KIND] >= 0) - (b[KIND] >= 0));
    for (const dot of order) {
      if (hidden.has(dot[by()])) continue;
      const [x, y] = at(dot);
      if (x < -9 || y < -9 || x > wide + 9 || y > high + 9) continue;
      const there = !wanted || dot[TEXT].toLowerCase().includes(wanted);
      pen.globalAlpha = !there ? 0.08 : by() === KIND && dot[KIND] < 0 ? 0.45 : 0.85;
      pen.fillStyle = paint(dot); pen.beginPath(); pen.arc(x, y, wanted && there ? size + 2 : size, 0, 7); pen.fill();
    }
    pen.globalAlpha = 1;
  }

  function key() {
    legend.replaceChildren();
    const names = by() === KIND ? [[-1, data.none], ...data.kinds.map((name, at) => [at, name])] : data.labels.slice(0, 60).map((name, at) => [at, name]);
    for (const [at, name] of names) {
      if (!data.dots.some((dot) => dot[by()] === at)) continue;
      const one = document.createElement("button"), mark = document.createElement("i");
      const dot = []; dot[LABEL] = at; dot[KIND] = at;
      mark.style.background = paint(dot); one.type = "button"; one.setAttribute("aria-pressed", String(!hidden.has(at)));
      one.append(mark, name);
      one.onclick = () => { hidden.has(at) ? hidden.delete(at) : hidden.add(at); one.setAttribute("aria-pressed", String(!hidden.has(at))); draw(); };
      legend.append(one);
    }
  }

  function show(event) {
    const box = canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    let best = null, least = 100;
    for (const dot of data.dots) {
      if (hidden.has(dot[by()])) continue;
      const [x, y] = at(dot), away = (x - px) ** 2 + (y - py) ** 2;
      if (away < least) { least = away; best = dot; }
    }
    tip.hidden = !best;
    if (!best) return;
    const head = document.createElement("b");
    head.textContent = `${best[ROW]}${best[LABEL] >= 0 ? " · " + data.labels[best[LABEL]] : ""}`;
    const more = document.createElement("div"), why = document.createElement("small");
    more.textContent = best[TEXT]; why.textContent = best[KIND] >= 0 ? data.kinds[best[KIND]] : "";
    tip.replaceChildren(head, more, why);
    tip.style.left = Math.min(px + 14, Math.max(0, box.width - tip.offsetWidth - 6)) + "px";
    tip.style.top = Math.min(py + 14, Math.max(0, box.height - tip.offsetHeight - 6)) + "px";
  }

  function zoom(factor, px, py) {
    const wide = canvas.clientWidth / 2, high = canvas.clientHeight / 2, before = scale();
    const wx = view.x + (px - wide) / (before * 1.35), wy = view.y + (py - high) / before;
    view.zoom = Math.min(60, Math.max(0.5, view.zoom * factor));
    view.x = wx - (px - wide) / (scale() * 1.35); view.y = wy - (py - high) / scale();
    draw();
  }

  canvas.addEventListener("wheel", (event) => { event.preventDefault(); const box = canvas.getBoundingClientRect(); zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top); }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => { drag = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { drag = null; });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return show(event);
    view.x -= (event.clientX - drag[0]) / (scale() * 1.35); view.y -= (event.clientY - drag[1]) / scale(); drag = [event.clientX, event.clientY];
    tip.hidden = true; draw();
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("keydown", (event) => {
    const step = 0.15 / view.zoom, moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; draw(); event.preventDefault(); }
    if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.3 : 1 / 1.3, canvas.clientWidth / 2, canvas.clientHeight / 2);
  });
  colour.onchange = () => { hidden = new Set(); key(); draw(); };
  find.oninput = draw;
  document.getElementById("whole").onclick = () => { view = { x: 0, y: 0, zoom: 1 }; draw(); };
  window.addEventListener("resize", draw);
  key(); draw();
})();

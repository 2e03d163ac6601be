// Draws the figures of a report with uPlot, from the JSON of the element "data" (pipeline/report/charts.py).
"use strict";
const get = id => document.getElementById(id);
const data = JSON.parse(get("data").textContent);
const several = data.runs.length > 1;
const shown = data.runs.map(() => true);
const folder = data.runs.map(run => run.name.slice(0, run.name.lastIndexOf("/") + 1));
const short = data.runs.map(run => folder.every(each => each === folder[0]) ? run.name.slice(folder[0].length) : run.name);
const DASHES = [[], [7, 4], [2, 3]], NEAR = 8, MOST_ROWS = 14;
const NAMES = {step: "step", tokens: "tokens", hours: "hours at work"};
let plots = []; // {plot, figure, owners}: of each series but the first, its run and whether it is a mean
let whole = [0, 1], zoom = null; // ranges of x, common to all figures

const colour = number => data.colours[number % data.colours.length];
const dash = number => DASHES[Math.floor(number / data.colours.length) % DASHES.length];
const element = (tag, text, kind) => Object.assign(document.createElement(tag), {textContent: text, className: kind || ""});

// Points ---------------------------------------------------------------------------------------------------------
function along(run, steps) { // x of these steps, as the reader has chosen it
  const by = get("by").value, {tokens_per_step: tokens, hours: [at, hours]} = data.runs[run];
  if (by === "step") return steps;
  if (by === "tokens") return steps.map(step => step * tokens);
  let place = 0;
  return steps.map(step => {
    if (!at.length) return null;
    while (place < at.length - 1 && at[place + 1] < step) place++;
    const next = Math.min(place + 1, at.length - 1), width = at[next] - at[place];
    const share = width ? Math.min(1, Math.max(0, (step - at[place]) / width)) : 0;
    return hours[place] + share * (hours[next] - hours[place]);
  });
}
function smoothed([steps, values], share) { // the mean of the points around each, gaps left out; null if that is itself
  const half = Math.floor(share * values.length / 2);
  if (half < 1) return null;
  const sums = [0], counts = [0];
  for (const value of values) {
    sums.push(sums.at(-1) + (value ?? 0));
    counts.push(counts.at(-1) + (value == null ? 0 : 1));
  }
  const mean = place => {
    const first = Math.max(0, place - half), last = Math.min(values.length, place + half + 1);
    return counts[last] > counts[first] ? (sums[last] - sums[first]) / (counts[last] - counts[first]) : null;
  };
  return [steps, values.map((_, place) => mean(place))];
}
function drawable(run, [steps, values]) {
  const logX = get("log-x").checked, logY = get("log-y").checked, x = along(run, steps);
  const kept = x.map((at, place) => at != null && !(logX && at <= 0) ? place : -1).filter(place => place >= 0);
  return [kept.map(place => x[place]), kept.map(place => logY && values[place] <= 0 ? null : values[place])];
}
function lines(figure) { // the series of a figure, each {run, mean, table}
  const share = get("smoothing").value / 100, found = [];
  figure.curves.forEach((curve, run) => {
    if (!curve[0].length) return;
    const averaged = figure.means[run]?.[0].length ? figure.means[run] : curve;
    const mean = figure.noisy && share ? smoothed(averaged, share) : null;
    found.push({run, mean: false, pale: Boolean(mean), table: drawable(run, curve)});
    if (mean) found.push({run, mean: true, pale: false, table: drawable(run, mean)});
  });
  return found.filter(line => line.table[0].length);
}

// Figures by step, tokens or hours ---------------------------------------------------------------------------------
function marks(run) { // [{x, text, skipped}] of a run
  const {skipped, restarts} = data.runs[run];
  const steps = [...restarts.map(step => [step, "restart"]), ...skipped.map(([step, why]) => [step, why, true])];
  steps.sort((one, other) => one[0] - other[0]);
  const x = along(run, steps.map(([step]) => step));
  return steps.map(([step, why, isSkip], place) => ({x: x[place], skipped: Boolean(isSkip),
    text: isSkip ? `step ${step.toLocaleString("en")}: update skipped, ${why}` : `restart after step ${step.toLocaleString("en")}`}));
}
function nearest(plot, number, x) { // the value of a series that is nearest to x
  const at = plot.data[0], values = plot.data[number], start = plot.valToIdx(x);
  for (let away = 0; away < at.length; away++)
    for (const place of [start - away, start + away]) if (values[place] != null) return values[place];
  return null;
}
function drawMarks(plot, figure, owners) {
  const {ctx, bbox} = plot, ratio = devicePixelRatio, size = 4.5 * ratio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  owners.forEach(({run, mean}, place) => {
    if (mean || !shown[run]) return;
    for (const mark of marks(run)) {
      const x = plot.valToPos(mark.x, "x", true);
      ctx.beginPath();
      if (!mark.skipped) {
        ctx.strokeStyle = several ? colour(run) : css("--soft");
        ctx.lineWidth = 1.5 * ratio;
        ctx.setLineDash([5 * ratio, 4 * ratio]);
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
      } else if (figure.noisy) {
        const value = nearest(plot, place + 1, mark.x);
        const y = value == null ? bbox.top + 3 * size : plot.valToPos(value, "y", true);
        ctx.strokeStyle = several ? colour(run) : css("--warn");
        ctx.lineWidth = 2.2 * ratio;
        ctx.setLineDash([]);
        for (const side of [-1, 1]) {
          ctx.moveTo(x - size, y - side * size);
          ctx.lineTo(x + size, y + side * size);
        }
      }
      ctx.stroke();
    }
  });
  ctx.restore();
}
function tell(plot, figure, owners, tip) { // shows the values under the cursor
  const {left, top, idx, idxs} = plot.cursor, rows = new Map();
  if (left == null || left < 0 || idx == null) { tip.hidden = true; return; }
  owners.forEach(({run, mean}, place) => {
    const at = idxs[place + 1];
    if (!shown[run] || at == null || plot.data[place + 1][at] == null) return;
    rows.set(run, {...rows.get(run), [mean ? "mean" : "value"]: plot.data[place + 1][at]});
  });
  const x = plot.posToVal(left, "x"), by = get("by").value;
  tip.replaceChildren(element("b", `${NAMES[by]} ${by === "hours" ? exact(x) : Math.round(x).toLocaleString("en")}`));
  const sorted = [...rows].sort(([, one], [, other]) => (one.mean ?? one.value) - (other.mean ?? other.value));
  for (const [run, {mean, value}] of sorted.slice(0, MOST_ROWS)) {
    const row = element("div", ""), name = element("span", several ? short[run] : figure.y);
    if (several) name.style.color = colour(run);
    row.append(name, element("b", mean == null ? exact(value) : value == null ? exact(mean) : `${exact(mean)} (${exact(value)})`));
    tip.append(row);
  }
  if (sorted.length > MOST_ROWS) tip.append(element("div", `and ${sorted.length - MOST_ROWS} more`));
  for (const run of new Set(owners.map(owner => owner.run)))
    for (const mark of shown[run] ? marks(run) : [])
      if (Math.abs(plot.valToPos(mark.x, "x") - left) < NEAR) tip.append(element("div", mark.text, "skipped"));
  tip.hidden = false;
  const flip = left > plot.over.clientWidth / 2;
  tip.style.left = flip ? "" : `${left + 14}px`;
  tip.style.right = flip ? `${plot.over.clientWidth - left + 14}px` : "";
  tip.style.top = `${Math.max(0, Math.min(top + 10, plot.over.clientHeight - tip.offsetHeight))}px`;
}
function draw(figure, drawn, place) {
  const logX = get("log-x").checked, logY = get("log-y").checked, tip = element("div", "", "tip");
  const options = {
    width: place.clientWidth, height: height(place.clientWidth), legend: {show: false},
    cursor: {drag: {x: true, y: false, setScale: false}, hover: {prox: 40}, points: {size: 7},
             bind: {dblclick: () => () => setZoom(null)}},
    scales: {x: {time: false, distr: logX ? 3 : 1, range: () => zoom || whole},
             y: logY ? {distr: 3, range: logRange} : {}},
    axes: axes(NAMES[get("by").value], figure.y, logX, logY),
    series: [{}, ...drawn.map(({run, mean, pale}) => ({
      stroke: colour(run), dash: dash(run), width: pale ? 1 : 1.8, alpha: pale ? 0.3 : 1, show: shown[run], spanGaps: mean,
      points: {show: pale || mean ? false : fewPoints, size: 6, fill: colour(run)},
    }))],
    hooks: {
      draw: [plot => drawMarks(plot, figure, drawn)],
      setCursor: [plot => tell(plot, figure, drawn, tip)],
      setSelect: [plot => {
        const {left, width} = plot.select;
        if (width > 3) setZoom([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
        plot.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
      }],
    },
  };
  const plot = new uPlot(options, uPlot.join(drawn.map(line => line.table)), place);
  tip.hidden = true;
  plot.over.append(tip);
  setTouch(plot, ([first, last]) => { // no further than the data go
    const range = [Math.max(first, whole[0]), Math.min(last, whole[1])];
    if (range[0] < range[1]) setZoom(range[0] > whole[0] || range[1] < whole[1] ? range : null);
  });
  plots.push({plot, figure, owners: drawn});
}
function setZoom(range) {
  zoom = range;
  for (const {plot} of plots) plot.setScale("x", {min: (zoom || whole)[0], max: (zoom || whole)[1]});
}
function redraw() { // all figures anew
  zoom = null;
  for (const {plot} of plots) plot.destroy();
  plots = [];
  get("share").value = get("smoothing").value > 0 ? `${get("smoothing").value} %` : "off";
  const drawn = data.figures.map(lines);
  const ends = drawn.flat().flatMap(({table: [x]}) => [x[0], x.at(-1)]);
  if (ends.length) whole = [ends.reduce((a, b) => Math.min(a, b)), ends.reduce((a, b) => Math.max(a, b))];
  if (!get("log-x").checked && whole[0] < 0.05 * whole[1]) whole[0] = 0;
  if (whole[0] === whole[1]) whole = get("log-x").checked ? [whole[0] / 2, whole[0] * 2] : [whole[0] - 1, whole[0] + 1];
  data.figures.forEach((figure, place) => draw(figure, drawn[place], get(`plot-${place}`)));
  drawAxes();
}

// A sweep's losses over each of its settings -------------------------------------------------------------------------
let overSettings = [];
function drawAxes() {
  for (const plot of overSettings) plot.destroy();
  overSettings = data.axes.map((figure, number) => {
    const place = get(`axis-${number}`), [low, high] = [figure.x[0], figure.x.at(-1)], pad = (high - low) * 0.06 || 0.5;
    const named = figure.categories.length > 0, values = [...new Set(figure.x)];
    const range = figure.logarithmic ? [low / 1.25, high * 1.25] : named ? [-0.5, values.length - 0.5] : [low - pad, high + pad];
    const more = values.length > 8 ? {} : {splits: () => values, filter: (plot, splits) => splits};
    if (named) more.values = (plot, splits) => splits.map(split => figure.categories[split] ?? "");
    else if (values.length <= 8) more.values = (plot, splits) => splits.map(split => String(split));
    return new uPlot({
      width: place.clientWidth, height: height(place.clientWidth),
      scales: {x: {time: false, distr: figure.logarithmic ? 3 : 1, range: () => range}, y: {}},
      axes: axes(figure.x_label, figure.y_label, figure.logarithmic, false, more),
      cursor: {drag: {x: false, y: false}},
      series: [{label: figure.x_label, value: (plot, value) => named ? figure.categories[value] ?? "–" : exact(value)},
        ...figure.lines.map(([label], line) => ({label, stroke: colour(line), dash: dash(line), width: 1.8, spanGaps: true,
          value: (plot, value) => exact(value), points: {show: true, size: 7, fill: colour(line)}}))],
    }, [figure.x, ...figure.lines.map(([, losses]) => losses)], place);
  });
}

// The page -----------------------------------------------------------------------------------------------------------
function frame(figure, id) {
  const whole = document.createElement("figure"), place = element("div", "", "plot");
  place.id = id;
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", figure.title);
  whole.append(element("figcaption", figure.title), place);
  return whole;
}
function runBoxes() {
  if (!several) return;
  data.runs.forEach((run, number) => {
    const label = document.createElement("label"), box = document.createElement("input");
    Object.assign(box, {type: "checkbox", checked: true, onchange: () => show(number, box.checked)});
    label.innerHTML = `<svg width="26" height="10"><path d="M0 5H26" stroke-width="3" stroke="${colour(number)}"
      stroke-dasharray="${dash(number).join(" ")}"/></svg>`;
    label.prepend(box);
    label.append(run.name);
    get("runs").append(label);
  });
  for (const [text, on] of [["all", true], ["none", false]]) {
    const button = Object.assign(element("button", text), {type: "button", onclick: () => {
      for (const box of get("runs").querySelectorAll("input")) if (box.checked !== on) box.click();
    }});
    if (data.runs.length > 3) get("runs").append(button);
  }
}
function show(run, on) {
  shown[run] = on;
  for (const {plot, owners} of plots)
    owners.forEach((owner, place) => { if (owner.run === run) plot.setSeries(place + 1, {show: on}); });
}
function resized() {
  for (const plot of [...plots.map(({plot}) => plot), ...overSettings]) {
    const width = plot.root.parentElement.clientWidth;
    if (width !== plot.width) plot.setSize({width, height: height(width)});
  }
  for (const table of document.querySelectorAll(".scroll"))
    table.classList.toggle("wide", table.scrollWidth > table.clientWidth + 1);
}
if (data.axes.length) {
  const grid = element("div", "", "grid");
  get("axes").append(element("h2", "Validation loss over each setting"), grid);
  data.axes.forEach((figure, number) => grid.append(frame(figure, `axis-${number}`)));
}
data.figures.forEach((figure, number) => get("plots").append(frame(figure, `plot-${number}`)));
get("curves").hidden = !data.figures.length;
if (!data.runs.some(run => run.hours[0].length)) get("by").querySelector("[value=hours]").remove();
runBoxes();
redraw();
resized();
for (const id of ["by", "log-x", "log-y", "smoothing"]) get(id).addEventListener("input", redraw);
get("reset").onclick = () => setZoom(null);
addEventListener("resize", resized);
addEventListener("toggle", resized, true);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.documentElement.dataset.drawn = plots.length;

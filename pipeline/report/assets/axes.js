// Numbers as text, and the axes of every figure.
"use strict";
const FONT = "12px system-ui, sans-serif", FEW = 60; // points, up to which each has a marker
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Numbers --------------------------------------------------------------------------------------------------------
function written(value, increment, most) {
  if (value == null) return "";
  if (value === 0) return "0";
  const isWhole = number => Math.abs(number - Math.round(number)) < 1e-6;
  const digits = unit => [0, 1, 2, 3, 4, 5].find(count => isWhole(increment / unit * 10 ** count)) ?? 6;
  for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (most >= 10 * unit || (most >= unit && unit > 1e3)) return (value / unit).toFixed(digits(unit)) + letter;
  if (most >= 1e3) return value.toLocaleString("en");
  if (most >= 1e-2) return value.toFixed(digits(1));
  return value.toExponential(digits(10 ** Math.floor(Math.log10(Math.abs(value)))));
}
const ticks = logarithmic => (plot, splits, axis, space, increment) => {
  if (logarithmic) return splits.map(value => value == null ? "" : written(value, Math.abs(value), Math.abs(value)));
  const most = Math.max(...splits.map(Math.abs));
  return splits.map(value => written(value, increment, most));
};
const exact = value => value == null ? "–" : Math.abs(value) >= 1e-2 || value === 0
  ? value.toLocaleString("en", {maximumFractionDigits: Math.abs(value) >= 100 ? 1 : 4}) : value.toExponential(3);

// Parts of every figure --------------------------------------------------------------------------------------------
const height = width => Math.round(Math.min(280, Math.max(210, width * 0.58)));
function axes(xLabel, yLabel, logX, logY, more = {}) {
  const common = {stroke: css("--soft"), font: FONT, labelFont: FONT, labelSize: 18, ticks: {stroke: css("--line"), size: 4},
                  grid: {stroke: css("--line"), width: 1}};
  const wide = (plot, values) => Math.max(42, ...(values || []).map(text => 7.2 * String(text).length + 18));
  const scale = logarithmic => logarithmic ? {splits: logSplits, filter: (plot, splits) => splits} : {};
  return [{...common, label: xLabel, values: ticks(logX), size: 32, space: 60, ...scale(logX), ...more},
          {...common, label: yLabel, values: ticks(logY), size: wide, space: 34, ...scale(logY)}];
}
const logRange = (plot, low, high) => low == null ? [1, 10] : [low / 1.1, high * 1.1];
function logSplits(plot, axis, low, high) { // 1, 2, 5, 10, …, or powers of ten alone where there are many
  const first = Math.floor(Math.log10(low)), decades = Math.log10(high) - first, splits = [];
  const digits = decades > 3.5 ? [1] : decades > 1.2 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  for (let power = first; power <= Math.log10(high); power += Math.ceil(decades / 7))
    splits.push(...digits.map(digit => Number(`${digit}e${power}`)));
  return splits.filter(split => split >= low && split <= high);
}
const fewPoints = (plot, number) => {
  const [first, last] = plot.series[0].idxs, values = plot.data[number];
  let count = 0;
  for (let place = first; place <= last && count <= FEW; place++) if (values[place] != null) count++;
  return count <= FEW;
};

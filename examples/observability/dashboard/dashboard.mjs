// Reads /metrics every second and shows the changes.

import { Scrapes } from "./scrape.mjs";

const PERIOD_MS = 1000;
const MAX_POINTS = 60;
const PROMPTS = ["import os\n", "The ship was", "In this paper, we", "How do I"];

/** Title, decimal places and reader of each card. A card without a new value keeps its last one. */
const CARDS = [
  ["tokens / s", 0, (scrapes, seconds) => scrapes.gain("readme_generation_tokens_total") / seconds],
  ["running", 0, (scrapes) => scrapes.value("readme_num_requests_running")],
  ["waiting", 0, (scrapes) => scrapes.value("readme_num_requests_waiting")],
  ["first token, ms", 0, (scrapes) => thousand(scrapes.mean("readme_time_to_first_token_seconds"))],
  ["time per token, ms", 1, (scrapes) => thousand(scrapes.mean("readme_inter_token_latency_seconds"))],
  ["experts per step", 2, (scrapes) => scrapes.mean("readme_batch_unique_experts")],
  ["step, ms", 1, (scrapes) => thousand(scrapes.mean("readme_step_duration_seconds"))],
  ["KV memory, %", 1, (scrapes) => 100 * scrapes.value("readme_kv_cache_usage_perc")],
].map(([title, digits, read]) => ({ read, digits, points: [], ...element(title) }));

let [before, beforeMs] = ["", 0];
document.querySelector("#ask").addEventListener("click", (event) => void ask(event.currentTarget));
for (;;) {
  await tick();
  await new Promise((resolve) => setTimeout(resolve, PERIOD_MS));
}

async function tick() {
  const state = document.querySelector("#state");
  try {
    const response = await fetch("/metrics");
    if (!response.ok) throw new Error(`/metrics: ${response.status}`);
    const text = await response.text();
    const nowMs = performance.now();
    if (before !== "") show(new Scrapes(text, before), (nowMs - beforeMs) / 1000);
    [before, beforeMs] = [text, nowMs];
    state.textContent = "live";
  } catch (error) {
    state.textContent = `not reachable (${error.message})`;
  }
}

function show(scrapes, seconds) {
  for (const card of CARDS) {
    const value = card.read(scrapes, seconds) ?? card.points.at(-1);
    if (value === undefined) continue;
    card.points = [...card.points, value].slice(-MAX_POINTS);
    card.output.textContent = value.toFixed(card.digits);
    card.line.setAttribute("points", line(card.points));
  }
  const experts = scrapes.by("example_routed_tokens_total", "expert");
  const most = Math.max(1, ...experts.map(([, tokens]) => tokens));
  document.querySelector("#experts").replaceChildren(...experts.flatMap(([name, tokens]) => row(name, tokens, most)));
}

function line(points) {
  const top = Math.max(...points, 1e-9);
  return points.map((value, index) => `${(index * 100) / (MAX_POINTS - 1)},${30 - (28 * value) / top}`).join(" ");
}

function element(title) {
  const card = document.createElement("div");
  card.className = "card";
  card.innerHTML =
    '<h2></h2><output>–</output><svg viewBox="0 0 100 30" preserveAspectRatio="none" aria-hidden="true"><polyline /></svg>';
  card.querySelector("h2").textContent = title;
  document.querySelector("#cards").append(card);
  return { output: card.querySelector("output"), line: card.querySelector("polyline") };
}

function row(name, tokens, most) {
  const [term, bar, count] = ["dt", "dd", "dd"].map((tag) => document.createElement(tag));
  const meter = Object.assign(document.createElement("meter"), { max: most, value: tokens, ariaLabel: name });
  term.textContent = name;
  bar.append(meter);
  count.textContent = String(tokens);
  return [term, bar, count];
}

async function ask(button) {
  button.disabled = true;
  const headers = { "content-type": "application/json" };
  const requests = Array.from({ length: 8 }, (_, index) =>
    fetch("/v1/completions", {
      method: "POST",
      headers,
      body: JSON.stringify({ prompt: PROMPTS[index % PROMPTS.length], max_tokens: 64, ignore_eos: true }),
    }),
  );
  await Promise.allSettled(requests);
  button.disabled = false;
}

function thousand(seconds) {
  return seconds === undefined ? undefined : seconds * 1000;
}

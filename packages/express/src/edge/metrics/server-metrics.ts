// What the server's own events say, counted: who was let in, who was not, what was answered.

import type { ReadMeEmitter } from "@readme-moe/core";
import type { Admission } from "../admission.ts";
import { FIRST_TOKEN_SECONDS, REQUEST_SECONDS, SMALL_COUNTS, TOKEN_COUNTS } from "./buckets.ts";
import type { Instruments, Sample } from "./instruments.ts";

/** @param defaultName - of the model, for requests that do not say */
export function serverMetrics(instruments: Instruments, events: ReadMeEmitter, defaultName: string): void {
  const labelsOf = (model: string | undefined) => ({ model_name: model ?? defaultName });
  const histogram = (name: string, help: string, buckets: readonly number[]) =>
    instruments.histogram({ name, help, isVllm: true }, buckets);

  const firstToken = histogram("time_to_first_token_seconds", "From a request's arrival", FIRST_TOKEN_SECONDS);
  const wholeRequest = histogram("e2e_request_latency_seconds", "From a request's arrival to its end", REQUEST_SECONDS);
  const choicesOf = histogram("request_params_n", "Completions that a request asks for", SMALL_COUNTS);
  const maxTokensOf = histogram("request_params_max_tokens", "Tokens that a request may generate", TOKEN_COUNTS);
  const rejected = instruments.counter({
    name: "admission_rejected_total",
    help: "Requests that were turned away, by reason",
    labelNames: ["model_name", "reason"],
  });
  const failures = instruments.counter({
    name: "request_failures_total",
    help: "Requests that the server or its engine failed, by the error's code",
    labelNames: ["model_name", "code"],
  });
  const answers = instruments.counter({
    name: "http_requests_total",
    help: "Answers, by route, method and status; 499 where the client had gone",
    labelNames: ["handler", "method", "status"],
  });

  events
    .on("request:admitted", ({ model, choices, maxCompletionTokens }) => {
      choicesOf.observe(labelsOf(model), choices);
      maxTokensOf.observe(labelsOf(model), maxCompletionTokens);
    })
    .on("request:started", ({ model, sinceMs }) => firstToken.observe(labelsOf(model), sinceMs / 1000))
    .on("request:released", ({ model, isStarted, durationMs }) => {
      if (isStarted) wholeRequest.observe(labelsOf(model), durationMs / 1000);
    })
    .on("request:rejected", ({ model, reason }) => rejected.inc({ ...labelsOf(model), reason }))
    .on("request:failed", ({ model, causes }) => {
      const code = causes.find((cause) => cause.code !== undefined)?.code ?? "none";
      // Errors of others may have anything for a code.
      failures.inc({ ...labelsOf(model), code: /^\w{1,64}$/.test(code) ? code : "other" });
    })
    .on("request:answered", ({ handler, method, status }) => answers.inc({ handler, method, status: `${status}` }));
}

/** @param events - of the models */
export function engineLifeMetrics(instruments: Instruments, events: ReadMeEmitter): void {
  const restarts = instruments.counter({ name: "engine_restarts_total", help: "Engines that were opened again" });
  const failedRestarts = instruments.counter({
    name: "engine_restart_failures_total",
    help: "Attempts to open a failed engine again that have failed",
  });
  const givenUp = instruments.counter({
    name: "engine_given_up_total",
    help: "Engines that failed and that nobody opens again",
  });
  events
    .on("engine:restarted", ({ name }) => restarts.inc({ model_name: name }))
    .on("engine:restart-failed", ({ name }) => failedRestarts.inc({ model_name: name }))
    .on("engine:given-up", ({ name }) => givenUp.inc({ model_name: name }));
}

export function admissionMetrics(instruments: Instruments, admission: Admission): void {
  const gauge = (name: string, help: string, value: () => number): void =>
    instruments.gauge({ name, help, labelNames: [] }, (): readonly Sample[] => [{ labels: {}, value: value() }]);
  gauge("admission_requests", "Requests that were let in", () => admission.stats.requests);
  gauge("admission_waiting_requests", "Of those, without a first token", () => admission.stats.waiting);
  gauge("admission_tokens", "Tokens that these may come to", () => admission.stats.tokens);
  gauge("admission_bytes", "Bytes of these requests", () => admission.stats.bytes);
  gauge("admission_arriving_requests", "Requests whose body arrives", () => admission.stats.arriving.requests);
  gauge("admission_arriving_bytes", "Bytes of bodies that arrive", () => admission.stats.arriving.bytes);
  gauge("admission_max_requests", "Requests that may be in", () => admission.stats.limits.requests);
  gauge("admission_max_tokens", "Tokens that may be in", () => admission.stats.limits.tokens);
  gauge("admission_max_bytes", "Bytes that may be in", () => admission.stats.limits.bytes);
}

// Our middleware over an engine in its own process, like `readme-moe serve`.

import { ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels } from "@readme-moe/express";
import express from "express";
import { serveBench } from "./answer-calls.ts";
import type { ServerSetup } from "./server-process.ts";

const NAME = "model";
const setup = JSON.parse(process.argv[2] ?? "{}") as ServerSetup;

let numOpened = 0;
const finished = new Map<string, number[]>();

async function open(): Promise<ReadMeEngine> {
  const engine = await ReadMeEngine.open(setup.path, setup.engine);
  const number = ++numOpened;
  if (setup.records) {
    engine.events.on("sequence:finished", ({ sequenceId, reason }) => {
      if (reason === "stop" || reason === "length") {
        finished.set(sequenceId, [...(finished.get(sequenceId) ?? []), number]);
      }
    });
  }
  return engine;
}

let current = await open();
const restart = setup.restarts ? { firstDelayMs: 100, settledMs: 1000 } : false;
const models = new ServedModels({ [NAME]: current }, { restart });
serveBench(express().use(readMe({ models, admission: setup.admission })), {
  swap: async () => {
    current = await open();
    await models.set(NAME, current);
  },
  kill: () => current.kill(),
  finished: () => Object.fromEntries(finished),
});

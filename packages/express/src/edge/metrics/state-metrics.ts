// How models are, read at every scrape.

import { MODEL_STATES } from "../models/model-entry.ts";
import type { Heartbeat } from "../operations/heartbeat.ts";
import type { ServedModels } from "../served-models.ts";
import type { Instruments } from "./instruments.ts";

export function stateMetrics(instruments: Instruments, models: ServedModels, heartbeat: Heartbeat): void {
  instruments.gauge({ name: "engine_up", help: "1 when the model can be asked and answers its requests, else 0" }, () =>
    models.states().map(({ name, state }) => ({ labels: { model_name: name }, value: state === "ready" ? 1 : 0 })),
  );
  instruments.gauge(
    {
      name: "engine_state",
      help: "1 for the state that the model is in, 0 for the others",
      labelNames: ["model_name", "state"],
    },
    () =>
      models
        .states()
        .flatMap(({ name, state: current }) =>
          MODEL_STATES.map((state) => ({ labels: { model_name: name, state }, value: state === current ? 1 : 0 })),
        ),
  );
  instruments.gauge(
    {
      name: "engine_overdue_seconds",
      help: "How long the engine owes an answer to this server; more than a long step is a hang",
    },
    () =>
      heartbeat
        .overdue(performance.now())
        .map(({ name, overdueMs }) => ({ labels: { model_name: name }, value: overdueMs / 1000 })),
  );
}

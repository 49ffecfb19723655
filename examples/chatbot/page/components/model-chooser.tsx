// Chooses the model that answers, and its precision.

import type { JSX } from "preact";
import { isAnswering } from "../state/chat.ts";
import { chooseModel, model, models } from "../state/live-connection.ts";
import { Icon } from "./icon.tsx";

/** The whole name wraps, which the text of a `select` cannot: the `select` lies over it, unseen. */
export function ModelChooser(): JSX.Element {
  const chosen = model.value;
  const hasChoice = models.value.length > 1;
  return (
    <div class="model">
      <span aria-hidden="true">{chosen ? `${chosen.title} · ${chosen.precision}` : ""}</span>
      {hasChoice && <Icon name="chevron" />}
      <select
        aria-label="Model"
        value={chosen?.name ?? ""}
        disabled={isAnswering.value || !hasChoice}
        onChange={({ currentTarget }) => chooseModel(currentTarget.value)}
      >
        {models.value.map(({ name, title, precision }) => (
          <option key={name} value={name}>
            {title} · {precision}
          </option>
        ))}
      </select>
    </div>
  );
}

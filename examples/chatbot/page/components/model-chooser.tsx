// Chooses the model that answers, and its precision.

import type { JSX } from "preact";
import { isAnswering } from "../state/chat.ts";
import { chooseModel, model, models } from "../state/live-connection.ts";

export function ModelChooser(): JSX.Element {
  const now = model.value;
  const titles = [...new Set(models.value.map(({ title }) => title))];
  const forms = models.value.filter(({ title }) => title === now?.title);
  return (
    <div class="model">
      <label>
        <span class="label">Model</span>
        <select
          value={now?.title ?? ""}
          disabled={isAnswering.value}
          onChange={({ currentTarget }) => choose(currentTarget.value, now?.precision)}
        >
          {titles.map((title) => (
            <option key={title}>{title}</option>
          ))}
        </select>
      </label>
      <label>
        <span class="label">Precision</span>
        <select
          value={now?.precision ?? ""}
          disabled={isAnswering.value || forms.length < 2}
          onChange={({ currentTarget }) => choose(now?.title ?? "", currentTarget.value)}
        >
          {forms.map(({ precision }) => (
            <option key={precision}>{precision}</option>
          ))}
        </select>
      </label>
    </div>
  );
}

/** @param precision - used if the model is served in it */
function choose(title: string, precision: string | undefined): void {
  const ofTitle = models.value.filter((one) => one.title === title);
  const found = ofTitle.find((one) => one.precision === precision) ?? ofTitle[0];
  if (found) chooseModel(found.name);
}

// Chooses the expert of the next answer, where the model has several.

import type { JSX } from "preact";
import { isAnswering } from "../state/chat.ts";
import { expert, experts, model } from "../state/live-connection.ts";
import { expertName } from "../state/settings.ts";

export function ExpertChooser(): JSX.Element | null {
  if (experts.value.length === 0) return null;
  return (
    <label class="expert-choice" title="Expert of the next answer">
      <span class="hidden">Expert of the next answer</span>
      <select
        value={expert.value ?? ""}
        disabled={isAnswering.value}
        onChange={({ currentTarget }) => (expertName.value = currentTarget.value)}
      >
        <option value="">{model.value?.hasRouter ? "Expert: by token" : "No expert"}</option>
        {experts.value.map((name) => (
          <option key={name} value={name}>
            Expert: {name}
          </option>
        ))}
      </select>
    </label>
  );
}

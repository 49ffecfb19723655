import type { JSX } from "preact";
import { isAnswering } from "../state/chat.ts";
import { mode, view, type View } from "../state/settings.ts";
import { model } from "../state/live-connection.ts";
import type { Mode } from "../state/messages.ts";
import { Choices } from "./choices.tsx";
import { Composer } from "./composer.tsx";
import { Legend } from "./legend.tsx";
import { MessageList } from "./message-list.tsx";
import { ModelChooser } from "./model-chooser.tsx";

const VIEWS: readonly (readonly [View, string])[] = [
  ["experts", "Experts"],
  ["text", "Text"],
];
const MODES: readonly (readonly [Mode, string])[] = [
  ["chat", "Chat"],
  ["continue", "Continue a text"],
];

export function Chat(): JSX.Element {
  const chosen = model.value;
  const hasExperts = (chosen?.experts.length ?? 0) > 1;
  return (
    <section class="chat" aria-label="Chat">
      <header>
        <ModelChooser />
        <Choices
          label="Mode"
          name="mode"
          options={MODES}
          value={mode.value}
          isDisabled={isAnswering.value}
          onChoose={(chosenMode) => (mode.value = chosenMode)}
        />
        {hasExperts && (
          <Choices
            label="Show answers by"
            name="view"
            options={VIEWS}
            value={view.value}
            onChoose={(shown) => (view.value = shown)}
          />
        )}
      </header>
      {hasExperts && view.value === "experts" && <Legend experts={chosen?.experts ?? []} />}
      <MessageList />
      <Composer />
    </section>
  );
}

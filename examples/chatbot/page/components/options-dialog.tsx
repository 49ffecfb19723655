// Options of the conversation and of all answers, in a dialog of the browser: it keeps the focus, and Escape closes it.

import { signal, type Signal } from "@preact/signals";
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { isAnswering } from "../state/chat.ts";
import { conversation, setSystem } from "../state/conversations.ts";
import { model } from "../state/live-connection.ts";
import type { Mode } from "../state/messages.ts";
import { maxTokens, mode, showsNumbers, temperature, theme, view, type Theme } from "../state/settings.ts";
import { isByExpert, writesMarkdown } from "./answer-form.ts";
import { Choices } from "./choices.tsx";
import { Icon } from "./icon.tsx";

const isOpen: Signal<boolean> = signal(false);

export function openOptions(): void {
  isOpen.value = true;
}

const MODES: readonly (readonly [Mode, string])[] = [
  ["chat", "Chat"],
  ["continue", "Continue a text"],
];
const FORMS: readonly (readonly ["text" | "experts", string])[] = [
  ["text", "Text"],
  ["experts", "Experts"],
];
const THEMES: readonly (readonly [Theme, string])[] = [
  ["auto", "As the system"],
  ["light", "Light"],
  ["dark", "Dark"],
];

export function OptionsDialog(): JSX.Element {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (isOpen.value) dialog.current?.showModal();
  }, [isOpen.value]);
  const close = (): void => dialog.current?.close();
  return (
    <dialog
      ref={dialog}
      class="options"
      aria-label="Options"
      onClose={() => (isOpen.value = false)}
      onClick={({ target, currentTarget }) => target === currentTarget && close()}
    >
      {isOpen.value && (
        <form method="dialog">
          <header>
            <h2>Options</h2>
            <button type="submit" class="quiet square" aria-label="Close options">
              <Icon name="close" />
            </button>
          </header>
          <ConversationOptions />
          <AnswerOptions />
        </form>
      )}
    </dialog>
  );
}

function ConversationOptions(): JSX.Element {
  return (
    <section>
      <h3>This conversation</h3>
      <Choices
        label="Mode"
        name="mode"
        options={MODES}
        value={mode.value}
        isDisabled={isAnswering.value}
        onChoose={(chosen) => (mode.value = chosen)}
      />
      <label class="field">
        <span class="label">System prompt</span>
        <textarea
          rows={4}
          value={conversation.value.system ?? ""}
          disabled={mode.value === "continue"}
          placeholder="Instructions for every answer, such as: Answer in one sentence."
          onInput={({ currentTarget }) => setSystem(currentTarget.value)}
        />
      </label>
    </section>
  );
}

function AnswerOptions(): JSX.Element {
  const { experts = [], contextTokens = 0 } = model.value ?? {};
  return (
    <section>
      <h3>All answers</h3>
      <div class="fields">
        <label class="field">
          <span class="label">Temperature</span>
          <input
            type="number"
            min={0}
            max={2}
            step={0.1}
            value={temperature.value}
            onInput={({ currentTarget }) => (temperature.value = within(currentTarget, 0, 2, temperature.peek()))}
          />
        </label>
        <label class="field">
          <span class="label">Max. tokens</span>
          <input
            type="number"
            min={1}
            step={1}
            placeholder="What fits"
            value={maxTokens.value === 0 ? "" : maxTokens.value}
            onInput={({ currentTarget }) => (maxTokens.value = Math.round(within(currentTarget, 1, contextTokens, 0)))}
          />
        </label>
      </div>
      <p class="small">
        The model reads and writes up to {contextTokens.toLocaleString("en")} tokens in a conversation. Without a limit,
        an answer may take what the conversation leaves. When a conversation no longer fits, its oldest messages are
        left out.
      </p>
      {experts.length > 1 && (
        <>
          <Choices
            label="Show answers by"
            name="view"
            options={FORMS}
            value={isByExpert(experts, writesMarkdown.value) ? "experts" : "text"}
            onChoose={(shown) => (view.value = shown)}
          />
          <label class="check">
            <input
              type="checkbox"
              checked={showsNumbers.value}
              onChange={({ currentTarget }) => (showsNumbers.value = currentTarget.checked)}
            />{" "}
            Numbers where the expert changes
          </label>
        </>
      )}
      <Choices
        label="Colours"
        name="theme"
        options={THEMES}
        value={theme.value}
        onChoose={(chosen) => (theme.value = chosen)}
      />
    </section>
  );
}

/** Reads a number, moved into its range. @param fallback - for an empty field */
function within({ valueAsNumber }: HTMLInputElement, least: number, most: number, fallback: number): number {
  return Number.isNaN(valueAsNumber) ? fallback : Math.min(most, Math.max(least, valueAsNumber));
}

// Content of an empty conversation.

import type { JSX } from "preact";
import { composed } from "../state/chat.ts";
import { model } from "../state/live-connection.ts";
import { mode } from "../state/settings.ts";
import { focusComposer } from "./focus.ts";

const QUESTIONS = [
  "Why is the sea salty?",
  "Write a Python function that reverses a string.",
  "Give me three ideas for a rainy weekend.",
];
const BEGINNINGS = ["The ship was three days out of port when", "import os\n\ndef main(", "In this paper, we study"];

export function Welcome(): JSX.Element {
  const chosen = model.value;
  const talks = chosen?.hasChatTemplate !== false && mode.value === "chat";
  return (
    <div class="welcome">
      <h2>{talks ? "What can I help with?" : "Begin a text"}</h2>
      {chosen && !chosen.hasChatTemplate && (
        <p>
          <strong>{chosen.title}</strong> has not been trained to chat: it continues texts. A conversation is sent to it
          as plain text.
        </p>
      )}
      {chosen && chosen.experts.length > 1 && (
        <p>The model has {chosen.experts.length} experts. A router chooses one for each token before it runs.</p>
      )}
      <ul>
        {(talks ? QUESTIONS : BEGINNINGS).map((text) => (
          <li key={text}>
            <button
              type="button"
              onClick={() => {
                composed.value = text;
                focusComposer();
              }}
            >
              {text}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

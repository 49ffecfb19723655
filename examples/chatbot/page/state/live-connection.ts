// The connection to the server's live view; it is opened again when it is lost.

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import type { LiveSnapshot, ModelChoice } from "../../shared/live.ts";
import { expertName, modelName } from "./settings.ts";

export type Connection = "connecting" | "loading" | "open" | "lost";

const RETRY_MS = 1000;

export const models: Signal<readonly ModelChoice[]> = signal<readonly ModelChoice[]>([]);
export const live: Signal<LiveSnapshot | undefined> = signal<LiveSnapshot | undefined>(undefined);
export const connection: Signal<Connection> = signal<Connection>("connecting");
/** Stage of the models that the server opens. */
export const loading: Signal<string> = signal("");
/** Reason why a change was refused. */
export const refusal: Signal<string> = signal("");

export const model: ReadonlySignal<ModelChoice | undefined> = computed(
  () => models.value.find(({ name }) => name === modelName.value) ?? models.value[0],
);

/** A model or a lora of it, as the API lists them. */
interface Served {
  readonly id: string;
  readonly parent: string | null;
}

const served: Signal<readonly Served[]> = signal<readonly Served[]>([]);

/** The experts that the user can choose for a message; none for a dense model. */
export const experts: ReadonlySignal<readonly string[]> = computed(() => {
  if (!model.value) return [];
  const { name, experts: names, expertKind } = model.value;
  if (expertKind === "ffn") return names.length > 1 ? names : [];
  const begin = `${name}:`;
  const own = served.value.filter(({ id, parent }) => parent === name && id.startsWith(begin));
  return own.map(({ id }) => id.slice(begin.length));
});

/** The expert of the next answer; `undefined` where the model decides. */
export const expert: ReadonlySignal<string | undefined> = computed(() =>
  experts.value.find((name) => name === expertName.value),
);

/** Name of the documents that can be asked; `undefined` where the server has none. */
export const documents: Signal<string | undefined> = signal<string | undefined>(undefined);

let source: EventSource | undefined;
/** Number of calls of `connect`. */
let numCalls = 0;
let retry: ReturnType<typeof setTimeout> | undefined;

/** Listens to the chosen model; a later call replaces earlier ones. */
export async function connect(): Promise<void> {
  source?.close();
  clearTimeout(retry);
  source = undefined;
  const call = ++numCalls;
  try {
    const [found, listed, asked] = await Promise.all([
      read<readonly ModelChoice[]>("/live/models"),
      read<{ readonly data: readonly Served[] }>("/v1/models"),
      read<{ readonly title?: string }>("/live/documents"),
    ]);
    models.value = found;
    served.value = listed.data;
    documents.value = asked.title;
  } catch (error) {
    if (call === numCalls) lost(error);
    return;
  }
  if (call !== numCalls || !model.value) return;
  const opened = new EventSource(`/live?model=${encodeURIComponent(model.value.name)}`);
  source = opened;
  opened.addEventListener("message", ({ data }) => {
    connection.value = "open";
    live.value = JSON.parse(data as string) as LiveSnapshot;
  });
  opened.addEventListener("error", () => {
    if (source === opened) lost();
  });
}

/** The server opens its models. */
class Loading extends Error {}

async function read<Answer>(path: string): Promise<Answer> {
  const response = await fetch(path);
  if (response.status === 503) {
    const { loading: stage } = (await response.json()) as { readonly loading?: string };
    if (stage !== undefined) throw new Loading(stage);
  }
  if (!response.ok) throw new Error(`The server answered ${response.status}`);
  return (await response.json()) as Answer;
}

function lost(error?: unknown): void {
  source?.close();
  source = undefined;
  const isLoading = error instanceof Loading;
  loading.value = isLoading ? error.message : "";
  connection.value = isLoading ? "loading" : "lost";
  clearTimeout(retry);
  retry = setTimeout(() => void connect(), RETRY_MS);
}

/** Listens to another model. */
export function chooseModel(name: string): void {
  modelName.value = name;
  live.value = undefined;
  void connect();
}

/** Changes a setting of the chosen model. @param path - such as `scheduling` */
export async function change(path: string, values: object): Promise<void> {
  refusal.value = "";
  try {
    const response = await fetch(`/live/${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: model.value?.name, ...values }),
    });
    const answer = (await response.json()) as LiveSnapshot & { readonly error?: { readonly message: string } };
    if (response.ok) live.value = answer;
    else refusal.value = answer.error?.message ?? `The server answered ${response.status}`;
  } catch {
    refusal.value = "The server does not answer.";
  }
}

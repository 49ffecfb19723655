import type { ErrorLink } from "./error-chain.ts";
import type { KernelInfo } from "./kernel-info.ts";

/** One run through all layers, as the expert cache saw it. */
export interface ExpertRun {
  /** Of its tokens, distinct, ascending. */
  readonly experts: readonly number[];
  /** Those that were known to be needed after it. */
  readonly planned: readonly number[];
}

/** Every event of the system: its name, its payload, and the units of each field. All payloads are plain data. */
export interface ReadMeEvents {
  /** A sequence was taken in; it runs when there is room. */
  "sequence:queued": (event: {
    readonly sequenceId: string;
    readonly promptTokens: number;
    /** Sequences that wait, this one included. */
    readonly numWaiting: number;
  }) => void;
  /** The router chose the experts of a sequence's tokens, before the model runs them. */
  "router:routed": (event: {
    readonly sequenceId: string;
    /** Position of the first of `experts`. */
    readonly position: number;
    readonly experts: Uint16Array;
    readonly durationMs: number;
  }) => void;
  /** The next step was planned. */
  "batch:scheduled": (event: {
    readonly step: number;
    readonly sequenceIds: readonly string[];
    /** Of each sequence: 1 when it decodes, more when it is a chunk of prefill. */
    readonly numTokens: readonly number[];
    /** Of each sequence: the position of the first of these tokens. */
    readonly positions: readonly number[];
    readonly distinctExperts: number;
    readonly numWaiting: number;
    /** Experts of the next step that are sure already, ascending. Only where experts come and go. */
    readonly plannedExperts?: readonly number[];
    /** In how many steps each expert is expected, `[numExperts]`; `Infinity` is never. Only where experts come and go. */
    readonly laterSteps?: readonly number[];
  }) => void;
  /** A step has run. */
  "batch:completed": (event: {
    readonly step: number;
    readonly tokens: number;
    readonly prefillTokens: number;
    readonly durationMs: number;
    /** What `durationMs` was expected to be when the step was planned; learnt from the steps before. */
    readonly predictedMs: number;
    /** Part of `durationMs` that the model ran for. */
    readonly forwardMs: number;
    readonly kvUsedTokens: number;
    readonly kvCapacityTokens: number;
    /** The runs through all layers that the step took, nearly always one. Only where experts come and go. */
    readonly expertRuns?: readonly ExpertRun[];
  }) => void;
  /** Layers `[layer, layer + numLayers)` of one expert came into memory. */
  "expert:loaded": (event: {
    readonly layer: number;
    readonly numLayers: number;
    readonly expert: number;
    readonly bytes: number;
    readonly durationMs: number;
  }) => void;
  /** Layers of one expert left memory. `nextUse` is in steps; `Infinity` when no known token needs it. */
  "expert:evicted": (event: {
    readonly layer: number;
    readonly numLayers: number;
    readonly expert: number;
    readonly nextUse: number;
  }) => void;
  /** A sequence got its next token. */
  "token:generated": (event: {
    readonly sequenceId: string;
    readonly tokenId: number;
    /** In the sequence, prompt included. */
    readonly position: number;
    /** Since the sequence was queued, for the first token; since its last token, for the others. */
    readonly sinceMs: number;
    readonly isFirst: boolean;
  }) => void;
  /** A running sequence gave its KV memory to others; it is recomputed when there is room. */
  "sequence:preempted": (event: { readonly sequenceId: string; readonly tokens: number }) => void;
  /** A sequence left. */
  "sequence:finished": (event: {
    readonly sequenceId: string;
    readonly reason: "stop" | "length" | "abort" | "error";
    readonly promptTokens: number;
    readonly completionTokens: number;
    /** Prompt tokens whose keys and values were taken from the prefix cache. */
    readonly cachedTokens: number;
    readonly queuedMs: number;
    /** From queued to finished. */
    readonly durationMs: number;
  }) => void;
  /** New requests for the name `name` go to another engine from now on; those under way stay with theirs. */
  "model:swapped": (event: {
    readonly name: string;
    readonly path: string;
    /** Of the model before, where there was one. */
    readonly previousPath: string | undefined;
  }) => void;
  /** An engine that had failed works again. */
  "engine:restarted": (event: { readonly name: string; readonly attempts: number }) => void;
  /** An attempt to open a failed engine again has failed. */
  "engine:restart-failed": (event: {
    /** Name of the model. */
    readonly name: string;
    /** Attempts without success so far, this one included. */
    readonly attempts: number;
    /** Until the next attempt; `undefined` where none follows. */
    readonly retryInMs: number | undefined;
    /** The error and its causes, outermost first. */
    readonly causes: readonly ErrorLink[];
  }) => void;
  /** A model could not be opened, or failed, and nobody will open it again: it stays so until another engine is set. */
  "engine:given-up": (event: {
    /** Name of the model. */
    readonly name: string;
    /** Attempts to open it again; 0 where restarts are off. */
    readonly attempts: number;
    /** The error and its causes, outermost first. */
    readonly causes: readonly ErrorLink[];
  }) => void;
  /** An engine runs, and has failed so many requests in a row that it counts as not ready. */
  "engine:failing": (event: {
    /** Name of the model. */
    readonly name: string;
    /** Requests in a row, each begun after the one before had failed. */
    readonly failures: number;
    /** Whether it is ended now, so that it is opened again. */
    readonly isReopened: boolean;
    /** The last error and its causes, outermost first. */
    readonly causes: readonly ErrorLink[];
  }) => void;
  /** An engine has not answered for so long that it counts as hung. */
  "engine:hung": (event: {
    /** Name of the model. */
    readonly name: string;
    /** How long it owes an answer. */
    readonly overdueMs: number;
  }) => void;
  /** An engine that counted as failing or hung has answered. */
  "engine:recovered": (event: {
    /** Name of the model. */
    readonly name: string;
    readonly from: "failing" | "hung";
  }) => void;
  /** A server took a request in, and keeps a place for it. */
  "request:admitted": (event: {
    /** Name of the model, where it is known. */
    readonly model: string | undefined;
    readonly key: string | undefined;
    readonly bytes: number;
    readonly choices: number;
    readonly maxCompletionTokens: number;
  }) => void;
  /** A server turned a request away: no place, its key has too many, others went first, or it waited too long. */
  "request:rejected": (event: {
    readonly model: string | undefined;
    readonly key: string | undefined;
    readonly reason: "requests" | "tokens" | "bytes" | "key" | "share" | "displaced" | "queue-deadline";
    /** When the client was told to come back. */
    readonly retryAfterMs: number;
  }) => void;
  /** The first token of a request's answer is there; `sinceMs` is since the request was admitted. */
  "request:started": (event: { readonly model: string | undefined; readonly sinceMs: number }) => void;
  /** A request gave its place back. */
  "request:released": (event: {
    readonly model: string | undefined;
    /** Whether it got a first token. */
    readonly isStarted: boolean;
    /** Since it was admitted. */
    readonly durationMs: number;
  }) => void;
  /** An answer is out, or its client has gone (status 499). */
  "request:answered": (event: {
    readonly requestId: string;
    readonly traceparent: string | undefined;
    readonly key: string | undefined;
    readonly method: string;
    /** The route's pattern, such as `/v1/chat/completions`. */
    readonly handler: string;
    readonly status: number;
    readonly durationMs: number;
  }) => void;
  /** A request ended with an error that is the server's or the engine's, not its client's. */
  "request:failed": (event: {
    readonly requestId: string;
    /** Name of the model, where one was chosen. */
    readonly model: string | undefined;
    /** What the client was told, or would have been told had its stream not begun. */
    readonly status: number;
    /** The error and its causes, outermost first. */
    readonly causes: readonly ErrorLink[];
  }) => void;
  /** A model was opened: which build of the kernel runs its steps, and on which instructions. */
  "kernel:selected": (event: KernelInfo) => void;
  /** The engine stopped working; everybody who waited was told. */
  "engine:failed": (event: {
    readonly code: string;
    readonly message: string;
    /** The error and its causes, outermost first, where they are known. */
    readonly causes?: readonly ErrorLink[];
  }) => void;
  /** A listener of another event threw, or its promise was rejected. */
  "listener:failed": (event: { readonly source: keyof ReadMeEvents; readonly error: unknown }) => void;
}

/**
 * Codes of the errors that a running system can meet. A caller's mistake has no code: it is a `TypeError` or
 * `RangeError`, thrown at once (`options.ts`).
 */
export type ReadMeErrorCode =
  /** A file or folder does not exist. */
  | "ERR_FILE_NOT_FOUND"
  /** A file exists and cannot be read. */
  | "ERR_FILE_UNREADABLE"
  /**
   * A file is truncated, damaged, hostile, or of another format than its name says. The message names it, and the
   * tensor or line.
   */
  | "ERR_FILE_CORRUPT"
  /** A model folder lacks a file or a tensor that its config promises, or they disagree in shape. */
  | "ERR_MODEL_INVALID"
  /** The model is well-formed but needs a feature that this project does not have. */
  | "ERR_MODEL_UNSUPPORTED"
  /** A model cannot be removed while a process has it open. */
  | "ERR_MODEL_IN_USE"
  /** A file could not be written; nothing was left half-written. */
  | "ERR_WRITE_FAILED"
  /** The model hub has no such model, revision or file, or does not show it without a token. */
  | "ERR_HUB_NOT_FOUND"
  /** The model hub requires an access token, or refuses the given one. */
  | "ERR_HUB_UNAUTHORIZED"
  /** The model hub cannot be reached, keeps failing, or the server that answers is not a hub. */
  | "ERR_HUB_UNREACHABLE"
  /** The model hub keeps limiting the rate of requests, or demands an unreasonable wait. */
  | "ERR_HUB_RATE_LIMITED"
  /** Offline mode is on, and the cache does not hold the whole model. */
  | "ERR_OFFLINE"
  /** A model does not fit into its memory budget. */
  | "ERR_MEMORY"
  /** The kernel or the inference runtime could not be loaded, refused a model, or failed while running it. */
  | "ERR_RUNTIME"
  /** More tokens than the model's context holds. */
  | "ERR_CONTEXT_LENGTH"
  /** A chat template is missing, or failed on these messages. */
  | "ERR_CHAT_TEMPLATE"
  /** A module that an option names cannot be imported, or does not export a function by that name. */
  | "ERR_MODULE"
  /** The thread or process that runs the model ended, or could not go on; `cause` is the reason, if it is known. */
  | "ERR_ENGINE_FAILED"
  /** The thread that matches answers against grammars ended, or could not go on; the engine still works. */
  | "ERR_GRAMMAR_FAILED"
  /** Too many requests are under way. */
  | "ERR_QUEUE_FULL"
  /** The Valkey or Redis of a fleet of machines does not answer. */
  | "ERR_FLEET_UNREACHABLE"
  /** No machine of a fleet takes requests for the model. */
  | "ERR_NO_WORKER"
  /** The engine ends its work; another one can go on after the tokens that were given. */
  | "ERR_DRAINED"
  /** Another connection goes on with the answer. */
  | "ERR_TAKEN_OVER"
  /** The object was disposed. */
  | "ERR_DISPOSED";

/** Facts that an error may have beside its message. */
export interface ReadMeErrorOptions extends ErrorOptions {
  /** Time after which it is worth trying again, in ms. @default unknown */
  readonly retryAfterMs?: number | undefined;
}

/** An error that a running system met. `code` is stable; `cause`, where present, is the underlying error. */
export class ReadMeError extends Error {
  override readonly name = "ReadMeError";
  readonly code: ReadMeErrorCode;
  /** Time after which it is worth trying again, in ms, if it is known. */
  readonly retryAfterMs: number | undefined;

  constructor(code: ReadMeErrorCode, message: string, { retryAfterMs, ...options }: ReadMeErrorOptions = {}) {
    super(message, options);
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

/** Returns the message of whatever was thrown. */
export function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

/** One error of a chain of causes, as plain data without a stack, which would contain paths of this program. */
export interface ErrorLink {
  /** The error's class, such as `ReadMeError`. */
  readonly name: string;
  /** The code of a `ReadMeError` or of the system, such as `ENOENT`, where there is one. */
  readonly code?: string;
  readonly message: string;
}

/** Longer chains and messages are cut, so that a log stays small whatever is thrown. */
const [MAX_LINKS, MAX_MESSAGE_CHARACTERS] = [8, 1000];

/**
 * Describes an error and its causes, outermost first. Leaves out a cause that only repeats the message before it. Never
 * throws, and ends for circular chains.
 */
export function errorChain(error: unknown): readonly ErrorLink[] {
  const links: ErrorLink[] = [];
  const seen = new Set<unknown>();
  for (let next = error; next !== undefined && next !== null && links.length < MAX_LINKS;) {
    if (seen.has(next)) break;
    seen.add(next);
    const link = linkOf(next);
    const previous = links.at(-1);
    if (previous?.message !== link.message || (link.code !== undefined && link.code !== previous.code))
      links.push(link);
    next = causeOf(next);
  }
  return links;
}

function linkOf(error: unknown): ErrorLink {
  const name = textOf(() => (error instanceof Error ? error.name : typeof error));
  const code = textOf(() => (typeof error === "object" && error !== null && "code" in error ? error.code : undefined));
  const message = textOf(() => (error instanceof Error ? unquoted(error) : String(error))) ?? "";
  return { name: name ?? "Error", ...(code === undefined ? {} : { code }), message };
}

/** Returns the message. A syntax error quotes the parsed text, which may be a client's. */
function unquoted({ name, message }: Error): string {
  return name === "SyntaxError" ? message.replace(/["'`].*["'`]/s, "…") : message;
}

/** Returns the text that `read` returns, cut to the limit; `undefined` if it returns none or throws. */
function textOf(read: () => unknown): string | undefined {
  try {
    const value = read();
    if (typeof value !== "string" || value === "") return undefined;
    return value.length > MAX_MESSAGE_CHARACTERS ? `${value.slice(0, MAX_MESSAGE_CHARACTERS)}…` : value;
  } catch {
    return undefined;
  }
}

/** Returns the cause of an error; the first of several. */
function causeOf(error: unknown): unknown {
  try {
    if (!(error instanceof Error)) return undefined;
    if (error.cause !== undefined && error.cause !== null) return error.cause;
    const errors: readonly unknown[] = error instanceof AggregateError ? error.errors : [];
    return errors[0];
  } catch {
    return undefined;
  }
}

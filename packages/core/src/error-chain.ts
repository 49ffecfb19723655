/** One error of a chain of causes, as plain data: no stack, so no paths of this program. */
export interface ErrorLink {
  /** The error's class, such as `ReadMeError`. */
  readonly name: string;
  /** The code of a `ReadMeError` or of the system, such as `ENOENT`, where there is one. */
  readonly code?: string;
  readonly message: string;
}

/** Longer chains and messages are cut: what they are put into, such as a log, stays small whatever is thrown. */
const [MAX_LINKS, MAX_MESSAGE_CHARACTERS] = [8, 1000];

/**
 * Describes an error and its causes, outermost first. A cause that only repeats the message before it is left out. Never
 * throws, whatever was thrown, and ends for chains that form a ring.
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
  const code = textOf(() => (typeof error === "object" ? (error as { readonly code?: unknown }).code : undefined));
  const message = textOf(() => (error instanceof Error ? unquoted(error) : String(error))) ?? "";
  return { name: name ?? "Error", ...(code === undefined ? {} : { code }), message };
}

/** The message. A syntax error quotes what was parsed, which may be a client's text. */
function unquoted({ name, message }: Error): string {
  return name === "SyntaxError" ? message.replace(/["'`].*["'`]/s, "…") : message;
}

/** The text that `read` gives, cut; `undefined` where it gives none or throws. */
function textOf(read: () => unknown): string | undefined {
  try {
    const value = read();
    if (typeof value !== "string" || value === "") return undefined;
    return value.length > MAX_MESSAGE_CHARACTERS ? `${value.slice(0, MAX_MESSAGE_CHARACTERS)}…` : value;
  } catch {
    return undefined;
  }
}

/** What an error was caused by; the first of several. */
function causeOf(error: unknown): unknown {
  try {
    if (!(error instanceof Error)) return undefined;
    return error.cause ?? (error instanceof AggregateError ? (error.errors as readonly unknown[])[0] : undefined);
  } catch {
    return undefined;
  }
}

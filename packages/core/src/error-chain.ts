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

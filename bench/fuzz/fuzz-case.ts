// A case as plain data: what is sent, and what is known of it. It can be kept in a file and sent again.

/** One request of a case. */
export interface Ask {
  readonly method: string;
  /** The route without a query, or the target as it is sent where that is no path. */
  readonly path: string;
  /** The request's own id, which the API sends back. */
  readonly id?: string;
  /** Whether the API has to answer 200. */
  readonly isRight?: boolean;
  /** Whether the answer may take as long as the context allows. */
  readonly mayBeLong?: boolean;
}

export interface Piece {
  readonly bytes: Buffer;
  /** Time to wait before the piece is sent. */
  readonly waitMs: number;
}

export interface FuzzCase {
  readonly seed: number;
  readonly index: number;
  /** Such as `json` and `chunks`. */
  readonly kind: string;
  readonly asks: readonly Ask[];
  readonly pieces: readonly Piece[];
  /**
   * The client's behaviour once all is sent. `wait` waits for the server to end the connection. `quiet` ends its own side when
   * nothing has come for a while, `half-close` at once. `leave` closes the connection at once.
   */
  readonly ending: "wait" | "quiet" | "half-close" | "leave";
  /**
   * Whether this is HTTP beyond doubt, so that every request has an answer of the API. Else Node's parser may refuse it
   * without a body, and what is answered may be less.
   */
  readonly isSound: boolean;
}

/** Describes a case in one line for people. */
export function described({ seed, index, kind, asks }: FuzzCase): string {
  const what = asks.map(({ method, path }) => `${method} ${path.slice(0, 60)}`).slice(0, 3);
  return `case ${index} of seed ${seed} (${kind}; ${what.join(", ")}${asks.length > 3 ? ", …" : ""})`;
}

type Saved = Omit<FuzzCase, "pieces"> & { readonly pieces: readonly { base64: string; waitMs: number }[] };

export function toJson({ pieces, ...rest }: FuzzCase, more: object): string {
  const saved: Saved = {
    ...rest,
    pieces: pieces.map(({ bytes, waitMs }) => ({ base64: bytes.toString("base64"), waitMs })),
  };
  return `${JSON.stringify({ ...more, ...saved }, null, 1)}\n`;
}

export function fromJson(text: string): FuzzCase {
  const { pieces, ...rest } = JSON.parse(text) as Saved;
  return {
    ...rest,
    pieces: pieces.map(({ base64, waitMs }) => ({ bytes: Buffer.from(base64, "base64"), waitMs })),
  };
}

// Case as plain data: the bytes to send, and what is known about them. It can be stored in a file and sent again.

/** Request of a case. */
export interface Ask {
  readonly method: string;
  /** Route without a query, or the target as sent when it is not a path. */
  readonly path: string;
  /** Request id, which the API returns. */
  readonly id?: string;
  /** Whether the API must answer 200. */
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
  /** Kind of case, such as `json` and `chunks`. */
  readonly kind: string;
  readonly asks: readonly Ask[];
  readonly pieces: readonly Piece[];
  /**
   * Client's behaviour after all bytes are sent. `wait` waits for the server to end the connection. `quiet` ends its
   * own side after a while without data, `half-close` at once. `leave` closes the connection at once.
   */
  readonly ending: "wait" | "quiet" | "half-close" | "leave";
  /**
   * Whether this is certainly valid HTTP, so that every request has an answer of the API. Otherwise Node's parser may
   * reject it without a body, and some requests may stay unanswered.
   */
  readonly isSound: boolean;
  /** Local address of the client. @default any */
  readonly from?: string;
}

/** Describes a case in one line. */
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

/** What an answer with an error says, in the shape of the OpenAI API. */
export interface ApiErrorDetails {
  /** Status of the answer, 400 to 599. */
  readonly status: number;
  /** Kind of error, such as `invalid_request_error`. */
  readonly type: string;
  readonly message: string;
  /** Such as `context_length_exceeded`. */
  readonly code?: string | undefined;
  /** Which parameter is to blame. */
  readonly param?: string | undefined;
  /** Headers of the answer, such as `retry-after`. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly cause?: unknown;
}

/** An error that a client may see: it has no stack traces and no paths in its message. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly type: string;
  readonly code: string | undefined;
  readonly param: string | undefined;
  readonly headers: Readonly<Record<string, string>>;

  constructor({ status, type, message, code, param, headers = {}, cause }: ApiErrorDetails) {
    super(message, { cause });
    this.status = status;
    this.type = type;
    this.code = code;
    this.param = param;
    this.headers = headers;
  }

  /** The body of the answer. */
  toJSON(): object {
    const { message, type, param = null, code = null } = this;
    return { error: { message, type, param, code } };
  }
}

/** A mistake of whoever asks: status 400. */
export function badRequest(details: {
  readonly message: string;
  readonly code: string;
  readonly param?: string | undefined;
  readonly cause?: unknown;
}): ApiError {
  return new ApiError({ status: 400, type: "invalid_request_error", ...details });
}

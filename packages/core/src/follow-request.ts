// A request of `Engine.follow`.

/** An answer that `generate` has begun, here or at another engine of the same machines, as `follow` names it. */
export interface FollowRequest {
  /** Id of the request that began it. */
  readonly id: string;
  /** Client of that request. For other clients the answer does not exist. @default no name */
  readonly client?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

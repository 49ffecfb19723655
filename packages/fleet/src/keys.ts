// Names of everything that a fleet keeps in Valkey.

export const PREFIX = "readme-moe";

export const QUEUE_PREFIX = `${PREFIX}-q`;

/** Channel that tells workers about new jobs, and about jobs that came back. */
export const JOBS_CHANNEL = `${PREFIX}:jobs`;

/** Channel that tells workers which requests were cancelled. */
export const CANCEL_CHANNEL = `${PREFIX}:cancel`;

/** Prefix of the channels of fronts, on which each hears of new entries of the answers that it follows. */
export const FRONT_PREFIX = `${PREFIX}:front:`;

/** Names a front: the version of its prompts is a part, so that its channel says which front is there. */
export function frontName(promptVersion: string, id: string): string {
  return `${promptVersion}.${id}`;
}

export const WORKERS_KEY = `${PREFIX}:workers`;

export interface RequestKeys {
  /** Stream of the entries of its answer; the id of entry n is `n-0`. */
  readonly log: string;
  /** Hash: owner, whether it was cancelled, and what a queue's head has to show. */
  readonly meta: string;
}

export function requestKeys(requestId: string): RequestKeys {
  const base = `${PREFIX}:{${requestId}}`;
  return { log: `${base}:log`, meta: `${base}:meta` };
}

export function jobOfKey(requestId: string): string {
  return `${PREFIX}:{${requestId}}:job`;
}

/** Names a reader of a request. The first part is the front that hears of new entries. */
export function readerName(frontId: string, readerId: string): string {
  return `${frontId}/${readerId}`;
}

export function workerKey(workerId: string): string {
  return `${PREFIX}:worker:${workerId}`;
}

export function queueName(modelVersion: string, affinity: string): string {
  return `${modelVersion}.${affinity}`;
}

// Stores of artefacts that several machines share: a folder, or a store like S3.

import { createHash } from "node:crypto";
import { mkdir, readFile, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type ArtefactStore, ReadMeError } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";

/**
 * Opens a store of artefacts that machines share: a folder, or `s3://bucket/prefix` of a store like S3, whose endpoint
 * and keys are in the environment (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`).
 *
 * @throws {TypeError} on a wrong URL, or without keys
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when the folder cannot be made; `ERR_MODULE` without the client of S3
 */
export async function openArtefacts(place: string, env: NodeJS.ProcessEnv = process.env): Promise<ArtefactStore> {
  return place.startsWith("s3:") ? openS3(place, env) : openFolder(place);
}

// Artefacts as files of a folder that machines share.

/** @throws {ReadMeError} `ERR_WRITE_FAILED` when the folder cannot be made */
async function openFolder(folder: string): Promise<ArtefactStore> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (cause) {
    throw new ReadMeError("ERR_WRITE_FAILED", `${folder}: is no folder for artefacts`, { cause });
  }
  const pathOf = (key: string): string => join(resolve(folder), checkedKey(key));
  return {
    has: async (key) => (await ifThere(pathOf(key), stat)) !== undefined,
    get: (key) => ifThere(pathOf(key), (path) => readFile(path)),
    put: (key, bytes) => writeFileAtomically(pathOf(key), bytes),
    remove: (key) => rm(pathOf(key), { force: true }),
  };
}

/** @throws {ReadMeError} `ERR_FILE_UNREADABLE` for any other reason than that there is no such file */
async function ifThere<Result>(path: string, read: (path: string) => Promise<Result>): Promise<Result | undefined> {
  try {
    return await read(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new ReadMeError("ERR_FILE_UNREADABLE", `${path}: cannot be read`, { cause });
  }
}

// Artefacts as objects of a store like S3.

/** Longest time of one request; large objects take minutes. */
const REQUEST_MS = 600_000;

const EXPECTED = "s3://bucket or s3://bucket/prefix";

/** Address of objects. */
interface S3Place {
  readonly bucket: string;
  /** Beginning of all keys; ends with a slash unless it is empty. */
  readonly prefix: string;
}

/** @throws {TypeError} on a wrong URL, or without keys; {ReadMeError} `ERR_MODULE` without the client of S3 */
async function openS3(url: string, env: NodeJS.ProcessEnv): Promise<ArtefactStore> {
  const { bucket, prefix } = parsePlace(url);
  const region = env["AWS_REGION"] ?? env["AWS_DEFAULT_REGION"] ?? "us-east-1";
  const base = baseOf(bucket, region, env["AWS_ENDPOINT_URL_S3"] ?? env["AWS_ENDPOINT_URL"]);
  const accessKeyId = env["AWS_ACCESS_KEY_ID"];
  const secretAccessKey = env["AWS_SECRET_ACCESS_KEY"];
  const sessionToken = env["AWS_SESSION_TOKEN"];
  if (!accessKeyId || !secretAccessKey) {
    throw new TypeError("Expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, got none");
  }
  const { AwsClient } = await loadClient();
  const client = new AwsClient({
    accessKeyId,
    secretAccessKey,
    ...(sessionToken === undefined ? {} : { sessionToken }),
    service: "s3",
    region,
  });
  const request = async (method: string, key: string, body?: Uint8Array): Promise<Response | undefined> => {
    const what = `${method} ${bucket}/${prefix}${checkedKey(key)}`;
    // The store compares the hash with the bytes that it gets.
    const hash = createHash("sha256")
      .update(body ?? new Uint8Array())
      .digest("hex");
    const response = await client
      .fetch(`${base}/${prefix}${key}`, {
        method,
        headers: { "x-amz-content-sha256": hash },
        signal: AbortSignal.timeout(REQUEST_MS),
        ...(body === undefined ? {} : { body: body as Uint8Array<ArrayBuffer> }),
      })
      .catch((cause: unknown) => {
        throw new ReadMeError("ERR_FILE_UNREADABLE", `${what}: no answer`, { cause });
      });
    if (response.ok) return response;
    await response.body?.cancel();
    if (response.status === 404 && method !== "PUT") return undefined;
    const code = method === "PUT" ? "ERR_WRITE_FAILED" : "ERR_FILE_UNREADABLE";
    throw new ReadMeError(code, `${what}: the store answers ${response.status}`);
  };
  return {
    has: async (key) => (await request("HEAD", key)) !== undefined,
    get: async (key) => {
      const response = await request("GET", key);
      return response && new Uint8Array(await response.arrayBuffer());
    },
    put: async (key, bytes) => void (await request("PUT", key, bytes)),
    remove: async (key) => void (await request("DELETE", key)),
  };
}

function parsePlace(url: string): S3Place {
  const parts = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/([\w./-]*))?$/.exec(url);
  const bucket = parts?.[1];
  if (bucket === undefined) throw new TypeError(`Expected \`artefacts\` to be ${EXPECTED}, got ${JSON.stringify(url)}`);
  const prefix = (parts?.[2] ?? "").replace(/\/+$/, "");
  return { bucket, prefix: prefix === "" ? "" : `${prefix}/` };
}

/** Returns the URL of a bucket: with its own host at Amazon, below the endpoint elsewhere. */
function baseOf(bucket: string, region: string, endpoint: string | undefined): string {
  if (!endpoint) return `https://${bucket}.s3.${region}.amazonaws.com`;
  if (!URL.canParse(endpoint)) throw new TypeError("Expected AWS_ENDPOINT_URL to be a URL, got another text");
  return `${endpoint.replace(/\/+$/, "")}/${bucket}`;
}

/** Loads the client where it is used: a refactoring without S3 does not need it. */
async function loadClient(): Promise<typeof import("aws4fetch")> {
  try {
    return await import("aws4fetch");
  } catch (cause) {
    const message = "Artefacts in S3 need the package aws4fetch: npm install aws4fetch";
    throw new ReadMeError("ERR_MODULE", message, { cause });
  }
}

const KEY = /^[0-9a-f]{64}\.[a-z0-9.-]{1,64}$/;

/** Refuses what could be a path. @throws {TypeError} unless `key` is a hash and a name */
function checkedKey(key: string): string {
  if (KEY.test(key)) return key;
  throw new TypeError("Expected the key of an artefact to be a hash and a name, got another");
}

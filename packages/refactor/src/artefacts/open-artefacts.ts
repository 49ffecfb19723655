import type { ArtefactStore } from "@readme-moe/core";
import { openFolder } from "./folder-store.ts";
import { openS3 } from "./s3-store.ts";

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

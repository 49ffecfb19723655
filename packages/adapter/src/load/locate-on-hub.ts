import { downloadModel, hubFileNames, type DownloadModelOptions, type DownloadProgress } from "@readme-moe/model";
import type { HostEnv, HostLoadOptions } from "../host/host.ts";
import type { AdapterOptions } from "../options.ts";
import { hasWeights } from "./weight-names.ts";

const PATH_TEMPLATE = "{model}/resolve/{revision}/";

/** As `locate`. Files go into the host's cache folder, in the layout of Hugging Face's own tools. */
export async function locateOnHub(
  id: string,
  env: HostEnv,
  options: HostLoadOptions,
  { engine }: AdapterOptions,
  what: "model" | "config",
): Promise<string | undefined> {
  // A server with paths of its own is no hub that could be asked what it has.
  if (env.remotePathTemplate !== PATH_TEMPLATE) return undefined;
  const { cache_dir: cacheFolder, revision, local_files_only: isLocal, progress_callback: onEvent } = options;
  const request: DownloadModelOptions = {
    ...(cacheFolder ? { cacheFolder } : {}),
    ...(revision ? { revision } : {}),
    ...(env.fetch ? { fetch: env.fetch } : {}),
    endpoint: env.remoteHost,
    offline: isLocal === true || !env.allowRemoteModels,
  };
  const names = await hubFileNames(id, request).catch(() => undefined);
  if (names === undefined || !hasWeights(names)) return undefined;
  if (what === "config" && names.has("config.json")) return undefined;
  const isHosts = Array.from(names).some((name) => name.startsWith("onnx/"));
  // Of a repository with both, weights by the names of a Read-ME folder tell.
  if (isHosts && engine !== "readme-moe" && !names.has("backbone.safetensors")) return undefined;
  return downloadModel(id, { ...request, ...(onEvent ? { onProgress: progressEvents(id, onEvent) } : {}) });
}

/** The host's events of files that come. */
function progressEvents(name: string, onEvent: (event: object) => void): (progress: DownloadProgress) => void {
  const begun = new Map<string, DownloadProgress>();
  return (progress) => {
    const { file, doneBytes: loaded, ofBytes: total } = progress;
    if (!begun.has(file)) {
      onEvent({ status: "initiate", name, file });
      onEvent({ status: "download", name, file });
    }
    begun.set(file, progress);
    onEvent({ status: "progress", name, file, progress: total > 0 ? (100 * loaded) / total : 100, loaded, total });
    if (loaded >= total) onEvent({ status: "done", name, file });
  };
}

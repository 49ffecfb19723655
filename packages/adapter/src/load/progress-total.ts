import type { HostLoadOptions } from "../host/host.ts";

type OnEvent = NonNullable<HostLoadOptions["progress_callback"]>;

interface FileProgress {
  readonly status?: string;
  readonly name?: string;
  readonly file?: string;
  readonly loaded?: number;
  readonly total?: number;
}

/** Before each `progress` of a file a `progress_total` of all so far, as the newer host's `pipeline` tells it. */
export function withTotals(onEvent: OnEvent): OnEvent {
  const files: Record<string, { readonly loaded: number; readonly total: number }> = {};
  return (event) => {
    const { status, name, file, loaded = 0, total = 0 } = event as FileProgress;
    if (status === "progress" && file !== undefined) {
      files[file] = { loaded, total };
      const all = Object.values(files).reduce(
        (sum, one) => ({ loaded: sum.loaded + one.loaded, total: sum.total + one.total }),
        { loaded: 0, total: 0 },
      );
      const progress = all.total > 0 ? (100 * all.loaded) / all.total : 0;
      onEvent({ status: "progress_total", name, progress, ...all, files: { ...files } });
    }
    onEvent(event);
  };
}
